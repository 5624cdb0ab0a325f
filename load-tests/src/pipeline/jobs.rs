//! Questions through the whole of Raglan: submitted over HTTP, followed over WebSockets to their final event.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow, bail};
use clap::Args;
use futures::{SinkExt, StreamExt, stream::SplitSink};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::{
    net::TcpStream,
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    task::{JoinError, JoinSet},
    time::{Instant as Moment, sleep_until},
};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{Message, client::IntoClientRequest},
};

use super::{is_final, question, submit};
use crate::{
    api::{Api, Server},
    process::processor_time_of,
    stats::percentile,
};

/// Submit questions and wait for the final event of each: jobs a second, how long a submit takes, and how long a job.
///
/// For the pipeline without models, ask a collection that is not there, with a pipeline whose mode is `keyword`.
#[derive(Debug, Args)]
pub struct Jobs {
    #[command(flatten)]
    server: Server,
    /// How many jobs.
    #[arg(long, default_value_t = 20_000)]
    jobs: usize,
    /// How many are on their way at once at most.
    #[arg(long, default_value_t = 256)]
    in_flight: usize,
    /// Submit so many a second, however long they take; as fast as they end where absent.
    #[arg(long)]
    rate: Option<f64>,
    /// The query pipeline.
    #[arg(long, default_value = "default")]
    pipeline: String,
    /// The collection.
    #[arg(long, default_value = "nothing")]
    collection: String,
    /// WebSockets that the jobs are followed on.
    #[arg(long, default_value_t = 8)]
    sockets: usize,
    /// Processes whose processor time is told, too.
    #[arg(long, num_args = 1..)]
    pids: Vec<u32>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// What was measured.
#[derive(Debug, Serialize)]
struct Report {
    jobs: usize,
    seconds: f64,
    jobs_per_s: f64,
    submit_p50_ms: f64,
    submit_p99_ms: f64,
    job_p50_ms: f64,
    job_p99_ms: f64,
    /// Ended in another way than with a result.
    not_succeeded: usize,
    /// Milliseconds of processor time for each job, of each process that was named and then of this one.
    processor_ms: Vec<f64>,
}

type Sink = SplitSink<WebSocketStream<MaybeTlsStream<TcpStream>>, Message>;

/// A job on its way. Its place is given to the next one when it has ended.
struct OnItsWay {
    begun: Instant,
    _place: OwnedSemaphorePermit,
}

/// Who waits for what. A final event may come before its submitter knows the id.
#[derive(Default)]
struct Ledger {
    open: HashMap<String, OnItsWay>,
    took_ms: Vec<f64>,
    not_succeeded: usize,
}

type Shared = Arc<Mutex<Ledger>>;

pub async fn run(jobs: &Jobs) -> anyhow::Result<()> {
    let api = Api::new(jobs.server.clone());
    let ledger = Shared::default();
    let mut readers = JoinSet::new();
    let mut subscribe = Vec::new();
    for _ in 0..jobs.sockets.max(1) {
        let (sink, stream) = connect(&jobs.server, "/v1/ws").await?.split();
        let (ask, asked) = mpsc::unbounded_channel();
        readers.spawn(write(sink, asked));
        readers.spawn(read(stream, ledger.clone()));
        subscribe.push(ask);
    }
    let pids: Vec<u32> = jobs.pids.iter().copied().chain([std::process::id()]).collect();
    let used = || pids.iter().map(|pid| processor_time_of(*pid)).collect::<anyhow::Result<Vec<_>>>();
    let used_before = used()?;
    let places = Arc::new(Semaphore::new(jobs.in_flight.max(1)));
    let begun = Instant::now();
    let mut submitting: JoinSet<anyhow::Result<f64>> = JoinSet::new();
    let mut submit_ms = Vec::with_capacity(jobs.jobs);
    for number in 0..jobs.jobs {
        if let Some(rate) = jobs.rate {
            #[allow(clippy::cast_precision_loss)] // a count
            let at = begun + Duration::from_secs_f64(number as f64 / rate);
            sleep_until(Moment::from_std(at)).await;
        }
        let place = tokio::select! {
            place = places.clone().acquire_owned() => place?,
            ended = readers.join_next() => return Err(too_soon(ended)),
        };
        let body = question(number, &jobs.pipeline, &jobs.collection);
        let (api, ledger) = (api.clone(), ledger.clone());
        let subscribe = subscribe[number % subscribe.len()].clone();
        submitting.spawn(async move {
            let begun = Instant::now();
            let id = submit(&api, &body).await?;
            let took = begun.elapsed().as_secs_f64() * 1_000.0;
            lock(&ledger).open.insert(id.clone(), OnItsWay { begun, _place: place });
            subscribe.send(id)?;
            Ok(took)
        });
        while let Some(submitted) = submitting.try_join_next() {
            submit_ms.push(submitted??);
        }
    }
    while let Some(submitted) = submitting.join_next().await {
        submit_ms.push(submitted??);
    }
    // All places are free again when all jobs have ended.
    let all = u32::try_from(jobs.in_flight.max(1))?;
    tokio::select! {
        free = places.acquire_many(all) => drop(free?),
        ended = readers.join_next() => return Err(too_soon(ended)),
    }
    let seconds = begun.elapsed().as_secs_f64();
    #[allow(clippy::cast_precision_loss)] // a count
    let each = |time: Duration| time.as_secs_f64() * 1_000.0 / jobs.jobs as f64;
    let used = used()?.into_iter().zip(used_before);
    let processor_ms = used.map(|(after, before)| each(after.saturating_sub(before))).collect();
    let ledger = lock(&ledger);
    let at = |values: &[f64], share| percentile(values, share).unwrap_or_default();
    #[allow(clippy::cast_precision_loss)] // a count
    let report = Report {
        jobs: jobs.jobs,
        seconds,
        jobs_per_s: jobs.jobs as f64 / seconds,
        submit_p50_ms: at(&submit_ms, 0.5),
        submit_p99_ms: at(&submit_ms, 0.99),
        job_p50_ms: at(&ledger.took_ms, 0.5),
        job_p99_ms: at(&ledger.took_ms, 0.99),
        not_succeeded: ledger.not_succeeded,
        processor_ms,
    };
    if jobs.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        println!(
            "raglan: {} jobs in {:.2} s, {:.0} jobs/s; submit p50 {:.2} ms, p99 {:.2} ms; job p50 {:.1} ms, p99 {:.1} ms; {} did not succeed",
            report.jobs,
            report.seconds,
            report.jobs_per_s,
            report.submit_p50_ms,
            report.submit_p99_ms,
            report.job_p50_ms,
            report.job_p99_ms,
            report.not_succeeded
        );
        for (pid, ms) in pids.iter().zip(&report.processor_ms) {
            println!("process {pid}: {ms:.3} ms of processor time for each job");
        }
    }
    Ok(())
}

/// Why a socket ended before its jobs.
fn too_soon(ended: Option<Result<anyhow::Result<()>, JoinError>>) -> anyhow::Error {
    match ended {
        Some(Ok(Err(error))) => error.context("a socket failed before its jobs had ended"),
        Some(Err(error)) => error.into(),
        Some(Ok(Ok(()))) | None => anyhow!("the server closed a socket before its jobs had ended"),
    }
}

/// Opens the WebSocket at a path.
pub(super) async fn connect(
    server: &Server,
    path: &str,
) -> anyhow::Result<WebSocketStream<MaybeTlsStream<TcpStream>>> {
    let url = format!("{}{path}", server.url.replacen("http", "ws", 1));
    let mut request = url.into_client_request()?;
    if let Some(key) = &server.key {
        request.headers_mut().insert("authorization", format!("Bearer {key}").parse()?);
    }
    Ok(connect_async(request).await.context("no WebSocket could be opened")?.0)
}

/// Subscribes to what is asked for; several at once where they come fast.
async fn write(mut sink: Sink, mut asked: mpsc::UnboundedReceiver<String>) -> anyhow::Result<()> {
    let mut ids = Vec::new();
    while asked.recv_many(&mut ids, 64).await > 0 {
        for id in ids.drain(..) {
            sink.feed(Message::text(json!({"op": "subscribe", "job_id": id, "after": 0}).to_string()))
                .await?;
        }
        sink.flush().await?;
    }
    Ok(())
}

/// As much of what the server says as is needed here: reading all of it would take the servers' time.
#[derive(Deserialize)]
struct Said<'a> {
    op: Option<&'a str>,
    #[serde(rename = "type")]
    kind: Option<&'a str>,
    job_id: Option<&'a str>,
}

async fn read(
    mut stream: impl StreamExt<Item = Result<Message, tokio_tungstenite::tungstenite::Error>> + Unpin,
    ledger: Shared,
) -> anyhow::Result<()> {
    while let Some(message) = stream.next().await {
        let Message::Text(text) = message? else { continue };
        let said: Said = serde_json::from_str(&text)?;
        if said.op == Some("error") {
            bail!("the server says: {text}");
        }
        let Some(kind) = said.kind.filter(|kind| is_final(kind)) else { continue };
        let mut ledger = lock(&ledger);
        if let Some(ended) = said.job_id.and_then(|id| ledger.open.remove(id)) {
            ledger.took_ms.push(ended.begun.elapsed().as_secs_f64() * 1_000.0);
            ledger.not_succeeded += usize::from(kind != "job.succeeded");
        }
    }
    Ok(())
}

/// The ledger is whole after every statement under the lock, a panic included.
fn lock(ledger: &Shared) -> std::sync::MutexGuard<'_, Ledger> {
    ledger.lock().unwrap_or_else(PoisonError::into_inner)
}
