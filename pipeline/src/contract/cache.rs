//! The promises of [`Cache`]. Time is real: that a value is gone after its time is checked exactly, that it is there only where hours are left.

use std::{future::Future, sync::Arc, time::Duration};

use bytes::Bytes;

use crate::ports::{Cache, Namespace};

const HOUR: Duration = Duration::from_secs(3_600);
const ALL: [Namespace; 4] =
    [Namespace::Passages, Namespace::Answers, Namespace::QueryVectors, Namespace::Tickets];

/// Runs the whole suite; `fresh` makes an empty cache of at least 16 MiB that shares nothing with those before.
pub async fn run_all<F, C>(fresh: F)
where
    F: Fn() -> C,
    C: Future<Output = Arc<dyn Cache>>,
{
    a_value_is_there_once_it_was_put(fresh().await).await;
    what_was_never_put_is_not_there(fresh().await).await;
    a_removed_value_is_gone(fresh().await).await;
    a_value_is_taken_once(fresh().await).await;
    namespaces_are_apart(fresh().await).await;
    putting_again_replaces_value_and_time_to_live(fresh().await).await;
    no_value_outlives_its_time(fresh().await).await;
    any_key_and_any_bytes_are_kept_as_they_are(fresh().await).await;
    writers_at_once_never_mix(fresh().await).await;
}

pub async fn a_value_is_there_once_it_was_put(cache: Arc<dyn Cache>) {
    cache.put(Namespace::Passages, "job", Bytes::from_static(b"three passages"), HOUR).await.unwrap();
    for _ in 0..2 {
        let got = cache.get(Namespace::Passages, "job").await.unwrap();
        assert_eq!(got.as_deref(), Some(&b"three passages"[..]), "reading takes nothing away");
    }
}

pub async fn what_was_never_put_is_not_there(cache: Arc<dyn Cache>) {
    assert_eq!(cache.get(Namespace::Answers, "nothing").await.unwrap(), None);
    cache.remove(Namespace::Answers, "nothing").await.unwrap();
}

pub async fn a_removed_value_is_gone(cache: Arc<dyn Cache>) {
    for key in ["goes", "stays"] {
        cache.put(Namespace::Answers, key, Bytes::from_static(b"x"), HOUR).await.unwrap();
    }
    cache.remove(Namespace::Answers, "goes").await.unwrap();
    assert_eq!(cache.get(Namespace::Answers, "goes").await.unwrap(), None);
    assert!(cache.get(Namespace::Answers, "stays").await.unwrap().is_some());
}

pub async fn a_value_is_taken_once(cache: Arc<dyn Cache>) {
    assert_eq!(cache.take(Namespace::Tickets, "nothing").await.unwrap(), None);
    cache.put(Namespace::Tickets, "one", Bytes::from_static(b"mine"), HOUR).await.unwrap();
    let takers = (0..8).map(|_| {
        let cache = Arc::clone(&cache);
        tokio::spawn(async move { cache.take(Namespace::Tickets, "one").await.unwrap() })
    });
    let got: Vec<Bytes> =
        futures::future::join_all(takers).await.into_iter().filter_map(Result::unwrap).collect();
    assert_eq!(got, [&b"mine"[..]]);
    assert_eq!(cache.get(Namespace::Tickets, "one").await.unwrap(), None);
}

pub async fn namespaces_are_apart(cache: Arc<dyn Cache>) {
    for namespace in ALL {
        cache.put(namespace, "key", Bytes::from_static(namespace.as_str().as_bytes()), HOUR).await.unwrap();
    }
    for namespace in ALL {
        let got = cache.get(namespace, "key").await.unwrap();
        assert_eq!(got.as_deref(), Some(namespace.as_str().as_bytes()));
    }
    cache.remove(Namespace::Answers, "key").await.unwrap();
    assert!(cache.get(Namespace::Passages, "key").await.unwrap().is_some());
}

pub async fn putting_again_replaces_value_and_time_to_live(cache: Arc<dyn Cache>) {
    let short = Duration::from_millis(80);
    for (key, first, second) in [("longer", short, HOUR), ("shorter", HOUR, short)] {
        cache.put(Namespace::Answers, key, Bytes::from_static(b"old"), first).await.unwrap();
        cache.put(Namespace::Answers, key, Bytes::from_static(b"new"), second).await.unwrap();
    }
    tokio::time::sleep(2 * short).await;
    assert_eq!(cache.get(Namespace::Answers, "longer").await.unwrap().as_deref(), Some(&b"new"[..]));
    assert_eq!(cache.get(Namespace::Answers, "shorter").await.unwrap(), None);
}

pub async fn no_value_outlives_its_time(cache: Arc<dyn Cache>) {
    let ttl = Duration::from_millis(80);
    for namespace in ALL {
        cache.put(namespace, "brief", Bytes::from_static(b"x"), ttl).await.unwrap();
        cache.put(namespace, "lasting", Bytes::from_static(b"x"), HOUR).await.unwrap();
    }
    tokio::time::sleep(ttl).await;
    for namespace in ALL {
        assert_eq!(cache.take(namespace, "brief").await.unwrap(), None, "{namespace:?}");
        assert!(cache.get(namespace, "lasting").await.unwrap().is_some(), "{namespace:?}");
    }
}

pub async fn any_key_and_any_bytes_are_kept_as_they_are(cache: Arc<dyn Cache>) {
    let long = "k".repeat(2_000);
    let keys = ["", "a b", "ä/…\n:*?{}", &long];
    let values = [Bytes::new(), Bytes::from((0..=255).collect::<Vec<u8>>()), Bytes::from(vec![7; 1 << 20])];
    for key in keys {
        for value in &values {
            cache.put(Namespace::QueryVectors, key, value.clone(), HOUR).await.unwrap();
            let got = cache.get(Namespace::QueryVectors, key).await.unwrap();
            assert!(got.as_ref() == Some(value), "{} bytes under {key:?} came back changed", value.len());
        }
    }
}

pub async fn writers_at_once_never_mix(cache: Arc<dyn Cache>) {
    let writers = (0..16_u8).map(|writer| {
        let cache = Arc::clone(&cache);
        tokio::spawn(async move {
            for n in 0..50_u8 {
                let own = Bytes::from(vec![writer, n]);
                cache.put(Namespace::Answers, &writer.to_string(), own.clone(), HOUR).await.unwrap();
                // One key is everybody's: whole values only, whoever wrote last.
                cache.put(Namespace::Answers, "shared", Bytes::from(vec![n; 64]), HOUR).await.unwrap();
                assert_eq!(cache.get(Namespace::Answers, &writer.to_string()).await.unwrap(), Some(own));
                let shared =
                    cache.get(Namespace::Answers, "shared").await.unwrap().expect("somebody wrote it");
                assert!(shared.len() == 64 && shared.iter().all(|byte| *byte == shared[0]));
            }
        })
    });
    for writer in futures::future::join_all(writers).await {
        writer.unwrap();
    }
}
