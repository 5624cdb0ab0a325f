//! `raglan check`: the configuration and every part, in one report.

mod models;

use std::{collections::BTreeMap, path::Path};

use clap::Args;
use raglan_backends::generator::candle::CandleGenerator;
use reqwest::Method;
use serde::Serialize;

use crate::{
    client::{Api, Connection},
    compose,
    config::{self, Config, Generator},
};

/// Check the configuration and every part of it.
#[derive(Debug, Args)]
pub struct Check {
    /// Print the report as JSON.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum State {
    Ok,
    Warning,
    Problem,
}

#[derive(Debug, Serialize)]
struct Finding {
    part: String,
    state: State,
    detail: String,
}

/// The report so far.
#[derive(Default)]
struct Report(Vec<Finding>);

impl Report {
    fn add(&mut self, part: &str, state: State, detail: impl Into<String>) {
        self.0.push(Finding { part: part.to_owned(), state, detail: detail.into() });
    }
}

/// Checks everything; the exit code is 2 where there is a problem.
pub async fn run(
    file: Option<&Path>,
    env: &BTreeMap<String, String>,
    check: &Check,
) -> anyhow::Result<std::process::ExitCode> {
    let mut report = Report::default();
    match config::load(file, env) {
        Err(error) => {
            for problem in error.problems {
                report.add("configuration", State::Problem, problem);
            }
        }
        Ok(config) => {
            let from = file.map_or_else(|| "the defaults".to_owned(), |path| path.display().to_string());
            report.add("configuration", State::Ok, from);
            parts(&config, &mut report).await;
        }
    }
    let bad = report.0.iter().any(|finding| finding.state == State::Problem);
    if check.json {
        crate::print_json(&serde_json::json!({
            "ok": !bad,
            "findings": report.0,
            "configuration": config::redacted(file, env),
        }))?;
    } else {
        for Finding { part, state, detail } in &report.0 {
            let mark = match state {
                State::Ok => "ok     ",
                State::Warning => "warning",
                State::Problem => "PROBLEM",
            };
            crate::print_line(&format!(
                "{mark}  {part:<16} {}",
                detail.replace('\n', "\n                          ")
            ))?;
        }
    }
    Ok(if bad { std::process::ExitCode::from(2) } else { std::process::ExitCode::SUCCESS })
}

async fn parts(config: &Config, report: &mut Report) {
    data_dir(config, report);
    match tokio::net::TcpListener::bind(config.server.listen).await {
        Ok(_) => report.add("server.listen", State::Ok, config.server.listen.to_string()),
        Err(error) => {
            let detail = format!("{} cannot be listened on now: {error}", config.server.listen);
            report.add("server.listen", State::Warning, detail);
        }
    }
    models::embedding(&config.models, report).await;
    models::reranker(&config.models.reranker, report).await;
    for generator in &config.generators {
        let part = format!("generator {}", generator.name());
        match generator {
            Generator::Extractive(_) => {
                report.add(&part, State::Ok, "extractive: sentences of the documents")
            }
            Generator::Simulated(_) => {
                report.add(&part, State::Warning, "simulated: it writes no answers, only words at a rate");
            }
            Generator::Candle(settings) => match candle(settings, config).await {
                Ok(found) => report.add(&part, State::Ok, found),
                Err(error) => report.add(&part, State::Problem, format!("{error:#}")),
            },
            Generator::Openai(settings) => {
                // Any answer shows that somebody is there; what it says about models differs from server to server.
                let connection = Connection { url: settings.base_url.clone(), key: settings.api_key.clone() };
                let answered = match Api::new(connection) {
                    Ok(api) => {
                        let request =
                            api.request(Method::GET, "/models").timeout(std::time::Duration::from_secs(10));
                        request.send().await.map_err(|error| api.unreachable(&error).to_string())
                    }
                    Err(error) => Err(error.to_string()),
                };
                match answered {
                    Ok(answer) if answer.status() == 401 || answer.status() == 403 => {
                        report.add(&part, State::Problem, format!("{} refuses the key", settings.base_url));
                    }
                    Ok(answer) => {
                        report.add(
                            &part,
                            State::Ok,
                            format!("{} answers ({})", settings.base_url, answer.status()),
                        );
                    }
                    Err(error) => {
                        let first = error.lines().next().unwrap_or_default().to_owned();
                        report.add(&part, State::Warning, first);
                    }
                }
            }
        }
    }
}

async fn candle(settings: &config::Candle, config: &Config) -> anyhow::Result<String> {
    let folder = compose::language_model(&settings.model, &config.models).await?;
    let found = CandleGenerator::check(&settings.settings(&folder)).await?;
    Ok(format!("{found}, {}", folder.display()))
}

fn data_dir(config: &Config, report: &mut Report) {
    let there = config.data_dir.exists();
    match compose::lock(&config.data_dir) {
        Ok(lock) => {
            drop(lock);
            report.add("data_dir", State::Ok, config.data_dir.display().to_string());
        }
        Err(error) if there => report.add("data_dir", State::Warning, format!("{error:#}")),
        Err(error) => report.add("data_dir", State::Problem, format!("{error:#}")),
    }
    if !there {
        // Only looked at: a check leaves nothing behind.
        let _ = std::fs::remove_file(config.data_dir.join("lock"));
        let _ = std::fs::remove_dir(&config.data_dir);
    }
}
