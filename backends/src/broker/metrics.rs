//! What a queue reports, whichever broker keeps it.

use metrics::{Counter, Gauge, counter, gauge};
use raglan_pipeline::{domain::Stage, ports::Depth};

/// Handles to one queue's metrics.
pub(super) struct QueueMetrics {
    pub(super) published: Counter,
    pub(super) refused: Counter,
    pub(super) acked: Counter,
    pub(super) nacked: Counter,
    pub(super) dead: Counter,
    ready_now: Gauge,
    delayed_now: Gauge,
    unsettled_now: Gauge,
    dead_now: Gauge,
}

impl QueueMetrics {
    pub(super) fn new(stage: Stage) -> Self {
        let queue = stage.as_str();
        let depth = |state: &'static str| gauge!("raglan_queue_messages", "queue" => queue, "state" => state);
        Self {
            published: counter!("raglan_queue_published_total", "queue" => queue),
            refused: counter!("raglan_queue_refused_total", "queue" => queue),
            acked: counter!("raglan_queue_acked_total", "queue" => queue),
            nacked: counter!("raglan_queue_nacked_total", "queue" => queue),
            dead: counter!("raglan_queue_dead_total", "queue" => queue),
            ready_now: depth("ready"),
            delayed_now: depth("delayed"),
            unsettled_now: depth("unsettled"),
            dead_now: depth("dead"),
        }
    }

    #[allow(clippy::cast_precision_loss, reason = "no queue holds 2^52 messages")]
    pub(super) fn set_depth(&self, depth: Depth) {
        self.ready_now.set(depth.ready as f64);
        self.delayed_now.set(depth.delayed as f64);
        self.unsettled_now.set(depth.unsettled as f64);
        self.dead_now.set(depth.dead as f64);
    }
}
