//! `raglan serve`: everything in one process.

use std::{
    collections::BTreeMap, convert::Infallible, ffi::OsString, net::SocketAddr, path::PathBuf, sync::Arc,
};

use anyhow::{Context, bail};
use clap::Args;
use raglan_api::ApiKey;
use raglan_pipeline::{domain::Tenant, secret::Secret};
use rand::RngCore;
use tokio::{net::TcpListener, sync::mpsc, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};
use url::Url;

use super::process::{CLOSE, Signals, recorder, upkeep};
use crate::{
    client::{Api, Connection},
    compose::{Embedded, EmbeddedParts, Models},
    config::Config,
    folder::{Sync, watch},
    terminal::Stderr,
};

/// Run everything in one process, with nothing beside it.
#[derive(Debug, Args)]
pub struct Serve {
    /// Where data is kept, instead of the configured folder.
    #[arg(long)]
    pub data_dir: Option<PathBuf>,
    /// Where to listen, instead of the configured address; port 0 takes a free one.
    #[arg(long)]
    pub listen: Option<SocketAddr>,
    /// Folders and files to take in once the server is ready; what has changed since the last time is sent, what is gone is removed.
    #[arg(long, num_args = 1.., value_name = "PATH")]
    pub docs: Vec<PathBuf>,
    /// The collection for --docs.
    #[arg(long, default_value = "default")]
    pub collection: String,
    /// Go on following --docs.
    #[arg(long, requires = "docs")]
    pub watch: bool,
}

pub async fn run(mut config: Config, serve: Serve) -> anyhow::Result<()> {
    // Signals are caught from the first moment on: a stop during start-up is a stop too.
    let mut signals = Signals::new()?;
    if let Some(data_dir) = serve.data_dir.clone() {
        config.data_dir = data_dir;
    }
    check_docs(&serve.docs)?;
    let recorder = recorder()?;
    let listener = TcpListener::bind(config.server.listen)
        .await
        .with_context(|| format!("{} cannot be listened on", config.server.listen))?;
    let address = listener.local_addr()?;
    let own_key = own_key();
    let stop_api = CancellationToken::new();
    let started = async {
        let models = Models::load(&config.models, config.startup.wait_s).await?;
        let render = recorder.clone();
        Embedded::start(
            EmbeddedParts {
                config: config.clone(),
                models,
                own_keys: vec![ApiKey::from_plain("this process", Tenant::default(), own_key.expose())],
                metrics: Arc::new(move || render.render()),
            },
            stop_api.clone(),
        )
        .await
    };
    let mut embedded = tokio::select! {
        started = started => started?,
        () = signals.stop() => return Ok(()),
    };
    let router = std::mem::take(&mut embedded.router);
    let stop_http = CancellationToken::new();
    let http = tokio::spawn(raglan_api::serve(listener, router, stop_http.clone()));
    let mut beside = JoinSet::new();
    beside.spawn(upkeep(recorder, stop_api.clone()));
    // Requests are answered already, /readyz among them; ready is said when searches see all that the store holds.
    let stopped = tokio::select! {
        () = embedded.caught_up() => false,
        () = signals.stop() => true,
    };
    if !stopped {
        crate::print_line(&format!("ready http://{address}"))?;
    }
    let (taking_in, mut all_taken_in) = mpsc::channel::<Infallible>(1);
    for path in serve.docs.clone() {
        let connection = Connection { url: own_url(address)?, key: Some(own_key.clone()) };
        let memory =
            config.data_dir.join("sync").join(format!("{}.json", memory_name(&path, &serve.collection)));
        let sync = Sync::new(&Api::new(connection)?, &path, &serve.collection, "default", Some(memory));
        beside.spawn(follow(path, sync, serve.watch, taking_in.clone(), stop_api.clone()));
    }
    drop(taking_in);
    // Whoever asks sooner would be told that the documents say nothing.
    let stopped = stopped
        || tokio::select! {
            _ = all_taken_in.recv() => false,
            () = signals.stop() => true,
        };
    if !stopped {
        hint(address, &config);
        signals.stop().await;
    }
    info!("stopping");
    // No new work, then no new requests; streams end, so that their readers resume elsewhere.
    stop_api.cancel();
    stop_http.cancel();
    let closing = async {
        while beside.join_next().await.is_some() {}
        match http.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => warn!(%error, "server did not end cleanly"),
            Err(error) => warn!(%error, "server did not end cleanly"),
        }
    };
    let (closed, ()) = tokio::join!(tokio::time::timeout(CLOSE, closing), embedded.drain());
    if closed.is_err() {
        warn!("some connections were still open; closing them");
    }
    // What the last requests were promised needs the database.
    embedded.stop().await;
    info!("stopped");
    Ok(())
}

/// What is not there is a slip, and is told before anything else. Documents are named from their folder's own name on, so two folders of one name would
/// remove each other's documents.
fn check_docs(docs: &[PathBuf]) -> anyhow::Result<()> {
    let mut seen: BTreeMap<OsString, &PathBuf> = BTreeMap::new();
    for path in docs {
        let whole =
            path.canonicalize().with_context(|| format!("--docs {} cannot be read", path.display()))?;
        let Some(name) = whole.file_name() else { continue };
        if let Some(other) = seen.insert(name.to_owned(), path) {
            bail!(
                "--docs {} and --docs {} have the same name, and their documents would too; rename one, or take them in with \
                 `raglan ingest` into two collections",
                other.display(),
                path.display()
            );
        }
    }
    Ok(())
}

/// What to do next, for a person who sees the server start.
fn hint(address: SocketAddr, config: &Config) {
    let key = if config.auth.keys.is_empty() { "" } else { " -H 'authorization: Bearer YOUR-KEY'" };
    let mut out = Stderr::new();
    out.line("Ask it something:");
    out.line(&format!(
        "  curl -s http://{address}/v1/queries{key} -H 'content-type: application/json' -H 'prefer: wait=30' \
         -d '{{\"query\": \"How long are webhooks retried?\"}}'"
    ));
    let url =
        if config.server.listen.port() == 8765 { String::new() } else { format!(" --url http://{address}") };
    out.line(&format!("  raglan ask{url} \"How long are webhooks retried?\""));
    out.line(&format!(
        "or open http://{address}/ in a browser; the API is described at http://{address}/docs"
    ));
}

/// Takes in a path, lets go of `taking_in`, and follows the path where that is wanted.
async fn follow(
    path: PathBuf,
    mut sync: Sync,
    go_on: bool,
    taking_in: mpsc::Sender<Infallible>,
    stop: CancellationToken,
) {
    let first = tokio::select! {
        first = sync.run() => first,
        () = stop.cancelled() => return,
    };
    match first {
        Ok(None) => Stderr::new().line(&format!("{}: nothing has changed", path.display())),
        Ok(Some(_)) => {}
        Err(error) => error!(path = %path.display(), error = format!("{error:#}"), "documents not taken in"),
    }
    drop(taking_in);
    if go_on && let Err(error) = watch(&path, &mut sync, &stop).await {
        error!(path = %path.display(), error = format!("{error:#}"), "folder not followed");
    }
}

/// A name for the memory of a path and collection.
fn memory_name(path: &std::path::Path, collection: &str) -> String {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    raglan_pipeline::submit::request_hash(&[path.as_os_str().as_encoded_bytes(), collection.as_bytes()])
}

/// The address under which the process reaches itself.
fn own_url(address: SocketAddr) -> anyhow::Result<Url> {
    let host = match address {
        SocketAddr::V4(_) if address.ip().is_unspecified() => "127.0.0.1".to_owned(),
        SocketAddr::V6(_) if address.ip().is_unspecified() => "[::1]".to_owned(),
        SocketAddr::V4(v4) => v4.ip().to_string(),
        SocketAddr::V6(v6) => format!("[{}]", v6.ip()),
    };
    Ok(Url::parse(&format!("http://{host}:{}", address.port()))?)
}

/// A key for this process alone, never written anywhere.
fn own_key() -> Secret {
    let mut bytes = [0u8; 32];
    rand::rng().fill_bytes(&mut bytes);
    Secret::new(bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_of_one_name_and_those_that_are_not_there_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let paths = ["a/docs", "b/docs", "b/notes"].map(|path| folder.path().join(path));
        for path in &paths {
            std::fs::create_dir_all(path).unwrap();
        }
        let [a, b, notes] = paths;
        assert!(check_docs(&[a.clone(), notes.clone()]).is_ok());
        let error = check_docs(&[a.clone(), notes, b]).unwrap_err().to_string();
        assert!(error.contains("same name"), "{error}");
        assert!(check_docs(&[a.clone(), a]).is_err(), "the same folder twice");
        let error = check_docs(&[folder.path().join("a/dcos")]).unwrap_err().to_string();
        assert!(error.ends_with("dcos cannot be read"), "{error}");
    }
}
