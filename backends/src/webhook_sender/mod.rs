//! Webhook senders.

mod address;
mod http;

pub use http::{HttpWebhookSender, SenderSettings, SetupError};
