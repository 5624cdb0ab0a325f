//! Which addresses a webhook may go to: public ones, and what the operator allows.
//!
//! Names are checked when they are resolved for a connection, so that the address that was checked is the one that is
//! connected to; what a name resolved to before means nothing.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use async_trait::async_trait;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use raglan_pipeline::ports::WebhookError;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Url};

/// IPv4 ranges that are not the public internet: the entries of the IANA special-purpose registry, and multicast.
const SPECIAL_V4: [(Ipv4Addr, u8, &str); 16] = [
    (Ipv4Addr::new(0, 0, 0, 0), 8, "unspecified"),
    (Ipv4Addr::new(10, 0, 0, 0), 8, "private"),
    (Ipv4Addr::new(100, 64, 0, 0), 10, "shared (carrier-grade NAT)"),
    (Ipv4Addr::new(127, 0, 0, 0), 8, "loopback"),
    (Ipv4Addr::new(169, 254, 0, 0), 16, "link-local or cloud metadata"),
    (Ipv4Addr::new(172, 16, 0, 0), 12, "private"),
    (Ipv4Addr::new(192, 0, 0, 0), 24, "reserved"),
    (Ipv4Addr::new(192, 0, 2, 0), 24, "documentation"),
    (Ipv4Addr::new(192, 31, 196, 0), 24, "reserved"),
    (Ipv4Addr::new(192, 52, 193, 0), 24, "reserved"),
    (Ipv4Addr::new(192, 88, 99, 0), 24, "reserved"),
    (Ipv4Addr::new(192, 168, 0, 0), 16, "private"),
    (Ipv4Addr::new(198, 18, 0, 0), 15, "benchmarking"),
    (Ipv4Addr::new(198, 51, 100, 0), 24, "documentation"),
    (Ipv4Addr::new(203, 0, 113, 0), 24, "documentation"),
    // Multicast (224/4) and reserved with broadcast (240/4).
    (Ipv4Addr::new(224, 0, 0, 0), 3, "multicast or reserved"),
];

/// Ranges within the global unicast space of IPv6 (2000::/3) that are not the public internet.
const SPECIAL_V6: [(Ipv6Addr, u8, &str); 3] = [
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23, "reserved (Teredo and others)"),
    (Ipv6Addr::new(0x2001, 0x0db8, 0, 0, 0, 0, 0, 0), 32, "documentation"),
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20, "documentation"),
];

const GLOBAL_V6: (Ipv6Addr, u8) = (Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3);

/// Why an address is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct Refused(String);

impl From<Refused> for WebhookError {
    fn from(refused: Refused) -> Self {
        Self::Forbidden(refused.0)
    }
}

/// Decides which addresses may be called.
#[derive(Debug, Clone, Default)]
pub(super) struct AddressGuard {
    allowed: Arc<[IpNet]>,
}

impl AddressGuard {
    pub(super) fn new(allowed: Vec<IpNet>) -> Self {
        Self { allowed: allowed.into() }
    }

    /// Checks all of a URL that can be checked without resolving its name.
    pub(super) fn check_url(&self, url: &Url) -> Result<(), Refused> {
        if !matches!(url.scheme(), "http" | "https") {
            return Err(Refused(format!("its scheme is {}, not http or https", url.scheme())));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Refused("it holds a user name or password".to_owned()));
        }
        match url.host() {
            None => Err(Refused("it has no host".to_owned())),
            Some(Host::Ipv4(ip)) => self.check_ip(ip.into()),
            Some(Host::Ipv6(ip)) => self.check_ip(ip.into()),
            Some(Host::Domain(name)) => {
                let name = name.trim_end_matches('.');
                let local = name == "localhost" || name.ends_with(".localhost");
                if local { self.check_ip(Ipv4Addr::LOCALHOST.into()) } else { Ok(()) }
            }
        }
    }

    /// Checks one address.
    pub(super) fn check_ip(&self, ip: IpAddr) -> Result<(), Refused> {
        // Allowing an IPv4 range allows it in its IPv6 dress too.
        let inner = match ip {
            IpAddr::V6(v6) => embedded_v4(v6).map(IpAddr::V4),
            IpAddr::V4(_) => None,
        };
        if self.allowed.iter().any(|net| net.contains(&ip) || inner.is_some_and(|inner| net.contains(&inner)))
        {
            return Ok(());
        }
        match special(ip) {
            Some(kind) => Err(Refused(format!("{ip} is a {kind} address"))),
            None => Ok(()),
        }
    }
}

/// What kind of special address it is; none for a public one.
fn special(ip: IpAddr) -> Option<&'static str> {
    match ip {
        IpAddr::V4(ip) => SPECIAL_V4
            .into_iter()
            .find(|(net, bits, _)| Ipv4Net::new_assert(*net, *bits).contains(&ip))
            .map(|(_, _, kind)| kind),
        IpAddr::V6(ip) => {
            // An IPv4 address in an IPv6 one reaches where the IPv4 address reaches.
            if let Some(inner) = embedded_v4(ip) {
                return special(inner.into());
            }
            if !Ipv6Net::new_assert(GLOBAL_V6.0, GLOBAL_V6.1).contains(&ip) {
                return Some("local or reserved");
            }
            SPECIAL_V6
                .into_iter()
                .find(|(net, bits, _)| Ipv6Net::new_assert(*net, *bits).contains(&ip))
                .map(|(_, _, kind)| kind)
        }
    }
}

/// The IPv4 address inside an IPv6 one: mapped (`::ffff:0:0/96`), compatible (`::/96`), NAT64 (`64:ff9b::/96`) and 6to4 (`2002::/16`).
fn embedded_v4(ip: Ipv6Addr) -> Option<Ipv4Addr> {
    let s = ip.segments();
    let v4 = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        Ipv4Addr::new(a, b, c, d)
    };
    match s {
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low] | [0x0064, 0xff9b, 0, 0, 0, 0, high, low] => {
            Some(v4(high, low))
        }
        [0x2002, high, low, ..] => Some(v4(high, low)),
        _ => None,
    }
}

/// Asks for the addresses of a name.
#[async_trait]
pub(super) trait Lookup: Send + Sync {
    async fn lookup(&self, host: &str) -> io::Result<Vec<IpAddr>>;
}

/// The system's resolver.
pub(super) struct SystemLookup;

#[async_trait]
impl Lookup for SystemLookup {
    async fn lookup(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        Ok(tokio::net::lookup_host((host, 0)).await?.map(|address| address.ip()).collect())
    }
}

/// Resolves names for connections and refuses a name with any address that may not be called.
pub(super) struct GuardedResolver {
    pub(super) guard: AddressGuard,
    pub(super) lookup: Arc<dyn Lookup>,
}

impl Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let (guard, lookup) = (self.guard.clone(), Arc::clone(&self.lookup));
        Box::pin(async move {
            let addresses = lookup.lookup(name.as_str()).await?;
            for ip in &addresses {
                guard.check_ip(*ip)?;
            }
            // The port comes from the URL.
            let addresses: Addrs = Box::new(addresses.into_iter().map(|ip| SocketAddr::new(ip, 0)));
            Ok(addresses)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(guard: &AddressGuard, url: &str) -> Result<(), Refused> {
        guard.check_url(&Url::parse(url).unwrap())
    }

    #[test]
    fn only_public_addresses_pass() {
        let guard = AddressGuard::default();
        for host in [
            "8.8.8.8",
            "1.1.1.1",
            "93.184.215.14",
            "100.63.255.255",
            "100.128.0.1",
            "172.15.0.1",
            "172.32.0.1",
            "198.17.0.1",
            "223.255.255.255",
            "[2606:4700:4700::1111]",
            "[2a00:1450:4001:80b::200e]",
            "[2002:808:808::1]",
            "[64:ff9b::808:808]",
            "[::ffff:8.8.8.8]",
            "example.com",
            "hooks.example.com.",
            "xn--bcher-kva.example",
        ] {
            assert_eq!(check(&guard, &format!("https://{host}/hook")), Ok(()), "{host}");
        }
        for host in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.255.0.9",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.8",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.7",
            "203.0.113.7",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            // Other ways to write them.
            "2130706433",
            "0x7f000001",
            "0x7f.1",
            "0177.0.0.1",
            "127.1",
            "127.0.0.1.",
            "0",
            "localhost",
            "LOCALHOST.",
            "a.localhost",
            "%31%32%37.0.0.1",
            "①②⑦.0.0.1",
            // IPv6, and IPv4 in IPv6.
            "[::]",
            "[::1]",
            "[fe80::1]",
            "[fec0::1]",
            "[fc00::1]",
            "[fd00:ec2::254]",
            "[ff02::1]",
            "[2001:db8::1]",
            "[3fff::1]",
            "[100::1]",
            "[2001::1]",
            "[2001:10::1]",
            "[::ffff:127.0.0.1]",
            "[::ffff:169.254.169.254]",
            "[::127.0.0.1]",
            "[::10.0.0.1]",
            "[64:ff9b::a00:1]",
            "[64:ff9b:1::808:808]",
            "[2002:7f00:1::]",
            "[2002:c0a8:101::1]",
            "[4000::1]",
            "[5f00::1]",
        ] {
            let result = check(&guard, &format!("http://{host}/hook"));
            assert!(result.is_err(), "{host} was let through");
        }
    }

    #[test]
    fn a_range_that_the_operator_allows_passes_in_any_dress() {
        let guard = AddressGuard::new(vec!["10.1.0.0/16".parse().unwrap(), "fd00:1::/32".parse().unwrap()]);
        for host in ["10.1.2.3", "[::ffff:10.1.2.3]", "[fd00:1::5]"] {
            assert_eq!(check(&guard, &format!("http://{host}/")), Ok(()), "{host}");
        }
        for host in ["10.2.0.1", "[::ffff:10.2.0.1]", "[fd00:2::5]", "localhost"] {
            assert!(check(&guard, &format!("http://{host}/")).is_err(), "{host}");
        }
    }

    #[test]
    fn only_plain_http_addresses_pass() {
        let guard = AddressGuard::default();
        for url in [
            "ftp://example.com/",
            "file:///etc/passwd",
            "https://user@example.com/",
            "https://:pw@example.com/",
            "data:,x",
        ] {
            assert!(check(&guard, url).is_err(), "{url}");
        }
    }
}
