//! Opening connections, whatever kind of Redis it is.

use std::time::Duration;

use raglan_pipeline::ports::PortResult;
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionInfo, ErrorKind as RedisErrorKind, FromRedisValue,
    ProtocolVersion, RedisError, RedisResult, ScriptInvocation,
    aio::{AsyncPushSender, MultiplexedConnection},
    cluster::{ClusterClient, ClusterClientBuilder},
    cluster_async::ClusterConnection,
    cluster_routing::{RoutingInfo, SingleNodeRoutingInfo},
    io::tcp::{TcpSettings, socket2::TcpKeepalive},
    sentinel::Sentinel,
};

use super::{address::Address, error::answered, settings::RedisSettings};

/// A connection whose other side says nothing for so long while it should is given up by the system.
const SILENCE: Duration = Duration::from_secs(10);
/// How many commands of one connection wait to be written before those who send more wait too.
const UNSENT_COMMANDS: usize = 1_024;
/// How often a command is sent again when a cluster says that its slot has moved or is moving.
const CLUSTER_RETRIES: u32 = 3;

/// What connections are opened to.
pub(super) struct Target {
    address: Address,
    cluster: Option<ClusterClient>,
    connect_timeout: Duration,
    /// What connections are called, as `CLIENT LIST` shows it.
    name: String,
}

/// A connection that any number of callers use at once.
#[derive(Clone)]
pub(super) enum Connection {
    /// To one server.
    Server(MultiplexedConnection),
    /// To all nodes of a cluster; it follows changes of the cluster by itself.
    Cluster(ClusterConnection),
}

impl Target {
    pub(super) fn new(settings: &RedisSettings) -> PortResult<Self> {
        let tcp = TcpSettings::default()
            .set_nodelay(true)
            .set_keepalive(TcpKeepalive::new().with_time(SILENCE).with_interval(SILENCE / 3));
        #[cfg(target_os = "linux")]
        let tcp = tcp.set_user_timeout(SILENCE);
        let address = Address::parse(&settings.url, &tcp)?;
        let cluster = match &address {
            Address::Cluster { nodes } => {
                let builder = ClusterClientBuilder::new(nodes.iter().cloned())
                    .retries(CLUSTER_RETRIES)
                    .min_retry_wait(10)
                    .max_retry_wait(100)
                    .connection_timeout(settings.connect_timeout)
                    .response_timeout(settings.command_timeout)
                    // Each call as a whole has its limit already.
                    .overall_response_timeout(None)
                    .tcp_settings(tcp);
                Some(builder.build().map_err(answered)?)
            }
            Address::Server(_) | Address::Service { .. } => None,
        };
        Ok(Self {
            address,
            cluster,
            connect_timeout: settings.connect_timeout,
            name: settings.prefix.clone(),
        })
    }

    /// Whether its address is that of a cluster.
    pub(super) fn is_cluster(&self) -> bool {
        self.cluster.is_some()
    }

    /// Opens a connection for commands.
    pub(super) async fn connect(&self) -> RedisResult<Connection> {
        self.in_time(async {
            if let Some(cluster) = &self.cluster {
                return Ok(Connection::Cluster(cluster.get_async_connection().await?));
            }
            let client = Client::open(self.server(0).await?)?;
            let mut connection = client.get_multiplexed_async_connection_with_config(&config()).await?;
            set_name(&mut connection, &format!("{}:commands", self.name)).await?;
            Ok(Connection::Server(connection))
        })
        .await
    }

    /// Opens a connection for subscriptions, whose messages go to `pushes`. Of a cluster it goes to one node, to another one with each `attempt`: a
    /// message that is published anywhere in a cluster is heard everywhere.
    pub(super) async fn subscriber(
        &self,
        attempt: usize,
        pushes: impl AsyncPushSender,
    ) -> RedisResult<MultiplexedConnection> {
        self.in_time(async {
            let server = self.server(attempt).await?;
            // Only this protocol has subscriptions and answers on one connection.
            let redis = server.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
            let client = Client::open(server.set_redis_settings(redis))?;
            let config = config().set_push_sender(pushes);
            let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
            set_name(&mut connection, &format!("{}:events", self.name)).await?;
            Ok(connection)
        })
        .await
    }

    /// The server to connect to now.
    async fn server(&self, attempt: usize) -> RedisResult<ConnectionInfo> {
        match &self.address {
            Address::Server(info) => Ok(info.clone()),
            Address::Service { sentinels, name, master } => {
                let mut sentinel = Sentinel::build(sentinels.clone())?;
                let client = sentinel.async_master_for(name, Some(master)).await?;
                Ok(client.get_connection_info().clone())
            }
            Address::Cluster { nodes } => nodes
                .get(attempt % nodes.len().max(1))
                .cloned()
                .ok_or_else(|| (RedisErrorKind::InvalidClientConfig, "the cluster has no nodes").into()),
        }
    }

    async fn in_time<T>(&self, opening: impl Future<Output = RedisResult<T>>) -> RedisResult<T> {
        match tokio::time::timeout(self.connect_timeout, opening).await {
            Ok(opened) => opened,
            Err(_) => Err(RedisError::from(std::io::Error::from(std::io::ErrorKind::TimedOut))),
        }
    }
}

/// Time limits are the callers', over everything that a call needs.
fn config() -> AsyncConnectionConfig {
    AsyncConnectionConfig::new()
        .set_connection_timeout(None)
        .set_response_timeout(None)
        .set_pipeline_buffer_size(UNSENT_COMMANDS)
}

async fn set_name(connection: &mut MultiplexedConnection, name: &str) -> RedisResult<()> {
    redis::cmd("CLIENT").arg("SETNAME").arg(name).query_async(connection).await
}

impl Connection {
    /// Whether it opens again by itself what it has lost.
    pub(super) fn heals_itself(&self) -> bool {
        matches!(self, Self::Cluster(_))
    }

    pub(super) async fn command<T: FromRedisValue>(&mut self, command: &Cmd) -> RedisResult<T> {
        match self {
            Self::Server(connection) => command.query_async(connection).await,
            Self::Cluster(connection) => command.query_async(connection).await,
        }
    }

    pub(super) async fn script<T: FromRedisValue>(
        &mut self,
        script: &ScriptInvocation<'_>,
    ) -> RedisResult<T> {
        match self {
            Self::Server(connection) => script.invoke_async(connection).await,
            Self::Cluster(connection) => script.invoke_async(connection).await,
        }
    }

    /// Asks about the server itself; of a cluster, any node.
    pub(super) async fn ask<T: FromRedisValue>(&mut self, command: Cmd) -> RedisResult<T> {
        match self {
            Self::Server(connection) => command.query_async(connection).await,
            Self::Cluster(connection) => {
                let any = RoutingInfo::SingleNode(SingleNodeRoutingInfo::RandomPrimary);
                let value = connection.route_command(command, any).await?.extract_error()?;
                Ok(redis::from_redis_value(value)?)
            }
        }
    }
}
