//! Webhook senders.

mod address;
mod check;
mod http;

pub use check::AddressCheck;
pub use http::{HttpWebhookSender, SenderSettings, SetupError};
