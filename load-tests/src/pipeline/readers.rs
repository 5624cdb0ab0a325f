//! Many readers, each on a WebSocket of its own: what one costs, and whether each gets everything.

use std::{process::Stdio, sync::Arc, time::Duration};

use anyhow::{Context, ensure};
use clap::Args;
use futures::{StreamExt, TryStreamExt, stream};
use serde_json::Value;
use tokio::{
    process::Command,
    sync::{Barrier, mpsc},
    task::JoinSet,
    time::Instant,
};
use tokio_tungstenite::tungstenite::Message;

use super::{is_final, jobs::connect, question, submit};
use crate::{
    api::{Api, Server},
    process::{Memory, mib},
};

/// Submit jobs while no worker runs, follow each on a WebSocket of its own, then start the workers and read all to the end. Afterwards each job is
/// followed once more from the beginning, and the events must be the same.
#[derive(Debug, Args)]
pub struct Readers {
    #[command(flatten)]
    server: Server,
    /// How many readers, each with a job.
    #[arg(long, default_value_t = 5_000)]
    readers: usize,
    /// The process of the API, whose memory is told.
    #[arg(long)]
    pid: u32,
    /// What starts the workers; it is stopped in the end.
    #[arg(long)]
    workers: String,
    /// The query pipeline.
    #[arg(long, default_value = "default")]
    pipeline: String,
    /// The collection.
    #[arg(long, default_value = "nothing")]
    collection: String,
}

/// Connections that are opened at once, and readers that look once more at once.
const AT_ONCE: usize = 32;
/// How long all readers together may go without an event.
const SILENCE: Duration = Duration::from_secs(60);
/// How long the process is left alone before its memory is looked at.
const REST: Duration = Duration::from_secs(5);

pub async fn run(readers: &Readers) -> anyhow::Result<()> {
    let api = Api::new(readers.server.clone());
    let jobs: Vec<String> = stream::iter(0..readers.readers)
        .map(|number| {
            let (api, body) = (&api, question(number, &readers.pipeline, &readers.collection));
            async move { submit(api, &body).await }
        })
        .buffered(AT_ONCE)
        .try_collect()
        .await?;
    tokio::time::sleep(REST).await;
    let before = Memory::of(readers.pid)?.resident;
    println!("{} jobs wait; the API has {}", jobs.len(), mib(before));

    let (news, mut heard) = mpsc::unbounded_channel();
    let all = Arc::new(Barrier::new(jobs.len() + 1));
    let mut following = JoinSet::new();
    let opening = Arc::new(tokio::sync::Semaphore::new(AT_ONCE));
    for (number, job) in jobs.iter().enumerate() {
        let (server, path) = (readers.server.clone(), format!("/v1/jobs/{job}/ws"));
        let (news, all, opening) = (news.clone(), all.clone(), opening.clone());
        following.spawn(async move {
            let turn = opening.acquire_owned().await?;
            let mut socket = connect(&server, &path).await?;
            // Its first event tells that it is followed.
            let mut events = vec![next(&mut socket).await?.context("a socket ended before the job")?];
            drop(turn);
            all.wait().await;
            while let Some(event) = next(&mut socket).await? {
                events.push(event);
                news.send(())?;
            }
            anyhow::Ok((number, events))
        });
    }
    drop(news);
    tokio::select! {
        _ = all.wait() => {}
        failed = following.join_next() => {
            failed.context("there are no readers")???;
            anyhow::bail!("a reader ended before the workers were started");
        }
    }
    tokio::time::sleep(REST).await;
    let open = Memory::of(readers.pid)?.resident;
    println!("{} readers are there; the API has {}", jobs.len(), mib(open));
    let each = open.saturating_sub(before) / jobs.len() as u64;
    println!("that is {:.1} KiB for each", f64::from(u32::try_from(each)?) / 1_024.0);

    let begun = Instant::now();
    let mut workers = Command::new("sh")
        .args(["-c", &format!("exec {}", readers.workers)])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .context("the workers cannot be started")?;
    while let Ok(heard) = tokio::time::timeout(SILENCE, heard.recv()).await {
        if heard.is_none() {
            break;
        }
    }
    let took = begun.elapsed();
    ensure!(heard.is_closed() && heard.is_empty(), "{} readers still wait for something", following.len());
    let mut live = vec![Vec::new(); jobs.len()];
    while let Some(read) = following.join_next().await {
        let (number, events) = read??;
        live[number] = events;
    }
    println!("all was read {:.1} s after the workers were started", took.as_secs_f64());
    let peak = Memory::of(readers.pid)?.peak;
    println!("the API had {} at most", mib(peak));

    let again: Vec<Vec<Value>> = stream::iter(&jobs)
        .map(|job| async move {
            let mut socket = connect(&readers.server, &format!("/v1/jobs/{job}/ws")).await?;
            let mut events = Vec::new();
            while let Some(event) = next(&mut socket).await? {
                events.push(event);
            }
            anyhow::Ok(events)
        })
        .buffered(AT_ONCE)
        .try_collect()
        .await?;
    if let Some(pid) = workers.id() {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(pid)?);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM)?;
        workers.wait().await?;
    }
    let events: usize = live.iter().map(Vec::len).sum();
    let differ = live.iter().zip(&again).filter(|(live, again)| live != again).count();
    let unfinished = live
        .iter()
        .filter(|events| {
            !events.last().is_some_and(|event| is_final(event["type"].as_str().unwrap_or_default()))
        })
        .count();
    println!(
        "{events} events read; {unfinished} readers without an end; {differ} readers read something else than is kept"
    );
    ensure!(unfinished == 0 && differ == 0, "events were lost");
    Ok(())
}

/// The next event; none when the socket has ended in order.
async fn next(
    socket: &mut (impl StreamExt<Item = Result<Message, tokio_tungstenite::tungstenite::Error>> + Unpin),
) -> anyhow::Result<Option<Value>> {
    while let Some(message) = socket.next().await {
        match message? {
            Message::Text(text) => return Ok(Some(serde_json::from_str(&text)?)),
            Message::Close(_) => return Ok(None),
            _ => {}
        }
    }
    Ok(None)
}
