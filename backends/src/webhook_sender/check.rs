//! What a process needs that takes webhook addresses and sends nothing to them.

use async_trait::async_trait;
use ipnet::IpNet;
use raglan_pipeline::ports::{WebhookError, WebhookRequest, WebhookResponse, WebhookSender};
use url::Url;

use super::address::AddressGuard;

/// Checks addresses as [`HttpWebhookSender`](super::HttpWebhookSender) does, and has no secret to sign with: it sends nothing.
#[derive(Debug)]
pub struct AddressCheck(AddressGuard);

impl AddressCheck {
    /// Public addresses are right, and those in these ranges.
    #[must_use]
    pub fn new(allowed: Vec<IpNet>) -> Self {
        Self(AddressGuard::new(allowed))
    }
}

#[async_trait]
impl WebhookSender for AddressCheck {
    fn check(&self, url: &Url) -> Result<(), WebhookError> {
        Ok(self.0.check_url(url)?)
    }

    async fn send(&self, _: &WebhookRequest) -> Result<WebhookResponse, WebhookError> {
        Err(WebhookError::Failed("this process has no secret to sign webhooks with".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_checks_addresses_and_sends_nothing() {
        let check = AddressCheck::new(vec!["127.0.0.0/8".parse().unwrap()]);
        let [local, private] =
            ["http://127.0.0.1:9/", "http://10.0.0.1/"].map(|url| Url::parse(url).unwrap());
        assert_eq!(check.check(&local), Ok(()));
        assert!(matches!(check.check(&private), Err(WebhookError::Forbidden(_))));
        let request =
            WebhookRequest { url: local, id: "msg_1".to_owned(), timestamp: 0, body: String::new() };
        assert!(matches!(check.send(&request).await, Err(WebhookError::Failed(_))));
    }
}
