//! What the parts that call other servers over HTTP share.

use std::{error::Error, time::Duration};

use reqwest::header::{HeaderMap, RETRY_AFTER};

/// What this program calls itself to other servers.
pub(crate) const USER_AGENT: &str = concat!("raglan/", env!("CARGO_PKG_VERSION"));

/// The delay of a `Retry-After` header: seconds, or an HTTP date counted from now (RFC 9110, 10.2.3).
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = value.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let at = chrono::DateTime::parse_from_rfc2822(value).ok()?;
    Some((at.to_utc() - chrono::Utc::now()).to_std().unwrap_or(Duration::ZERO))
}

/// An error in words with its causes, but without the URL, which may hold what is nobody's business.
pub(crate) fn describe(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !words.ends_with(&next) {
            words = format!("{words}: {next}");
        }
        cause = error.source();
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(value: &str) -> Option<Duration> {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, value.parse().unwrap());
        retry_after(&headers)
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        assert_eq!(parse(" 120 "), Some(Duration::from_secs(120)));
        assert_eq!(parse("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::ZERO));
        let in_an_hour =
            (chrono::Utc::now() + chrono::Duration::hours(1)).format("%a, %d %b %Y %H:%M:%S GMT");
        let delay = parse(&in_an_hour.to_string()).unwrap();
        assert!((3000..=3600).contains(&delay.as_secs()), "{delay:?}");
        assert_eq!(parse("soon"), None);
        assert_eq!(parse("-5"), None);
        assert_eq!(retry_after(&HeaderMap::new()), None);
    }
}
