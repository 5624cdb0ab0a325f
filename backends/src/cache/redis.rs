//! The cache of the distributed shape, on Redis.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use raglan_pipeline::ports::{Cache, Namespace, PortResult};
use redis::cmd;

use crate::redis_client::{Call, RedisClient};

/// A larger value is not kept: it would hold up everything else on its connection, and Redis itself.
const MAX_VALUE_BYTES: usize = 8 << 20;
/// Redis refuses times that its clock cannot express.
const LONGEST_TTL: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// A cache in Redis, under `{prefix}:cache:{namespace}:{key}`. It is bounded by what Redis may take (`maxmemory`) and by the time that its entries
/// live.
///
/// A value of more than 8 MiB is not kept, nor is what it was to replace; that is no error.
pub struct RedisCache {
    client: Arc<RedisClient>,
}

impl RedisCache {
    /// A cache in this Redis.
    #[must_use]
    pub fn new(client: Arc<RedisClient>) -> Arc<Self> {
        Arc::new(Self { client })
    }

    fn key(&self, namespace: Namespace, key: &str) -> String {
        format!("{}:cache:{}:{key}", self.client.prefix(), namespace.as_str())
    }

    async fn unlink(&self, key: &str) -> PortResult<()> {
        self.client.call(key, |_| Call::Command(cmd("UNLINK").arg(key).take())).await
    }
}

/// The time to live that Redis is given, in milliseconds. Redis keeps a value through the last of them, so it is given one less.
fn expiry_ms(ttl: Duration) -> u64 {
    u64::try_from(ttl.min(LONGEST_TTL).as_millis()).unwrap_or(u64::MAX).saturating_sub(1)
}

#[async_trait]
impl Cache for RedisCache {
    async fn get(&self, namespace: Namespace, key: &str) -> PortResult<Option<Bytes>> {
        let key = self.key(namespace, key);
        let value: Option<Vec<u8>> =
            self.client.call(&key, |_| Call::Command(cmd("GET").arg(&key).take())).await?;
        Ok(value.map(Bytes::from))
    }

    async fn put(&self, namespace: Namespace, key: &str, value: Bytes, ttl: Duration) -> PortResult<()> {
        let key = self.key(namespace, key);
        let expiry_ms = expiry_ms(ttl);
        if expiry_ms == 0 || value.len() > MAX_VALUE_BYTES {
            return self.unlink(&key).await;
        }
        let set = |_| Call::Command(cmd("SET").arg(&key).arg(&value[..]).arg("PX").arg(expiry_ms).take());
        self.client.call(&key, set).await
    }

    async fn take(&self, namespace: Namespace, key: &str) -> PortResult<Option<Bytes>> {
        let key = self.key(namespace, key);
        let value: Option<Vec<u8>> =
            self.client.call(&key, |_| Call::Command(cmd("GETDEL").arg(&key).take())).await?;
        Ok(value.map(Bytes::from))
    }

    async fn remove(&self, namespace: Namespace, key: &str) -> PortResult<()> {
        self.unlink(&self.key(namespace, key)).await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use raglan_pipeline::{contract, ports::ErrorKind};

    use super::*;
    use crate::redis_client::{
        RedisSettings,
        testing::{Corner, Proxy, TestCluster},
    };

    const HOUR: Duration = Duration::from_secs(3_600);

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn it_keeps_the_contract() {
        if Corner::of_test_server("cache::redis::tests::it_keeps_the_contract").is_none() {
            return;
        }
        let corners = Mutex::new(Vec::new());
        contract::cache::run_all(|| async {
            let corner = Corner::of_test_server("cache::redis::tests::it_keeps_the_contract").unwrap();
            let cache = RedisCache::new(corner.client()) as Arc<dyn Cache>;
            corners.lock().unwrap().push(corner);
            cache
        })
        .await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn it_keeps_the_contract_on_a_cluster() {
        let Some(cluster) = TestCluster::start("cache::redis::tests::it_keeps_the_contract_on_a_cluster")
        else {
            return;
        };
        contract::cache::run_all(|| async {
            RedisCache::new(Corner::of(cluster.url()).client()) as Arc<dyn Cache>
        })
        .await;
    }

    #[tokio::test]
    async fn what_is_too_large_is_not_kept_nor_what_it_replaces() {
        let Some(corner) =
            Corner::of_test_server("cache::redis::tests::what_is_too_large_is_not_kept_nor_what_it_replaces")
        else {
            return;
        };
        let cache = RedisCache::new(corner.client());
        cache.put(Namespace::Answers, "grows", Bytes::from(vec![0; MAX_VALUE_BYTES]), HOUR).await.unwrap();
        assert!(cache.get(Namespace::Answers, "grows").await.unwrap().is_some());
        let large = Bytes::from(vec![0; MAX_VALUE_BYTES + 1]);
        cache.put(Namespace::Answers, "grows", large, HOUR).await.unwrap();
        assert_eq!(cache.get(Namespace::Answers, "grows").await.unwrap(), None);
        assert!(corner.keys().is_empty());
    }

    #[tokio::test]
    async fn no_time_and_endless_time_to_live_are_both_allowed() {
        let Some(corner) =
            Corner::of_test_server("cache::redis::tests::no_time_and_endless_time_to_live_are_both_allowed")
        else {
            return;
        };
        let cache = RedisCache::new(corner.client());
        cache.put(Namespace::Answers, "k", Bytes::from_static(b"v"), Duration::MAX).await.unwrap();
        assert!(cache.get(Namespace::Answers, "k").await.unwrap().is_some());
        assert_eq!(corner.keys(), [format!("{}:cache:answers:k", corner.prefix)]);
        for ttl in [Duration::ZERO, Duration::from_micros(1_900)] {
            cache.put(Namespace::Answers, "k", Bytes::from_static(b"w"), ttl).await.unwrap();
            assert_eq!(cache.get(Namespace::Answers, "k").await.unwrap(), None);
        }
    }

    #[tokio::test]
    async fn a_redis_that_is_gone_is_an_error_at_once_and_serves_again_when_it_is_back() {
        let Some(corner) = Corner::of_test_server(
            "cache::redis::tests::a_redis_that_is_gone_is_an_error_at_once_and_serves_again_when_it_is_back",
        ) else {
            return;
        };
        let proxy = Proxy::before(corner.address()).await;
        let settings =
            RedisSettings { command_timeout: Duration::from_millis(250), ..corner.settings_through(&proxy) };
        let cache = RedisCache::new(crate::redis_client::RedisClient::new(&settings).unwrap());
        proxy.close().await;
        let mut refused = 0;
        for _ in 0..1_000 {
            let error = cache.get(Namespace::Answers, "k").await.unwrap_err();
            assert!(matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Timeout), "{error}");
            refused += usize::from(error.retry_after().is_some());
        }
        assert!(refused > 900, "only {refused} of 1000 calls were not even tried");
        proxy.open().await;
        while cache.put(Namespace::Answers, "k", Bytes::from_static(b"v"), HOUR).await.is_err() {
            tokio::task::yield_now().await;
        }
        assert_eq!(cache.get(Namespace::Answers, "k").await.unwrap().as_deref(), Some(&b"v"[..]));
    }
}
