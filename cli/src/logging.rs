//! The log: lines for a person on a terminal, JSON for a collector otherwise; always on standard error.

use std::io::IsTerminal;

use anyhow::Context;
use tracing_subscriber::EnvFilter;

use crate::config::{Log, LogFormat};

/// Begins the log. Libraries are quieter than Raglan by one level.
pub fn start(log: &Log) -> anyhow::Result<()> {
    let filter = if log.level.contains(['=', ',']) || log.level != "info" {
        log.level.clone()
    } else {
        // The hub client calls an error what is only one of several sources that cannot be reached; we tell what came of all.
        "info,tantivy=warn,sqlx=warn,hyper=warn,hf_hub=off".to_owned()
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
