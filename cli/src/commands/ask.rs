//! `raglan ask`: a question, its stages as they happen, the answer as it is written, the sources.

use std::io::{IsTerminal, Write};

use anyhow::bail;
use clap::Args;
use serde_json::{Map, Value, json};

use crate::{
    client::{Api, Follower, ServerEvent},
    terminal::{Stderr, plain, string},
};

/// Ask a question and read the answer as it is written.
#[derive(Debug, Args)]
pub struct Ask {
    /// The question.
    pub question: String,
    /// Where to look.
    #[arg(long, default_value = "default")]
    pub collection: String,
    /// Which query pipeline answers.
    #[arg(long, default_value = "default")]
    pub pipeline: String,
    /// How many passages the answer is written from.
    #[arg(long)]
    pub top_k: Option<usize>,
    /// Only documents with this metadata, KEY=VALUE; may be given more than once.
    #[arg(long = "filter", value_name = "KEY=VALUE")]
    pub filters: Vec<String>,
    /// Do the work even where the answer is in the cache.
    #[arg(long)]
    pub no_cache: bool,
    /// Print the finished job as JSON and nothing else.
    #[arg(long)]
    pub json: bool,
}

/// The body's `filter` from `KEY=VALUE` pairs; a value that is a number, true or false is taken as such.
pub fn filter(pairs: &[String]) -> anyhow::Result<Value> {
    let mut fields = Map::new();
    for pair in pairs {
        let Some((key, value)) = pair.split_once('=') else { bail!("--filter {pair:?}: must be KEY=VALUE") };
        let value = match serde_json::from_str(value) {
            Ok(scalar @ (Value::Number(_) | Value::Bool(_))) => scalar,
            _ => Value::String(value.to_owned()),
        };
        fields.insert(key.to_owned(), value);
    }
    Ok(Value::Object(fields))
}

pub async fn run(api: &Api, ask: Ask) -> anyhow::Result<()> {
    let mut body = json!({
        "query": ask.question,
        "collection": ask.collection,
        "pipeline": ask.pipeline,
        "filter": filter(&ask.filters)?,
        "priority": "interactive",
        "cache": if ask.no_cache { "bypass" } else { "use" },
    });
    if let Some(top_k) = ask.top_k {
        body["top_k"] = json!(top_k);
    }
    let job: Value = api.post("/v1/queries", &body).await?;
    let mut follower = Follower::new(api, string(&job, "job_id"));
    let mut screen = Screen::new(ask.json);
    while let Some(event) = follower.next().await? {
        if event.is_final() {
            return screen.end(event);
        }
        screen.show(&event)?;
    }
    bail!("the job's events ended without its result")
}

/// Stages go to standard error, the answer and its sources to standard output, so that `raglan ask … > answer.txt` holds just the answer.
struct Screen {
    quiet: bool,
    stages: Stderr,
    /// What has been printed of the answer.
    printed: String,
}

impl Screen {
    fn new(quiet: bool) -> Self {
        Self { quiet, stages: Stderr::new(), printed: String::new() }
    }

    fn show(&mut self, event: &ServerEvent) -> anyhow::Result<()> {
        if self.quiet {
            return Ok(());
        }
        match event.kind.as_str() {
            "job.queued" => self.stages.line("queued"),
            "job.retrieving" => self.stages.line("retrieving …"),
            "job.retrieved" => {
                let passages = event.data["passages"].as_array().map_or(0, Vec::len);
                self.stages.line(&format!("retrieved {passages} passages"));
                degraded(&event.data["degraded"], &mut self.stages);
            }
            "job.generating" => {
                self.void()?;
                self.stages.line(&format!("generating with {} …", plain(string(&event.data, "model"))));
            }
            "job.retrying" => {
                self.void()?;
                let cause = plain(string(&event.data, "cause"));
                self.stages.line(&format!("trying again: {cause}"));
            }
            "answer.delta" => self.print(string(&event.data, "text"))?,
            "stream.snapshot" => {
                let text = string(&event.data, "text");
                match text.strip_prefix(self.printed.as_str()) {
                    Some(rest) => self.print(rest)?,
                    None => {
                        self.void()?;
                        self.print(text)?;
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// What was printed does not count any more.
    fn void(&mut self) -> anyhow::Result<()> {
        if !std::mem::take(&mut self.printed).is_empty() {
            let mut out = std::io::stdout().lock();
            writeln!(out, "\n[…] the answer begins anew:")?;
        }
        Ok(())
    }

    fn print(&mut self, text: &str) -> anyhow::Result<()> {
        let text = plain(text);
        let mut out = std::io::stdout().lock();
        write!(out, "{text}")?;
        out.flush()?;
        self.printed.push_str(&text);
        Ok(())
    }

    fn end(mut self, event: ServerEvent) -> anyhow::Result<()> {
        let job = event.data;
        if self.quiet {
            let mut out = std::io::stdout().lock();
            writeln!(out, "{}", serde_json::to_string_pretty(&job)?)?;
            if event.kind != "job.succeeded" {
                std::process::exit(1);
            }
            return Ok(());
        }
        if event.kind != "job.succeeded" {
            let reason = job["error"]["message"].as_str().unwrap_or("it has no error");
            bail!("the job ended as {}: {}", string(&job, "status"), plain(reason));
        }
        let result = &job["result"];
        if self.printed.is_empty() {
            self.print(string(result, "answer"))?;
        }
        let mut out = std::io::stdout().lock();
        writeln!(out)?;
        let citations = result["citations"].as_array().map(Vec::as_slice).unwrap_or_default();
        if !citations.is_empty() {
            writeln!(out, "\nSources")?;
        }
        for citation in citations {
            let title = plain(string(citation, "title"));
            let place = citation["uri"].as_str().unwrap_or_else(|| string(citation, "external_id"));
            let place = plain(place);
            let (start, end) = (&citation["start"], &citation["end"]);
            writeln!(out, "  [{}] {title} · {place} · characters {start}–{end}", citation["marker"])?;
        }
        drop(out);
        degraded(&result["degraded"], &mut self.stages);
        if result["cached"] == true && std::io::stderr().is_terminal() {
            self.stages.line("(from the cache)");
        }
        Ok(())
    }
}

fn degraded(list: &Value, stages: &mut Stderr) {
    let parts: Vec<&str> = list.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if !parts.is_empty() {
        stages.line(&format!("degraded: {}", parts.join(", ")));
    }
}
