//! What every replica promises, whatever it searches by.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicUsize, Ordering},
};

use async_trait::async_trait;
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use serde_json::{Value, json};

use super::corpus::{Log, chunk, document, everywhere, filtered, history, object};
use crate::{
    domain::{Change, ChunkId, Collection, Document, Tenant},
    ports::{Replica, SearchScope},
};

/// A replica, and how to ask it.
#[async_trait]
pub trait Subject: Send + Sync + Sized {
    /// The replica.
    fn replica(&self) -> &dyn Replica;

    /// The chunks about a topic.
    async fn about(&self, topic: u32, scope: &SearchScope) -> BTreeSet<ChunkId>;

    /// Closes it and opens it again from where it was saved.
    async fn reopened(self) -> Self;
}

/// Makes replicas to test.
#[async_trait]
pub trait Factory<S>: Send + Sync {
    /// A new, empty one, apart from all others.
    async fn fresh(&self) -> S;
}

/// Runs all promises.
pub async fn run_all<S: Subject>(factory: &dyn Factory<S>) {
    starts_empty(factory.fresh().await).await;
    reads_its_writes(factory.fresh().await).await;
    applies_once(factory.fresh().await).await;
    replaces_a_chunk(factory.fresh().await).await;
    deletes(factory.fresh().await).await;
    follows_changed_metadata(factory.fresh().await).await;
    applies_a_batch_as_its_changes(factory.fresh().await, factory.fresh().await).await;
    keeps_tenants_and_collections_apart(factory.fresh().await).await;
    filters_as_the_domain_does(factory.fresh().await).await;
    keeps_the_limit(factory.fresh().await).await;
    saves_and_reopens(factory.fresh().await).await;
    resets(factory.fresh().await).await;
    answers_while_it_is_written_to(factory.fresh().await).await;
}

async fn apply<S: Subject>(subject: &S, changes: Vec<Change>) {
    let last = changes.last().map(|change| change.position);
    subject.replica().apply(changes).await.expect("changes are applied");
    if let Some(last) = last {
        assert!(subject.replica().position() >= last, "the position is that of the last change");
    }
}

fn ids<'a>(chunks: impl IntoIterator<Item = (&'a Document, u32)>) -> BTreeSet<ChunkId> {
    chunks.into_iter().map(|(document, topic)| chunk(document, topic, 0).id).collect()
}

async fn starts_empty<S: Subject>(subject: S) {
    assert_eq!(subject.replica().position(), 0);
    assert_eq!(subject.replica().history(), None);
    assert_eq!(subject.replica().count().await.expect("count"), 0);
    assert!(subject.about(1, &everywhere(10)).await.is_empty(), "an empty index finds nothing");
    subject.replica().apply(Vec::new()).await.expect("no changes are applied");
    assert_eq!(subject.replica().position(), 0);
}

async fn reads_its_writes<S: Subject>(subject: S) {
    let log = Log::default();
    let a = document("a", json!({}));
    for topic in 0..8 {
        apply(&subject, vec![log.put_topics(&a, &[topic])]).await;
        assert_eq!(
            subject.about(topic, &everywhere(10)).await,
            ids([(&a, topic)]),
            "found as soon as applied"
        );
        assert_eq!(subject.replica().count().await.expect("count"), u64::from(topic) + 1);
    }
}

async fn applies_once<S: Subject>(subject: S) {
    let log = Log::default();
    let (a, b) = (document("a", json!({})), document("b", json!({})));
    let changes = vec![
        log.put_topics(&a, &[1, 2]),
        log.put_topics(&b, &[1]),
        log.delete_chunks(&a, vec![chunk(&a, 2, 0).id]),
    ];
    apply(&subject, changes.clone()).await;
    let position = subject.replica().position();
    apply(&subject, changes.clone()).await;
    apply(&subject, changes[..1].to_vec()).await;
    assert_eq!(subject.replica().position(), position, "old changes do not move the position");
    assert_eq!(subject.replica().count().await.expect("count"), 2);
    assert_eq!(subject.about(1, &everywhere(10)).await, ids([(&a, 1), (&b, 1)]));
    assert!(
        subject.about(2, &everywhere(10)).await.is_empty(),
        "an old change does not bring back what went"
    );

    // Old changes before new ones, as after a restart.
    let mut more = changes;
    more.push(log.put_topics(&b, &[3]));
    apply(&subject, more).await;
    assert_eq!(subject.replica().count().await.expect("count"), 3);
    assert!(subject.about(2, &everywhere(10)).await.is_empty());
}

async fn replaces_a_chunk<S: Subject>(subject: S) {
    let log = Log::default();
    let a = document("a", json!({}));
    apply(&subject, vec![log.put_topics(&a, &[1]), log.put_topics(&a, &[1])]).await;
    apply(&subject, vec![log.put_topics(&a, &[1])]).await;
    assert_eq!(subject.replica().count().await.expect("count"), 1, "the same id is the same chunk");
    assert_eq!(subject.about(1, &everywhere(10)).await, ids([(&a, 1)]));
}

async fn deletes<S: Subject>(subject: S) {
    let log = Log::default();
    let (a, b) = (document("a", json!({})), document("b", json!({})));
    apply(&subject, vec![log.put_topics(&a, &[1, 2, 3]), log.put_topics(&b, &[1, 2])]).await;
    apply(&subject, vec![log.delete_chunks(&a, vec![chunk(&a, 1, 0).id, chunk(&a, 9, 0).id])]).await;
    assert_eq!(subject.about(1, &everywhere(10)).await, ids([(&b, 1)]), "a chunk that went is not found");
    assert_eq!(subject.about(2, &everywhere(10)).await, ids([(&a, 2), (&b, 2)]));
    apply(&subject, vec![log.delete_document(&b), log.delete_document(&document("unknown", json!({})))])
        .await;
    assert_eq!(subject.replica().count().await.expect("count"), 2);
    assert_eq!(
        subject.about(2, &everywhere(10)).await,
        ids([(&a, 2)]),
        "nothing of a document that went is found"
    );
    apply(&subject, vec![log.put_topics(&b, &[2])]).await;
    assert_eq!(subject.about(2, &everywhere(10)).await, ids([(&a, 2), (&b, 2)]), "what went can come again");
    apply(&subject, vec![log.delete_document(&a), log.delete_document(&b)]).await;
    assert_eq!(subject.replica().count().await.expect("count"), 0);
    assert!(subject.about(2, &everywhere(10)).await.is_empty());
    apply(&subject, vec![log.put_topics(&a, &[4])]).await;
    assert_eq!(subject.about(4, &everywhere(10)).await, ids([(&a, 4)]), "an index that was emptied goes on");
}

async fn follows_changed_metadata<S: Subject>(subject: S) {
    let log = Log::default();
    let mut a = document("a", json!({"lang": "en"}));
    apply(&subject, vec![log.put_topics(&a, &[1])]).await;
    assert_eq!(subject.about(1, &filtered(json!({"lang": "en"}), 10)).await, ids([(&a, 1)]));

    // A version that is being written has new metadata for its new chunks; those that are live keep theirs until it is published.
    a.metadata = object(json!({"lang": "de"}));
    apply(&subject, vec![log.put_topics(&a, &[2])]).await;
    assert_eq!(subject.about(1, &filtered(json!({"lang": "en"}), 10)).await, ids([(&a, 1)]));
    assert_eq!(subject.about(2, &filtered(json!({"lang": "de"}), 10)).await, ids([(&a, 2)]));
    apply(&subject, vec![log.put_document(&a)]).await;
    for topic in [1, 2] {
        assert!(subject.about(topic, &filtered(json!({"lang": "en"}), 10)).await.is_empty());
        assert_eq!(subject.about(topic, &filtered(json!({"lang": "de"}), 10)).await, ids([(&a, topic)]));
    }
    assert_eq!(subject.replica().count().await.expect("count"), 2);
    apply(&subject, vec![log.put_document(&document("unknown", json!({})))]).await;
    assert_eq!(subject.replica().count().await.expect("count"), 2, "a document without chunks adds none");
}

/// Random changes, one at a time into one index and all at once into the other.
async fn applies_a_batch_as_its_changes<S: Subject>(singly: S, at_once: S) {
    let log = Log::default();
    let mut rng = StdRng::seed_from_u64(11);
    let mut documents: Vec<Document> = (0..4).map(|n| document("d", json!({"n": n}))).collect();
    let changes: Vec<Change> = (0..40)
        .map(|_| {
            let index = rng.random_range(0..documents.len());
            let topics: Vec<u32> = (0..rng.random_range(1..4)).map(|_| rng.random_range(0..5)).collect();
            match rng.random_range(0..10) {
                0..5 => log.put_topics(&documents[index], &topics),
                5..7 => {
                    let ids = topics.iter().map(|topic| chunk(&documents[index], *topic, 0).id).collect();
                    log.delete_chunks(&documents[index], ids)
                }
                7..9 => {
                    documents[index].metadata = object(json!({"n": rng.random_range(0..4)}));
                    log.put_document(&documents[index])
                }
                _ => log.delete_document(&documents[index]),
            }
        })
        .collect();
    // Something of before, so that the batch meets it.
    let (before, batch) = changes.split_at(15);
    for change in &changes {
        apply(&singly, vec![change.clone()]).await;
    }
    apply(&at_once, before.to_vec()).await;
    apply(&at_once, batch.to_vec()).await;
    let count = singly.replica().count().await.expect("count");
    assert_eq!(count, at_once.replica().count().await.expect("count"));
    for topic in 0..5 {
        for scope in [everywhere(100), filtered(json!({"n": 1}), 100), filtered(json!({"n": [0, 3]}), 100)] {
            assert_eq!(
                singly.about(topic, &scope).await,
                at_once.about(topic, &scope).await,
                "topic {topic}, {:?}",
                scope.filter
            );
        }
    }
}

async fn keeps_tenants_and_collections_apart<S: Subject>(subject: S) {
    let log = Log::default();
    let names = ["default", "other", "default.x"];
    let mut documents = Vec::new();
    for tenant in names {
        for collection in names {
            let mut held = document("d", json!({"k": 1}));
            held.tenant = Tenant::new(tenant).expect("a name");
            held.collection = Collection::new(collection).expect("a name");
            documents.push(held);
        }
    }
    apply(&subject, documents.iter().map(|held| log.put_topics(held, &[1])).collect()).await;
    for held in &documents {
        for filter in [json!({}), json!({"k": 1})] {
            let scope = SearchScope {
                tenant: held.tenant.clone(),
                collection: held.collection.clone(),
                ..filtered(filter, 100)
            };
            assert_eq!(subject.about(1, &scope).await, ids([(held, 1)]));
        }
    }
    let nowhere = SearchScope { collection: Collection::new("missing").expect("a name"), ..everywhere(10) };
    assert!(subject.about(1, &nowhere).await.is_empty(), "a collection that is not there finds nothing");
}

/// Values that are easily taken for one another.
fn tricky_values() -> Vec<Value> {
    vec![
        json!("a"),
        json!("A"),
        json!("a b"),
        json!(""),
        json!("1"),
        json!("true"),
        json!("été"),
        json!("x\":\"y"),
        json!("line\nbreak\u{1}"),
        json!("w".repeat(300)),
        json!(format!("{}v", "w".repeat(299))),
        json!("w".repeat(70_000)),
        json!(1),
        json!(1.0),
        json!(1.5),
        json!(-1),
        json!(0),
        json!(0.0),
        json!(-0.0),
        json!(u64::MAX),
        json!(9_007_199_254_740_993_i64),
        json!(9_007_199_254_740_992_i64),
        json!(true),
        json!(false),
    ]
}

async fn filters_as_the_domain_does<S: Subject>(subject: S) {
    let log = Log::default();
    let mut rng = StdRng::seed_from_u64(7);
    let keys = ["k", "K", "a.b", "a", "a:b", "sp ace", "\"q\"", "é"];
    let values = tricky_values();
    let value = |rng: &mut StdRng| -> Value {
        let some = |rng: &mut StdRng| values.choose(rng).expect("there are values").clone();
        match rng.random_range(0..4) {
            0 => Value::Array((0..rng.random_range(0..4)).map(|_| some(rng)).collect()),
            _ => some(rng),
        }
    };
    let documents: Vec<Document> = (0..150)
        .map(|_| {
            let fields =
                keys.iter().filter(|_| rng.random_bool(0.6)).map(|key| (*key).to_owned()).collect::<Vec<_>>();
            let metadata = fields.into_iter().map(|key| (key, value(&mut rng))).collect();
            document("d", Value::Object(metadata))
        })
        .collect();
    apply(&subject, documents.iter().map(|held| log.put_topics(held, &[1])).collect()).await;
    let mut found_some = 0;
    for round in 0..300 {
        let mut filter = serde_json::Map::new();
        for key in keys.choose_multiple(&mut rng, if round % 3 == 0 { 2 } else { 1 }) {
            filter.insert((*key).to_owned(), value(&mut rng));
        }
        let scope = filtered(Value::Object(filter), 1000);
        let expected =
            ids(documents.iter().filter(|d| scope.filter.matches(&d.metadata)).map(|held| (held, 1)));
        found_some += usize::from(!expected.is_empty());
        assert_eq!(subject.about(1, &scope).await, expected, "filter {:?}", scope.filter);
    }
    assert!(found_some > 50, "the test finds something in {found_some} cases");
}

async fn keeps_the_limit<S: Subject>(subject: S) {
    let log = Log::default();
    let a = document("a", json!({}));
    apply(&subject, vec![log.put(&a, (0..30).map(|n| chunk(&a, 1, n)).collect())]).await;
    for limit in [0, 1, 7, 30] {
        assert_eq!(subject.about(1, &everywhere(limit)).await.len(), limit);
    }
    assert_eq!(subject.about(1, &everywhere(usize::MAX)).await.len(), 30, "any limit may be asked for");
}

async fn saves_and_reopens<S: Subject>(subject: S) {
    let log = Log::default();
    let fed_from = history();
    subject.replica().reset(fed_from).await.expect("reset");
    let (mut a, b) = (document("a", json!({"k": 1})), document("b", json!({"k": [2, "x"]})));
    apply(&subject, vec![log.put_topics(&a, &[1, 2]), log.put_topics(&b, &[1])]).await;
    subject.replica().save().await.expect("save");
    let saved = subject.replica().position();

    let subject = subject.reopened().await;
    assert_eq!(subject.replica().position(), saved, "the position that was saved");
    assert_eq!(subject.replica().history(), Some(fed_from));
    assert_eq!(subject.replica().count().await.expect("count"), 3);
    assert_eq!(subject.about(1, &everywhere(10)).await, ids([(&a, 1), (&b, 1)]));
    assert_eq!(subject.about(1, &filtered(json!({"k": "x"}), 10)).await, ids([(&b, 1)]));

    // It goes on: metadata, deletes and saves work on what was loaded.
    a.metadata = object(json!({"k": 3}));
    apply(&subject, vec![log.put_document(&a), log.delete_document(&b), log.put_topics(&a, &[3])]).await;
    subject.replica().save().await.expect("save");
    subject.replica().save().await.expect("saving again changes nothing");
    let later = subject.replica().position();
    let subject = subject.reopened().await;
    assert_eq!(subject.replica().position(), later);
    assert_eq!(subject.about(1, &filtered(json!({"k": 3}), 10)).await, ids([(&a, 1)]));
    assert_eq!(subject.about(3, &everywhere(10)).await, ids([(&a, 3)]));

    // What was applied and not saved may be lost, and is applied again from the position that is left.
    let unsaved = vec![log.put_topics(&b, &[5]), log.delete_chunks(&a, vec![chunk(&a, 3, 0).id])];
    apply(&subject, unsaved.clone()).await;
    let subject = subject.reopened().await;
    let position = subject.replica().position();
    assert!(position >= later, "what was saved is not lost");
    apply(&subject, unsaved).await;
    assert_eq!(subject.about(5, &everywhere(10)).await, ids([(&b, 5)]));
    assert!(subject.about(3, &everywhere(10)).await.is_empty());
    assert_eq!(subject.replica().count().await.expect("count"), 3);
}

async fn resets<S: Subject>(subject: S) {
    let log = Log::default();
    let a = document("a", json!({}));
    let (first, second) = (history(), history());
    subject.replica().reset(first).await.expect("reset");
    assert_eq!(subject.replica().history(), Some(first));
    apply(&subject, vec![log.put_topics(&a, &[1])]).await;
    subject.replica().save().await.expect("save");
    subject.replica().reset(second).await.expect("reset");
    assert_eq!((subject.replica().position(), subject.replica().history()), (0, Some(second)));
    assert_eq!(subject.replica().count().await.expect("count"), 0);
    assert!(subject.about(1, &everywhere(10)).await.is_empty());
    // Positions of the new history begin anew.
    let log = Log::default();
    apply(&subject, vec![log.put_topics(&a, &[2])]).await;
    assert_eq!(subject.about(2, &everywhere(10)).await, ids([(&a, 2)]));
    subject.replica().save().await.expect("save");
    let subject = subject.reopened().await;
    assert_eq!(subject.replica().history(), Some(second));
    assert_eq!(subject.about(2, &everywhere(10)).await, ids([(&a, 2)]));
    assert!(subject.about(1, &everywhere(10)).await.is_empty(), "nothing of the old history comes back");
}

/// Searches and changes at the same time.
async fn answers_while_it_is_written_to<S: Subject>(subject: S) {
    let log = Log::default();
    let a = document("a", json!({}));
    apply(&subject, vec![log.put_topics(&a, &[1])]).await;
    let pairs: Vec<Document> = (0..12).map(|n| document("pair", json!({"n": n}))).collect();
    let batches = AtomicUsize::new(0);
    let write = async {
        for pair in &pairs {
            apply(&subject, vec![log.put(pair, vec![chunk(pair, 2, 0), chunk(pair, 2, 1)])]).await;
            batches.fetch_add(1, Ordering::SeqCst);
        }
    };
    let read = async {
        loop {
            let before = batches.load(Ordering::SeqCst);
            let found = subject.about(2, &everywhere(100)).await;
            assert!(found.len() >= before * 2, "what was applied before the search is found");
            assert_eq!(subject.about(1, &everywhere(10)).await, ids([(&a, 1)]));
            if before == pairs.len() {
                break;
            }
        }
    };
    futures::join!(write, read);
}
