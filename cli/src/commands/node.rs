//! A process of the distributed shape, whatever it does.

use std::{net::SocketAddr, sync::Arc};

use anyhow::Context;
use raglan_workers::Role;
use tokio::{net::TcpListener, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::process::{CLOSE, Signals, recorder, upkeep};
use crate::{
    compose::{Distributed, DistributedParts},
    config::Config,
};

/// What a process does.
pub struct Node {
    pub config: Config,
    /// Its worker roles.
    pub roles: Vec<Role>,
    /// Whether it serves the API.
    pub api: bool,
    /// Where it listens; the API, or health and metrics alone.
    pub listen: Option<SocketAddr>,
}

/// Runs it until it is told to stop.
pub async fn run(node: Node) -> anyhow::Result<()> {
    let Node { config, roles, api, listen } = node;
    // Signals are caught from the first moment on: a stop during start-up is a stop too.
    let mut signals = Signals::new()?;
    let recorder = recorder()?;
    let listener = match listen {
        Some(address) => Some(
            TcpListener::bind(address).await.with_context(|| format!("{address} cannot be listened on"))?,
        ),
        None => None,
    };
    let address = listener.as_ref().map(TcpListener::local_addr).transpose()?;
    let stop_api = CancellationToken::new();
    let render = recorder.clone();
    let names: Vec<&str> = roles.iter().map(|role| role.as_str()).collect();
    let parts =
        DistributedParts { config, roles: roles.clone(), api, metrics: Arc::new(move || render.render()) };
    let mut distributed = tokio::select! {
        started = Distributed::start(parts, stop_api.clone()) => started?,
        () = signals.stop() => return Ok(()),
    };
    let stop_http = CancellationToken::new();
    let mut beside = JoinSet::new();
    beside.spawn(upkeep(recorder, stop_api.clone()));
    if let Some(listener) = listener {
        let router = std::mem::take(&mut distributed.router);
        let stop = stop_http.clone();
        beside.spawn(async move {
            if let Err(error) = raglan_api::serve(listener, router, stop).await {
                warn!(%error, "server did not end cleanly");
            }
        });
    }
    // Requests are answered already, /readyz among them; ready is said when this process takes work.
    let stopped = tokio::select! {
        begun = distributed.begin() => { begun?; false }
        () = signals.stop() => true,
    };
    if !stopped {
        match address {
            Some(address) if api => crate::print_line(&format!("ready http://{address}"))?,
            Some(address) => crate::print_line(&format!("ready {} http://{address}", names.join(",")))?,
            None => crate::print_line(&format!("ready {}", names.join(",")))?,
        }
        signals.stop().await;
    }
    info!("stopping");
    // No new work, then no new requests; streams end, so that their readers resume elsewhere.
    stop_api.cancel();
    stop_http.cancel();
    let closing = async { while beside.join_next().await.is_some() {} };
    let (closed, ()) = tokio::join!(tokio::time::timeout(CLOSE, closing), distributed.drain());
    if closed.is_err() {
        warn!("some connections were still open; closing them");
    }
    // What the last requests were promised needs the servers.
    distributed.stop().await;
    info!("stopped");
    Ok(())
}
