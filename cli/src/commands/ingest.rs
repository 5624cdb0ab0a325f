//! `raglan ingest`: files and folders into a collection.

use std::path::PathBuf;

use anyhow::bail;
use clap::Args;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::{
    client::Api,
    folder::{Sender, Sync, scan, summary, watch},
    terminal::{Bar, Stderr},
};

/// Take files and folders in.
#[derive(Debug, Args)]
pub struct Ingest {
    /// Files and folders.
    #[arg(required = true)]
    pub paths: Vec<PathBuf>,
    /// Where to.
    #[arg(long, default_value = "default")]
    pub collection: String,
    /// Which indexing pipeline.
    #[arg(long, default_value = "default")]
    pub pipeline: String,
    /// Follow the folder: new and changed files are taken in, removed ones removed, until Ctrl-C.
    #[arg(long)]
    pub watch: bool,
    /// Print the outcome as JSON.
    #[arg(long)]
    pub json: bool,
}

pub async fn run(api: &Api, ingest: Ingest) -> anyhow::Result<()> {
    if ingest.watch {
        return follow(api, &ingest).await;
    }
    let paths = ingest.paths.clone();
    let files = tokio::task::spawn_blocking(move || {
        let mut files = Vec::new();
        for path in &paths {
            files.extend(scan(path, &mut |problem| warn!(problem, "file passed over"))?.files);
        }
        anyhow::Ok(files)
    })
    .await??;
    if files.is_empty() {
        bail!(
            "there is no file with a known ending under the given paths (txt, md, html, pdf, docx, csv, json, …)"
        );
    }
    let mut bar = Bar::work("ingesting", files.len() as u64);
    let sender = Sender { api, collection: &ingest.collection, pipeline: &ingest.pipeline };
    let outcome = sender.send(&files, &mut bar).await?;
    bar.finish(&summary(&outcome, bar.elapsed()));
    if ingest.json {
        crate::print_json(&outcome)?;
    }
    // Some taken in, some not, is a success with remarks; none is not.
    if outcome.failed > 0 && outcome.failed == files.len() as u64 {
        bail!("no file could be taken in");
    }
    Ok(())
}

async fn follow(api: &Api, ingest: &Ingest) -> anyhow::Result<()> {
    let [root] = ingest.paths.as_slice() else {
        bail!("--watch follows one path; start one command for each")
    };
    let cancel = CancellationToken::new();
    let mut sync = Sync::new(api, root, &ingest.collection, &ingest.pipeline, None);
    sync.run().await?;
    Stderr::new().line(&format!("watching {} (Ctrl-C to stop)", root.display()));
    tokio::select! {
        watched = watch(root, &mut sync, &cancel) => watched,
        _ = tokio::signal::ctrl_c() => Ok(()),
    }
}
