//! The cache of the embedded shape, on moka.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::Bytes;
use moka::{Expiry, policy::EvictionPolicy};
use raglan_pipeline::ports::{Cache, Namespace, PortResult};

/// What an entry costs beside its key and value: moka's bookkeeping and the allocations' own.
const ENTRY_BYTES: usize = 200;
/// moka's clock cannot express more than some centuries.
const LONGEST_TTL: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// A cache in memory, bounded by the bytes of its keys, values and their bookkeeping. When it is full, what was not used for longest goes;
/// what was just put stays, since a job's passages are written once and read once.
pub struct InProcessCache {
    entries: moka::future::Cache<Key, Entry>,
    max_bytes: u64,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Key {
    namespace: Namespace,
    key: Box<str>,
}

impl Key {
    fn new(namespace: Namespace, key: &str) -> Self {
        Self { namespace, key: key.into() }
    }
}

#[derive(Clone)]
struct Entry {
    value: Bytes,
    ttl: Duration,
}

struct ByEntry;

impl Expiry<Key, Entry> for ByEntry {
    fn expire_after_create(&self, _: &Key, entry: &Entry, _: Instant) -> Option<Duration> {
        Some(entry.ttl)
    }

    fn expire_after_update(
        &self,
        _: &Key,
        entry: &Entry,
        _: Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        Some(entry.ttl)
    }
}

impl InProcessCache {
    /// An empty cache of at most so many bytes.
    #[must_use]
    pub fn new(max_bytes: u64) -> Arc<Self> {
        let entries = moka::future::Cache::builder()
            .max_capacity(max_bytes)
            .eviction_policy(EvictionPolicy::lru())
            .weigher(|key: &Key, entry: &Entry| {
                u32::try_from(weight(&key.key, &entry.value)).unwrap_or(u32::MAX)
            })
            .expire_after(ByEntry)
            .build();
        Arc::new(Self { entries, max_bytes })
    }
}

fn weight(key: &str, value: &[u8]) -> u64 {
    (key.len() + value.len() + ENTRY_BYTES) as u64
}

#[async_trait]
impl Cache for InProcessCache {
    async fn get(&self, namespace: Namespace, key: &str) -> PortResult<Option<Bytes>> {
        Ok(self.entries.get(&Key::new(namespace, key)).await.map(|entry| entry.value))
    }

    async fn put(&self, namespace: Namespace, key: &str, value: Bytes, ttl: Duration) -> PortResult<()> {
        let weight = weight(key, &value);
        let key = Key::new(namespace, key);
        if ttl.is_zero() || weight > self.max_bytes.min(u64::from(u32::MAX)) {
            // Not kept; nor is what it was to replace.
            self.entries.invalidate(&key).await;
            return Ok(());
        }
        // Copied, since a slice would keep all of the buffer that it was cut from.
        let entry = Entry { value: Bytes::copy_from_slice(&value), ttl: ttl.min(LONGEST_TTL) };
        self.entries.insert(key, entry).await;
        // moka evicts some time after a write; here the bound holds when the write returns.
        self.entries.run_pending_tasks().await;
        Ok(())
    }

    async fn take(&self, namespace: Namespace, key: &str) -> PortResult<Option<Bytes>> {
        let key = Key::new(namespace, key);
        // What is removed may have had its time; what is read has not.
        if self.entries.get(&key).await.is_none() {
            return Ok(None);
        }
        Ok(self.entries.remove(&key).await.map(|entry| entry.value))
    }

    async fn remove(&self, namespace: Namespace, key: &str) -> PortResult<()> {
        self.entries.invalidate(&Key::new(namespace, key)).await;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use raglan_pipeline::contract;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn it_keeps_the_contract() {
        contract::cache::run_all(|| async { InProcessCache::new(64 << 20) as Arc<dyn Cache> }).await;
    }

    /// What is really held, whether moka has counted it yet or not.
    fn bytes(cache: &InProcessCache) -> u64 {
        cache.entries.iter().map(|(key, entry)| weight(&key.key, &entry.value)).sum()
    }

    #[tokio::test]
    async fn it_never_holds_more_than_its_bytes_and_keeps_the_newest() {
        let cache = InProcessCache::new(100_000);
        for n in 0..1_000_u32 {
            let value = Bytes::from(vec![0; 1_000 + n as usize % 500]);
            cache.put(Namespace::Passages, &n.to_string(), value, HOUR).await.unwrap();
            assert!(bytes(&cache) <= 100_000, "{} bytes after {n}", bytes(&cache));
            assert!(
                cache.get(Namespace::Passages, &n.to_string()).await.unwrap().is_some(),
                "{n} was not kept"
            );
        }
        assert!(bytes(&cache) > 90_000, "it is used: {}", bytes(&cache));
        assert!(cache.get(Namespace::Passages, "0").await.unwrap().is_none(), "the oldest went");
    }

    #[tokio::test]
    async fn an_entry_larger_than_the_cache_is_not_kept_and_harms_no_other() {
        let cache = InProcessCache::new(10_000);
        cache.put(Namespace::Answers, "small", Bytes::from_static(b"x"), HOUR).await.unwrap();
        cache.put(Namespace::Answers, "grows", Bytes::from_static(b"old"), HOUR).await.unwrap();
        cache.put(Namespace::Answers, "grows", Bytes::from(vec![0; 10_000]), HOUR).await.unwrap();
        assert_eq!(
            cache.get(Namespace::Answers, "grows").await.unwrap(),
            None,
            "nor is the value it replaced"
        );
        assert!(cache.get(Namespace::Answers, "small").await.unwrap().is_some());
    }

    #[tokio::test]
    async fn no_time_and_endless_time_to_live_are_both_allowed() {
        let cache = InProcessCache::new(10_000);
        cache.put(Namespace::Answers, "k", Bytes::from_static(b"v"), Duration::MAX).await.unwrap();
        assert!(cache.get(Namespace::Answers, "k").await.unwrap().is_some());
        cache.put(Namespace::Answers, "k", Bytes::from_static(b"w"), Duration::ZERO).await.unwrap();
        assert_eq!(cache.get(Namespace::Answers, "k").await.unwrap(), None);
    }
}
