//! Whether Redis is there and fit for its work.

use raglan_pipeline::ports::{ErrorKind, PortError, PortResult};
use redis::{Cmd, FromRedisValue, InfoDict};

use super::{Call, RedisClient, answered, not_connected};

/// Events are heard and answers got on one connection, which older versions cannot do.
const OLDEST_MAJOR: u32 = 6;

/// What a Redis says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedisReport {
    /// Its version; of a cluster, that of one node.
    pub version: String,
    /// `standalone`, `cluster` or `sentinel`.
    pub mode: String,
    /// How much memory it may take, in bytes; 0 is all that there is.
    pub memory_limit_bytes: u64,
    /// What it does when that is used up (`maxmemory-policy`).
    pub eviction: String,
}

impl RedisReport {
    /// What an operator should know. Nothing of it keeps Raglan from working.
    #[must_use]
    pub fn concerns(&self) -> Vec<&'static str> {
        let mut concerns = Vec::new();
        if self.memory_limit_bytes == 0 {
            concerns.push("maxmemory is not set: redis may take all of its machine's memory");
        } else if self.eviction == "noeviction" {
            concerns.push(
                "maxmemory-policy is noeviction: once full, redis refuses events and cache entries until old ones expire; volatile-ttl lets old ones go",
            );
        } else if self.eviction.starts_with("allkeys") {
            concerns.push("maxmemory-policy evicts any key: what others keep in this redis may go first");
        }
        concerns
    }
}

impl RedisClient {
    /// Asks Redis for a key and about itself.
    ///
    /// # Errors
    /// That it cannot be reached, is not what the address says, is too old, or is a cluster that is not complete.
    pub async fn check(&self) -> PortResult<RedisReport> {
        let key = format!("{}:check", self.prefix());
        let _: bool = self.call(&key, |_| Call::Command(redis::cmd("EXISTS").arg(&key).take())).await?;
        let server: InfoDict = self.ask(redis::cmd("INFO").arg("server").take()).await?;
        let memory: InfoDict = self.ask(redis::cmd("INFO").arg("memory").take()).await?;
        let report = RedisReport {
            version: server.get("redis_version").unwrap_or_default(),
            mode: server.get("redis_mode").unwrap_or_default(),
            memory_limit_bytes: memory.get("maxmemory").unwrap_or_default(),
            eviction: memory.get("maxmemory_policy").unwrap_or_default(),
        };
        let major = report.version.split('.').next().and_then(|major| major.parse::<u32>().ok());
        if major.is_none_or(|major| major < OLDEST_MAJOR) {
            let message = format!("redis is version {:?}; {OLDEST_MAJOR} or newer is needed", report.version);
            return Err(PortError::new(ErrorKind::Invalid, message));
        }
        if report.mode == "cluster" {
            self.check_cluster().await?;
        }
        Ok(report)
    }

    async fn check_cluster(&self) -> PortResult<()> {
        if !self.target.is_cluster() {
            let message = "redis is a node of a cluster; its address must begin with redis+cluster://";
            return Err(PortError::new(ErrorKind::Invalid, message));
        }
        let state: String = self.ask(redis::cmd("CLUSTER").arg("INFO").take()).await?;
        if state.lines().any(|line| line.trim() == "cluster_state:ok") {
            return Ok(());
        }
        Err(PortError::new(ErrorKind::Unavailable, "the redis cluster is not complete"))
    }

    async fn ask<T: FromRedisValue>(&self, command: Cmd) -> PortResult<T> {
        let asked = async {
            let mut live = self.lane("check").live().await.map_err(not_connected)?;
            live.connection.ask(command).await.map_err(answered)
        };
        match tokio::time::timeout(self.command_timeout, asked).await {
            Ok(answer) => answer,
            Err(_) => Err(PortError::new(ErrorKind::Timeout, "redis did not answer in time")),
        }
    }
}
