//! The webhook role: one delivery, one try.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use raglan_pipeline::{delivery::DeliveryStage, message::Message, ports::Delivered};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use crate::{consume::Handler, job::settle};

/// Tries deliveries.
pub(crate) struct WebhookWorker {
    pub(crate) stage: Arc<DeliveryStage>,
}

/// How long a delivery waits whose record could not be read or written.
const STORE_RETRY: Duration = Duration::from_secs(2);

#[async_trait]
impl Handler for WebhookWorker {
    async fn handle(&self, delivered: Box<dyn Delivered>, abandon: CancellationToken) {
        let Message::Delivery { delivery_id } = delivered.envelope().message else {
            error!(message = ?delivered.envelope().message, "message on the webhook queue dropped");
            settle(delivered.ack().await);
            return;
        };
        let tried = tokio::select! {
            tried = self.stage.attempt(delivery_id) => tried,
            () = abandon.cancelled() => {
                settle(delivered.hand_back().await);
                return;
            }
        };
        settle(match tried {
            Ok(()) => delivered.ack().await,
            Err(error) => {
                warn!(%delivery_id, %error, "delivery's record not read or written");
                delivered.nack(STORE_RETRY, &error.to_string()).await
            }
        });
    }
}
