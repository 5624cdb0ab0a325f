//! Reading the address of a Redis.

use raglan_pipeline::{
    ports::{ErrorKind, PortError, PortResult},
    secret::Secret,
};
use redis::{
    ConnectionInfo, IntoConnectionInfo, RedisConnectionInfo, TlsMode, io::tcp::TcpSettings,
    sentinel::SentinelNodeConnectionInfo,
};

use super::error::not_connected;

/// What an address names.
#[derive(Debug, Clone)]
pub(super) enum Address {
    /// One server.
    Server(ConnectionInfo),
    /// The master of a service.
    Service {
        /// Who knows the master.
        sentinels: Vec<ConnectionInfo>,
        /// The service's name.
        name: String,
        /// How the master is spoken to.
        master: SentinelNodeConnectionInfo,
    },
    /// A cluster.
    Cluster {
        /// Nodes that know the others.
        nodes: Vec<ConnectionInfo>,
    },
}

/// The parts of `scheme://credentials@host,host/path/path?query`.
struct Parts<'a> {
    /// `redis` or `rediss`.
    scheme: &'static str,
    /// With its `@`, or empty.
    credentials: &'a str,
    hosts: Vec<&'a str>,
    path: Vec<&'a str>,
    query: &'a str,
}

impl Address {
    /// Reads an address. The error never repeats it.
    pub(super) fn parse(url: &Secret, tcp: &TcpSettings) -> PortResult<Self> {
        let url = url.expose();
        let (scheme, rest) = url.split_once("://").ok_or_else(|| invalid("it has no scheme"))?;
        match scheme {
            "redis+sentinel" => service(&Parts::of("redis", rest), tcp),
            "rediss+sentinel" => service(&Parts::of("rediss", rest), tcp),
            "redis+cluster" => cluster(&Parts::of("redis", rest), tcp),
            "rediss+cluster" => cluster(&Parts::of("rediss", rest), tcp),
            "redis" | "rediss" => Ok(Self::Server(server(url, tcp)?)),
            _ => Err(invalid(
                "its scheme is none of redis, rediss, redis+sentinel, rediss+sentinel, redis+cluster, rediss+cluster",
            )),
        }
    }
}

impl<'a> Parts<'a> {
    fn of(scheme: &'static str, rest: &'a str) -> Self {
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (credentials, hosts) = authority.split_at(authority.rfind('@').map_or(0, |at| at + 1));
        Self {
            scheme,
            credentials,
            hosts: hosts.split(',').collect(),
            path: path.split('/').filter(|part| !part.is_empty()).collect(),
            query,
        }
    }

    /// Each host as an address of its own.
    fn servers(
        &self,
        credentials: &str,
        usual_port: u16,
        tcp: &TcpSettings,
    ) -> PortResult<Vec<ConnectionInfo>> {
        let scheme = self.scheme;
        let address = |host: &&str| {
            // After the closing bracket of an IPv6 address, where there is one.
            let has_port = host.rsplit(']').next().is_some_and(|end| end.contains(':'));
            let port = if has_port { String::new() } else { format!(":{usual_port}") };
            server(&format!("{scheme}://{credentials}{host}{port}"), tcp)
        };
        self.hosts.iter().map(address).collect()
    }
}

fn server(url: &str, tcp: &TcpSettings) -> PortResult<ConnectionInfo> {
    let info = url.into_connection_info().map_err(not_connected)?;
    let redis = info.redis_settings().clone().set_lib_name("raglan", env!("CARGO_PKG_VERSION"));
    Ok(info.set_redis_settings(redis).set_tcp_settings(tcp.clone()))
}

fn service(parts: &Parts<'_>, tcp: &TcpSettings) -> PortResult<Address> {
    let (name, db) = match parts.path[..] {
        [name] => (name, 0),
        [name, db] => (name, db.parse().map_err(|_| invalid("its database is not a number"))?),
        _ => return Err(invalid("it names no service: redis+sentinel://host,host/service")),
    };
    // What stands before the `@` is for the servers; read by the driver, so that it is decoded as any other.
    let user = server(&format!("{}://{}localhost", parts.scheme, parts.credentials), tcp)?;
    let redis: RedisConnectionInfo = user.redis_settings().clone().set_db(db);
    let mut master =
        SentinelNodeConnectionInfo::default().set_tcp_settings(tcp.clone()).set_redis_connection_info(redis);
    if parts.scheme == "rediss" {
        master = master.set_tls_mode(TlsMode::Secure);
    }

    let (mut username, mut password) = (None, None);
    for (key, value) in url::form_urlencoded::parse(parts.query.as_bytes()) {
        match &*key {
            "sentinel_username" => username = Some(value),
            "sentinel_password" => password = Some(value),
            _ => return Err(invalid("after the ? only sentinel_username and sentinel_password are known")),
        }
    }
    let with_user = |sentinel: ConnectionInfo| {
        let mut redis = sentinel.redis_settings().clone();
        if let Some(username) = &username {
            redis = redis.set_username(username);
        }
        if let Some(password) = &password {
            redis = redis.set_password(password);
        }
        sentinel.set_redis_settings(redis)
    };
    let sentinels = parts.servers("", 26379, tcp)?.into_iter().map(with_user).collect();
    Ok(Address::Service { sentinels, name: name.to_owned(), master })
}

fn cluster(parts: &Parts<'_>, tcp: &TcpSettings) -> PortResult<Address> {
    if !parts.path.is_empty() || !parts.query.is_empty() {
        return Err(invalid("a cluster has no databases and no options: redis+cluster://host,host"));
    }
    Ok(Address::Cluster { nodes: parts.servers(parts.credentials, 6379, tcp)? })
}

fn invalid(why: &str) -> PortError {
    PortError::new(ErrorKind::Invalid, format!("the address of redis cannot be read: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> PortResult<Address> {
        Address::parse(&Secret::new(url), &TcpSettings::default())
    }

    fn addresses(infos: &[ConnectionInfo]) -> Vec<String> {
        infos.iter().map(|info| info.addr().to_string()).collect()
    }

    #[test]
    fn one_server() {
        let Ok(Address::Server(info)) = parse("rediss://user:p%40ss@cache.example:7000/3") else { panic!() };
        assert_eq!(info.addr().to_string(), "cache.example:7000");
        assert!(matches!(info.addr(), redis::ConnectionAddr::TcpTls { insecure: false, .. }));
        let redis = info.redis_settings();
        assert_eq!((redis.username(), redis.password(), redis.db()), (Some("user"), Some("p@ss"), 3));
    }

    #[test]
    fn sentinels_and_their_service() {
        let url = "redis+sentinel://user:p%2Fss@one,two:7001,[::1]/main/2?sentinel_password=s%26cret";
        let Ok(Address::Service { sentinels, name, master }) = parse(url) else { panic!() };
        assert_eq!(addresses(&sentinels), ["one:26379", "two:7001", "::1:26379"]);
        assert_eq!(name, "main");
        for sentinel in &sentinels {
            let redis = sentinel.redis_settings();
            assert_eq!((redis.username(), redis.password(), redis.db()), (None, Some("s&cret"), 0));
        }
        let shown = format!("{master:?}");
        assert!(shown.contains("db: 2") && shown.contains("user") && !shown.contains("p/ss"), "{shown}");
        let Ok(Address::Service { master, .. }) = parse("rediss+sentinel://one/main") else { panic!() };
        assert!(format!("{master:?}").contains("Secure"));
    }

    #[test]
    fn nodes_of_a_cluster() {
        let Ok(Address::Cluster { nodes }) = parse("rediss+cluster://:secret@a,b:7002/") else { panic!() };
        assert_eq!(addresses(&nodes), ["a:6379", "b:7002"]);
        assert!(nodes.iter().all(|node| node.redis_settings().password() == Some("secret")));
        assert!(nodes.iter().all(|node| matches!(node.addr(), redis::ConnectionAddr::TcpTls { .. })));
    }

    #[test]
    fn what_cannot_be_read_is_told_without_the_secrets_in_it() {
        let wrong = [
            "localhost:6379",
            "http://user:hunter2@localhost",
            "redis://user:hunter2@/",
            "redis://user:hunter2@localhost/no-number",
            "redis+sentinel://user:hunter2@one",
            "redis+sentinel://user:hunter2@one/main/x",
            "redis+sentinel://one/main?sentinel_pass=hunter2",
            "redis+sentinel://user:hunter2@one,/main",
            "redis+cluster://user:hunter2@one/3",
        ];
        for url in wrong {
            let error = parse(url).expect_err(url);
            assert_eq!(error.kind(), ErrorKind::Invalid, "{url}");
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
        }
    }
}
