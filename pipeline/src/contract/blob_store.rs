//! See the port's doc comment for the promises that are checked here.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::join_all;

use crate::ports::{BlobStore, ErrorKind};

type Store = Arc<dyn BlobStore>;

/// Runs the whole suite. `fresh` gives an empty store.
pub async fn run_all(fresh: impl AsyncFn() -> Store) {
    a_blob_comes_back_as_it_was_put(fresh().await).await;
    a_second_put_replaces_the_first(fresh().await).await;
    a_key_may_be_the_beginning_of_another(fresh().await).await;
    removing_is_final_and_removing_nothing_is_no_error(fresh().await).await;
    removing_a_prefix_takes_what_is_below_it_and_nothing_else(fresh().await).await;
    keys_that_could_lead_elsewhere_are_refused(fresh().await).await;
    a_reader_never_sees_half_a_blob(fresh().await).await;
    puts_and_removes_of_neighbours_do_not_disturb_each_other(fresh().await).await;
}

async fn put(store: &Store, key: &str, data: &'static str) {
    store.put(key, Bytes::from_static(data.as_bytes())).await.unwrap();
}

async fn get(store: &Store, key: &str) -> Option<String> {
    store.get(key).await.unwrap().map(|data| String::from_utf8(data.to_vec()).unwrap())
}

pub async fn a_blob_comes_back_as_it_was_put(store: Store) {
    let large: Bytes = (0..3_000_000_u32).map(|i| (i % 251) as u8).collect::<Vec<_>>().into();
    let longest = "x".repeat(200);
    for (key, data) in [
        ("a", Bytes::from_static(b"one")),
        ("jobs/0190-ab/files/0.txt", large),
        ("jobs/0190-ab/manifest", Bytes::new()),
        ("UPPER_lower-0.9/..x/x..", Bytes::from_static(&[0, 255, 10, 13])),
        (longest.as_str(), Bytes::from_static(b"long")),
    ] {
        assert_eq!(store.get(key).await.unwrap(), None);
        store.put(key, data.clone()).await.unwrap();
        assert_eq!(store.get(key).await.unwrap(), Some(data), "{key}");
    }
}

pub async fn a_second_put_replaces_the_first(store: Store) {
    put(&store, "a/b", "a long first text").await;
    put(&store, "a/b", "short").await;
    assert_eq!(get(&store, "a/b").await.as_deref(), Some("short"));
}

pub async fn a_key_may_be_the_beginning_of_another(store: Store) {
    for key in ["a", "a/b", "a/b/c", "a.b", "ab"] {
        put(&store, key, "x").await;
    }
    put(&store, "a/b", "y").await;
    for key in ["a", "a/b/c", "a.b", "ab"] {
        assert_eq!(get(&store, key).await.as_deref(), Some("x"), "{key}");
    }
    assert_eq!(get(&store, "a/b").await.as_deref(), Some("y"));
    assert_eq!(get(&store, "a/b/c/d").await, None);
}

pub async fn removing_is_final_and_removing_nothing_is_no_error(store: Store) {
    put(&store, "a/b/c", "x").await;
    put(&store, "a/d", "x").await;
    store.remove("a/b/c").await.unwrap();
    assert_eq!(get(&store, "a/b/c").await, None);
    assert_eq!(get(&store, "a/d").await.as_deref(), Some("x"));
    for key in ["a/b/c", "a", "nothing/here"] {
        store.remove(key).await.unwrap();
    }
    store.remove_all("nothing/here").await.unwrap();
    put(&store, "a/b/c", "again").await;
    assert_eq!(get(&store, "a/b/c").await.as_deref(), Some("again"));
}

pub async fn removing_a_prefix_takes_what_is_below_it_and_nothing_else(store: Store) {
    for key in ["jobs/1", "jobs/1/a", "jobs/1/b/c", "jobs/10/a", "jobs/1.x", "job"] {
        put(&store, key, "x").await;
    }
    store.remove_all("jobs/1").await.unwrap();
    for gone in ["jobs/1/a", "jobs/1/b/c"] {
        assert_eq!(get(&store, gone).await, None, "{gone}");
    }
    for kept in ["jobs/1", "jobs/10/a", "jobs/1.x", "job"] {
        assert_eq!(get(&store, kept).await.as_deref(), Some("x"), "{kept}");
    }
    put(&store, "jobs/1/a", "again").await;
    assert_eq!(get(&store, "jobs/1/a").await.as_deref(), Some("again"));
}

pub async fn keys_that_could_lead_elsewhere_are_refused(store: Store) {
    for key in [
        "", "/", "/a", "a/", "a//b", ".", "..", "../a", "a/../b", "a/.", "a/./b", "a b", "a\\b", "a\0b", "ä",
        "a+b", "a:b", "%2e%2e", "a\n",
    ] {
        let refused = [
            store.put(key, Bytes::from_static(b"x")).await.err(),
            store.get(key).await.err(),
            store.remove(key).await.err(),
            store.remove_all(key).await.err(),
        ];
        for error in refused {
            assert_eq!(error.map(|error| error.kind()), Some(ErrorKind::Invalid), "{key:?} was accepted");
        }
    }
}

pub async fn a_reader_never_sees_half_a_blob(store: Store) {
    let blob = |byte: u8| Bytes::from(vec![byte; 200_000 + usize::from(byte)]);
    store.put("shared", blob(0)).await.unwrap();
    let writers = (1..=4_u8).map(|writer| {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            for round in 0..8 {
                store.put("shared", blob(writer * 10 + round)).await.unwrap();
            }
        })
    });
    let readers = (0..4).map(|_| {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            for _ in 0..40 {
                let seen = store.get("shared").await.unwrap().expect("it is always there");
                assert_eq!(seen, blob(seen[0]), "a blob of two halves");
            }
        })
    });
    for task in join_all(writers.chain(readers)).await {
        task.unwrap();
    }
}

pub async fn puts_and_removes_of_neighbours_do_not_disturb_each_other(store: Store) {
    let tasks = (0..8).map(|i| {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            for round in 0..20 {
                let key = format!("jobs/{}/{i}", round % 3);
                store.put(&key, Bytes::from_static(b"x")).await.unwrap();
                assert!(store.get(&key).await.unwrap().is_some(), "{key} was put");
                store.remove(&key).await.unwrap();
                assert!(store.get(&key).await.unwrap().is_none(), "{key} was removed");
            }
        })
    });
    for task in join_all(tasks).await {
        task.unwrap();
    }
}
