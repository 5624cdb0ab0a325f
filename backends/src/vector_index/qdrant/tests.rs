use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::future::join_all;
use qdrant_client::qdrant::{CreateCollection, UpdateStatus, VectorParams, vectors_config};
use raglan_pipeline::{
    contract::index::{
        corpus::{self, DIMENSION, Log, MODEL, chunk, direction, document, everywhere},
        vector,
    },
    domain::ChunkId,
    secret::Secret,
};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use url::Url;

use super::{
    fake::{Fake, Running},
    *,
};
use crate::test_servers;

/// How long anything may take before a test gives up. Far beyond what is usual.
const BOUND: Duration = Duration::from_secs(60);

const ANY_PORT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

fn settings_at(address: SocketAddr) -> QdrantSettings {
    settings_of(&format!("http://{address}"))
}

/// An index of a name that nobody else has. A slow machine breaks no test.
fn settings_of(url: &str) -> QdrantSettings {
    QdrantSettings {
        name: format!("test-{}", Uuid::new_v4().simple()),
        search_timeout: BOUND,
        write_timeout: BOUND,
        ..QdrantSettings::new(Url::parse(url).unwrap(), MODEL, DIMENSION)
    }
}

fn served() -> (Fake, Running, QdrantSettings) {
    let fake = Fake::default();
    let running = fake.serve(ANY_PORT);
    let settings = settings_at(running.address);
    (fake, running, settings)
}

async fn open(settings: &QdrantSettings) -> QdrantIndex {
    QdrantIndex::open(settings.clone()).await.unwrap()
}

async fn about(index: &QdrantIndex, topic: u32) -> Vec<ChunkId> {
    let hits = index.search(&direction(topic), &everywhere(10)).await.unwrap();
    hits.into_iter().filter(|hit| hit.score > 0.95).map(|hit| hit.chunk_id).collect()
}

/// Indexes of one server, each of its own name.
struct Indexes {
    settings: QdrantSettings,
    open: Mutex<Vec<(usize, QdrantSettings)>>,
}

fn address_of(index: &Arc<dyn VectorIndex>) -> usize {
    Arc::as_ptr(index).cast::<()>() as usize
}

impl Indexes {
    async fn open(&self, settings: QdrantSettings) -> Arc<dyn VectorIndex> {
        let index: Arc<dyn VectorIndex> = Arc::new(open(&settings).await);
        self.open.lock().unwrap().push((address_of(&index), settings));
        index
    }
}

#[async_trait]
impl vector::Factory for Indexes {
    async fn fresh(&self, model: &str, dimension: usize) -> Arc<dyn VectorIndex> {
        let name = format!("{}-{}", self.settings.name, &Uuid::new_v4().simple().to_string()[..16]);
        let settings = QdrantSettings { name, model: model.to_owned(), dimension, ..self.settings.clone() };
        self.open(settings).await
    }

    async fn reopen(&self, index: Arc<dyn VectorIndex>) -> Arc<dyn VectorIndex> {
        let settings = {
            let mut open = self.open.lock().unwrap();
            let place = open.iter().rposition(|(address, _)| *address == address_of(&index)).unwrap();
            open.remove(place).1
        };
        drop(index);
        self.open(settings).await
    }
}

/// What every Qdrant must bear, the fake and a real one.
async fn keeps_its_promises(settings: QdrantSettings) {
    vector::run_all(Arc::new(Indexes { settings: settings.clone(), open: Mutex::default() })).await;
    let named = |name: &str| QdrantSettings { name: format!("{}-{name}", settings.name), ..settings.clone() };
    many_open_it_at_once(named("at-once")).await;
    others_see_what_one_feeds(named("others")).await;
    who_knows_less_takes_nothing_back(named("less")).await;
    a_reset_leaves_one_collection(named("reset")).await;
    another_shape_is_refused(named("shape")).await;
    what_was_lost_is_begun_anew(named("lost")).await;
    large_batches_are_split(named("split")).await;
}

async fn names(settings: &QdrantSettings) -> Vec<String> {
    let names = Client::new(settings).unwrap().names().await.unwrap();
    names.into_iter().filter(|name| name.starts_with(&settings.name)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keeps_its_promises_over_a_fake_server() {
    let (_fake, _running, settings) = served();
    keeps_its_promises(settings).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keeps_its_promises_in_qdrant() {
    let Some(url) = test_servers::qdrant_url() else {
        test_servers::skipped(
            "vector_index::qdrant::keeps_its_promises_in_qdrant",
            "RAGLAN_TEST_QDRANT_URL is not set",
        );
        return;
    };
    let settings = settings_of(&url);
    // In a task of its own, so that what it made is removed even when it fails.
    let kept = tokio::spawn(keeps_its_promises(settings.clone())).await;
    let client = Client::new(&settings).unwrap();
    for name in names(&settings).await {
        client.remove(name).await.unwrap();
    }
    kept.unwrap();
}

async fn many_open_it_at_once(settings: QdrantSettings) {
    let opened = join_all((0..8).map(|_| open(&settings))).await;
    assert_eq!(names(&settings).await, [format!("{}-0", settings.alias())]);
    let a = document("a", json!({}));
    opened[0].reset(Uuid::new_v4()).await.unwrap();
    opened[0].apply(vec![Log::default().put_topics(&a, &[1])]).await.unwrap();
    for index in &opened {
        index.check().await.unwrap();
        assert_eq!(about(index, 1).await, [chunk(&a, 1, 0).id], "all search the same collection");
    }
}

async fn others_see_what_one_feeds(settings: QdrantSettings) {
    let (feeder, searcher) = (open(&settings).await, open(&settings).await);
    let (log, a, history) = (Log::default(), document("a", json!({})), Uuid::new_v4());
    feeder.reset(history).await.unwrap();
    feeder.apply(vec![log.put_topics(&a, &[1])]).await.unwrap();
    assert_eq!(about(&searcher, 1).await, [chunk(&a, 1, 0).id], "at once, whatever it knows of the position");
    assert_eq!((searcher.position(), searcher.history()), (0, None));
    searcher.refresh().await.unwrap();
    assert_eq!((searcher.position(), searcher.history()), (feeder.position(), Some(history)));

    // It takes over, and the first one comes back with changes that were applied already, and one that was not.
    let (old, new) = (log.delete_chunks(&a, vec![chunk(&a, 1, 0).id]), log.put_topics(&a, &[2]));
    searcher.apply(vec![old.clone(), new]).await.unwrap();
    let (position, newest) = (searcher.position(), log.put_topics(&a, &[3]));
    assert!(feeder.position() < position);
    feeder.apply(vec![old, newest.clone()]).await.unwrap();
    assert_eq!(feeder.position(), newest.position);
    assert_eq!(about(&feeder, 2).await, [chunk(&a, 2, 0).id]);
    assert_eq!(about(&feeder, 3).await, [chunk(&a, 3, 0).id]);
    assert_eq!(feeder.count().await.unwrap(), 2);
}

/// A process whose knowledge is old neither throws away nor overwrites what others did meanwhile: it is told, and knows then.
async fn who_knows_less_takes_nothing_back(settings: QdrantSettings) {
    let (stale, feeder) = (open(&settings).await, open(&settings).await);
    let (log, a, history) = (Log::default(), document("a", json!({})), Uuid::new_v4());
    feeder.reset(history).await.unwrap();
    feeder.apply(vec![log.put_topics(&a, &[1])]).await.unwrap();
    assert_eq!(stale.reset(history).await.unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!((stale.position(), stale.history()), (feeder.position(), Some(history)));
    assert_eq!(about(&stale, 1).await, [chunk(&a, 1, 0).id], "nothing was thrown away");

    let other = Uuid::new_v4();
    feeder.reset(other).await.unwrap();
    let change = log.put_topics(&a, &[2]);
    assert_eq!(stale.apply(vec![change.clone()]).await.unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!((stale.position(), stale.history()), (0, Some(other)));
    assert!(about(&feeder, 2).await.is_empty(), "what was read from another log is not applied");
    stale.apply(vec![change]).await.unwrap();
    assert_eq!(about(&feeder, 2).await, [chunk(&a, 2, 0).id]);
}

async fn a_reset_leaves_one_collection(settings: QdrantSettings) {
    let index = open(&settings).await;
    let client = Client::new(&settings).unwrap();
    // What a crash in the middle of a reset left, and what is not ours.
    let orphan = generation::make_next(&client, &settings).await.unwrap();
    let longer = QdrantSettings { model: format!("{MODEL}-longer"), ..settings.clone() };
    let other = open(&longer).await;
    for _ in 0..3 {
        index.reset(Uuid::new_v4()).await.unwrap();
        let (left, others): (Vec<_>, Vec<_>) =
            names(&settings).await.into_iter().partition(|name| !name.starts_with(&longer.alias()));
        assert_eq!(left.len(), 1, "{left:?}");
        assert_ne!(left[0], orphan);
        assert_eq!(others.len(), 1, "{others:?}");
    }
    other.check().await.unwrap();
}

async fn another_shape_is_refused(settings: QdrantSettings) {
    drop(open(&settings).await);
    let wider = QdrantSettings { dimension: DIMENSION + 8, ..settings.clone() };
    let refused = QdrantIndex::open(wider.clone()).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid);
    let words = refused.to_string();
    assert!(words.contains(&format!("{DIMENSION} dimensions")), "{words}");
    assert!(words.contains(&format!("{} dimensions", DIMENSION + 8)), "{words}");

    let dot = QdrantSettings { name: format!("{}-dot", settings.name), ..settings };
    let client = Client::new(&dot).unwrap();
    let vectors = VectorParams {
        size: DIMENSION as u64,
        distance: qdrant_client::qdrant::Distance::Dot.into(),
        ..VectorParams::default()
    };
    let collection = format!("{}-mine", dot.alias());
    let made = CreateCollection {
        collection_name: collection.clone(),
        vectors_config: Some(vectors_config::Config::Params(vectors).into()),
        ..CreateCollection::default()
    };
    client.create(made).await.unwrap();
    generation::stand_for(&client, &dot.alias(), None, &collection).await.unwrap();
    let refused = QdrantIndex::open(dot).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid);
    assert!(refused.to_string().contains("Dot"), "{refused}");
}

async fn what_was_lost_is_begun_anew(settings: QdrantSettings) {
    let index = open(&settings).await;
    let (log, a, history) = (Log::default(), document("a", json!({})), Uuid::new_v4());
    index.reset(history).await.unwrap();
    index.apply(vec![log.put_topics(&a, &[1])]).await.unwrap();
    let client = Client::new(&settings).unwrap();
    for name in names(&settings).await {
        client.remove(name).await.unwrap();
    }
    let searched = index.search(&direction(1), &everywhere(10)).await.unwrap_err();
    assert_eq!(searched.kind(), ErrorKind::Unavailable);
    assert!(searched.to_string().contains("feeds the index"), "{searched}");
    assert_eq!(index.check().await.unwrap_err().kind(), ErrorKind::Unavailable);
    let change = log.put_topics(&a, &[2]);
    assert_eq!(index.apply(vec![change.clone()]).await.unwrap_err().kind(), ErrorKind::Unavailable);
    // Whoever feeds sees now that there is nothing, and begins anew.
    assert_eq!((index.position(), index.history()), (0, None));
    index.reset(history).await.unwrap();
    index.apply(vec![change]).await.unwrap();
    assert_eq!(about(&index, 2).await, [chunk(&a, 2, 0).id]);
}

async fn large_batches_are_split(settings: QdrantSettings) {
    let index = open(&QdrantSettings { batch: 7, ..settings }).await;
    let (log, a) = (Log::default(), document("a", json!({})));
    let mut changes = vec![log.put(&a, (0..40).map(|n| chunk(&a, 1, n)).collect())];
    changes.push(log.delete_chunks(&a, (0..10).map(|n| chunk(&a, 1, n).id).collect()));
    index.apply(changes).await.unwrap();
    assert_eq!(index.count().await.unwrap(), 30);
    let gone: Vec<Change> = (0..20).map(|_| log.delete_document(&document("b", json!({})))).collect();
    let position = gone[19].position;
    index.apply([gone, vec![log.put_document(&a)]].concat()).await.unwrap();
    assert!(index.position() > position);
    assert_eq!(index.count().await.unwrap(), 30);
}

#[tokio::test]
async fn a_batch_and_a_search_are_few_calls() {
    let (fake, _running, settings) = served();
    let index = open(&settings).await;
    let (log, a) = (Log::default(), document("a", json!({})));
    fake.take_calls();
    index
        .apply(vec![log.put_topics(&a, &[1, 2]), log.put_document(&a), log.delete_document(&a)])
        .await
        .unwrap();
    assert_eq!(fake.take_calls(), ["list_aliases", "get", "update_batch"]);
    index.search(&direction(1), &everywhere(10)).await.unwrap();
    assert_eq!(fake.take_calls(), ["query"]);
    for nothing in [everywhere(0), corpus::filtered(json!({"k": []}), 10)] {
        assert!(index.search(&direction(1), &nothing).await.unwrap().is_empty());
    }
    assert!(fake.take_calls().is_empty());
    assert!(index.search(&direction(1), &everywhere(usize::MAX)).await.unwrap().is_empty());
    assert_eq!(fake.take_calls(), ["count"], "as many as there are, and there are none");
    index.apply(Vec::new()).await.unwrap();
    index.save().await.unwrap();
    assert!(fake.take_calls().is_empty());
}

#[tokio::test]
async fn a_write_that_was_only_taken_moves_no_position() {
    let (fake, _running, settings) = served();
    let index = open(&settings).await;
    let (log, a) = (Log::default(), document("a", json!({})));
    let change = log.put_topics(&a, &[1]);
    fake.end_writes_with(UpdateStatus::Acknowledged);
    assert_eq!(index.apply(vec![change.clone()]).await.unwrap_err().kind(), ErrorKind::Timeout);
    assert_eq!(index.position(), 0);
    fake.end_writes_with(UpdateStatus::Completed);
    index.apply(vec![change.clone()]).await.unwrap();
    assert_eq!(index.position(), change.position);
    assert_eq!(about(&index, 1).await, [chunk(&a, 1, 0).id]);
}

#[tokio::test]
async fn the_key_is_sent_and_never_printed() {
    let (fake, _running, settings) = served();
    fake.want_key("key-of-the-test");
    let refused = QdrantIndex::open(settings.clone()).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid);
    let index =
        open(&QdrantSettings { api_key: Some(Secret::new("key-of-the-test")), ..settings.clone() }).await;
    index.check().await.unwrap();
    assert!(!format!("{index:?}").contains("key-of-the-test"));
    let broken = QdrantSettings { api_key: Some(Secret::new("broken\nkey")), ..settings };
    let refused = QdrantIndex::open(broken).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid);
    assert!(!refused.to_string().contains("broken"));
}

/// Searches until there is an answer.
async fn until_it_answers(index: &QdrantIndex) -> Vec<Hit> {
    let searching = async {
        loop {
            match index.search(&direction(1), &everywhere(10)).await {
                Ok(hits) => return hits,
                Err(error) => assert!(error.is_transient(), "{error}"),
            }
        }
    };
    tokio::time::timeout(BOUND, searching).await.expect("it answers again")
}

#[tokio::test]
async fn a_server_that_comes_back_is_used_at_once() {
    let (fake, running, settings) = served();
    let index = open(&settings).await;
    let a = document("a", json!({}));
    index.apply(vec![Log::default().put_topics(&a, &[1])]).await.unwrap();
    let address = running.address;
    for _ in 0..3 {
        assert_eq!(about(&index, 1).await.len(), 1);
    }
    running.stop().await;
    for _ in 0..3 {
        let error = index.search(&direction(1), &everywhere(10)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    }
    assert_eq!(index.refresh().await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert_ne!(index.position(), 0, "what was known stays");
    let _again = fake.serve(address);
    assert_eq!(until_it_answers(&index).await.len(), 1);

    fake.lose();
    index.refresh().await.unwrap();
    assert_eq!((index.position(), index.history()), (0, None));
}

/// Passes connections on, until it goes silent: then it keeps those that are there and passes nothing on, and new ones are well.
async fn silencer(to: SocketAddr, silent: Arc<AtomicBool>) -> SocketAddr {
    let listener = TcpListener::bind(ANY_PORT).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let born_silent = silent.load(Ordering::SeqCst);
            let (mut from_client, mut to_client) = client.into_split();
            let (mut from_server, mut to_server) = TcpStream::connect(to).await.unwrap().into_split();
            let pass = |silent: Arc<AtomicBool>| move || silent.load(Ordering::SeqCst) && !born_silent;
            let (up, down) = (pass(silent.clone()), pass(silent.clone()));
            tokio::spawn(async move { forward(&mut from_client, &mut to_server, up).await });
            tokio::spawn(async move { forward(&mut from_server, &mut to_client, down).await });
        }
    });
    address
}

async fn forward(
    from: &mut (impl AsyncReadExt + Unpin),
    to: &mut (impl AsyncWriteExt + Unpin),
    silent: impl Fn() -> bool,
) {
    let mut buffer = [0; 4096];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        if !silent() && to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}

#[tokio::test]
async fn a_connection_that_went_silent_is_given_up() {
    let (_fake, running, settings) = served();
    let silent = Arc::new(AtomicBool::new(false));
    let proxy = silencer(running.address, silent.clone()).await;
    let url = Url::parse(&format!("http://{proxy}")).unwrap();
    let index = open(&QdrantSettings { url, search_timeout: Duration::from_millis(300), ..settings }).await;
    index.search(&direction(1), &everywhere(10)).await.unwrap();
    silent.store(true, Ordering::SeqCst);
    let error = index.search(&direction(1), &everywhere(10)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    // Nothing will ever come over the old connection.
    until_it_answers(&index).await;
}

#[tokio::test]
async fn who_does_not_answer_in_time_is_late_and_settings_are_checked() {
    let listener = TcpListener::bind(ANY_PORT).await.unwrap();
    let silent = QdrantSettings {
        search_timeout: Duration::from_millis(200),
        ..settings_at(listener.local_addr().unwrap())
    };
    assert_eq!(QdrantIndex::open(silent.clone()).await.unwrap_err().kind(), ErrorKind::Timeout);
    drop(listener);
    let nobody = QdrantSettings { search_timeout: BOUND, ..silent.clone() };
    assert_eq!(QdrantIndex::open(nobody).await.unwrap_err().kind(), ErrorKind::Unavailable);
    let wrong = QdrantSettings { dimension: 0, ..silent };
    assert_eq!(QdrantIndex::open(wrong).await.unwrap_err().kind(), ErrorKind::Invalid);
}
