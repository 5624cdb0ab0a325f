//! The log: lines for a person on a terminal, JSON for a collector otherwise; always on standard error.

use std::io::IsTerminal;

use anyhow::Context;
use tracing_subscriber::EnvFilter;

use crate::config::{Log, LogFormat};

/// Begins the log. Libraries are quieter than Raglan by one level.
pub fn start(log: &Log) -> anyhow::Result<()> {
    // Two libraries call an error what is none: the hub client one of several sources that cannot be reached, the RabbitMQ client a queue
    // that is looked for and not there. We tell what came of it.
    let filter = match log.level.as_str() {
        "info" => "info,tantivy=warn,sqlx=warn,hyper=warn,hf_hub=off,lapin=off".to_owned(),
        "warn" | "error" => format!("{},hf_hub=off,lapin=off", log.level),
        other => other.to_owned(),
    };
    let filter =
        EnvFilter::try_new(&filter).with_context(|| format!("log.level: {filter:?} is no log filter"))?;
    let terminal = std::io::stderr().is_terminal();
    let json = match log.format {
        LogFormat::Json => true,
        LogFormat::Text => false,
        LogFormat::Auto => !terminal,
    };
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if json {
        builder.json().init();
    } else {
        builder.with_ansi(terminal).with_target(false).compact().init();
    }
    Ok(())
}
