//! What commands that serve have in common: signals, metrics, the way to stop.

use std::{io::IsTerminal, time::Duration};

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tokio_util::sync::CancellationToken;

use crate::terminal::Stderr;

/// How long streams and requests may take to end once the server stops.
pub const CLOSE: Duration = Duration::from_secs(5);

/// Keeps what is measured.
pub fn recorder() -> anyhow::Result<PrometheusHandle> {
    // Seconds; wide enough for a cached search and for a long ingestion.
    let buckets =
        [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0];
    Ok(PrometheusBuilder::new().set_buckets(&buckets)?.install_recorder()?)
}

/// Keeps the recorder's memory bounded.
pub async fn upkeep(recorder: PrometheusHandle, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(Duration::from_secs(5)) => recorder.run_upkeep(),
        }
    }
}

/// SIGTERM and Ctrl-C. A second one while the first is being obeyed ends the process at once.
pub struct Signals {
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
}

impl Signals {
    /// Catches them from now on.
    pub fn new() -> anyhow::Result<Self> {
        Ok(Self {
            #[cfg(unix)]
            terminate: tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?,
        })
    }

    /// Returns when the process is to stop.
    pub async fn stop(&mut self) {
        #[cfg(unix)]
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        }
        #[cfg(not(unix))]
        let _ = tokio::signal::ctrl_c().await;
        tokio::spawn(async {
            if tokio::signal::ctrl_c().await.is_ok() {
                if std::io::stderr().is_terminal() {
                    Stderr::new().line("stopping at once; what was running is taken up at the next start");
                }
                std::process::exit(130);
            }
        });
    }
}
