//! Following a folder.

use std::{path::Path, time::Duration};

use anyhow::Context;
use notify::RecursiveMode;
use notify_debouncer_full::{DebounceEventResult, new_debouncer};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::Sync;

/// Changes that come within this time are one.
const QUIET: Duration = Duration::from_millis(500);

/// Looks without being told, for file systems that tell nothing (network mounts).
const RELOOK: Duration = Duration::from_secs(60);

/// Syncs whenever something under `root` changes, until cancelled. A sync that fails is tried again with the next look.
pub async fn watch(root: &Path, sync: &mut Sync, cancel: &CancellationToken) -> anyhow::Result<()> {
    let (sender, mut changes) = mpsc::channel(1);
    let first_look = sender.clone();
    let mut debouncer = new_debouncer(QUIET, None, move |seen: DebounceEventResult| {
        // Reading a folder, as a look does, is no change of it.
        if seen.is_ok_and(|events| events.iter().all(|event| event.kind.is_access())) {
            return;
        }
        // One change waiting is enough: a look sees all.
        let _ = sender.try_send(());
    })
    .context("the folder cannot be watched")?;
    debouncer
        .watch(root, RecursiveMode::Recursive)
        .with_context(|| format!("{} cannot be watched", root.display()))?;
    // What changed before the watch began was told by nobody.
    let _ = first_look.try_send(());
    loop {
        tokio::select! {
            () = cancel.cancelled() => return Ok(()),
            _ = changes.recv() => {}
            () = tokio::time::sleep(RELOOK) => {}
        }
        if let Err(error) = sync.run().await {
            warn!(error = format!("{error:#}"), "folder not synced; trying again");
        }
    }
}
