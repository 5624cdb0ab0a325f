use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::atomic::{AtomicBool, AtomicUsize},
};

use futures::future::join_all;
use raglan_pipeline::{contract::document_store as contract, domain::ChangeKind, ports::ErrorKind};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};
use sqlx::AssertSqlSafe;

use super::*;
use crate::database::{SqlxResultExt as _, postgres::scratch::Scratch};

async fn scratch(test: &str) -> Option<Scratch> {
    Scratch::new(&format!("document_store::postgres::{test}")).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keeps_the_contract() {
    let Some(scratch) = scratch("keeps_the_contract").await else { return };
    contract::run_all(async || {
        Arc::new(PostgresDocumentStore::new(scratch.database().await)) as Arc<dyn DocumentStore>
    })
    .await;
}

#[tokio::test]
async fn every_schema_has_a_history_of_its_own() {
    let Some(scratch) = scratch("every_schema_has_a_history_of_its_own").await else { return };
    let one = PostgresDocumentStore::new(scratch.database().await);
    let two = PostgresDocumentStore::new(scratch.database().await);
    assert_ne!(one.history().await.unwrap(), two.history().await.unwrap());
}

/// Stagers of several processes write at once while a reader follows: it must never pass a position that becomes visible later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn positions_become_visible_in_their_order() {
    const STAGERS: usize = 16;
    const DOCUMENTS: usize = 12;
    let Some(scratch) = scratch("positions_become_visible_in_their_order").await else { return };
    let settings = scratch.settings();
    let mut processes = Vec::new();
    for _ in 0..4 {
        let database = PostgresDatabase::open(settings.clone()).await.unwrap();
        processes.push(Arc::new(PostgresDocumentStore::new(database)));
    }
    let left = Arc::new(AtomicUsize::new(STAGERS));
    let stagers = (0..STAGERS).map(|stager| {
        let (store, left) = (Arc::clone(&processes[stager % processes.len()]), Arc::clone(&left));
        tokio::spawn(async move {
            for i in 0..DOCUMENTS {
                let draft =
                    contract::Draft::new(&format!("{stager}/{i}"), &[&format!("text {stager} {i}"), "more"]);
                let staged = draft.stage(&*store).await;
                match i % 3 {
                    0 => drop(store.publish(&[staged]).await.unwrap()),
                    1 => {
                        store.publish(&[staged]).await.unwrap();
                        store.delete(&Tenant::default(), staged.document_id).await.unwrap().unwrap();
                    }
                    _ => {}
                }
            }
            left.fetch_sub(1, Ordering::SeqCst);
        })
    });
    let stagers: Vec<_> = stagers.collect();
    let reader = Arc::clone(&processes[0]);
    let follower = tokio::spawn(async move {
        let (mut position, mut seen) = (0, HashSet::new());
        loop {
            let is_last = left.load(Ordering::SeqCst) == 0;
            let page = reader.changes(position, 7).await.unwrap();
            for change in &page {
                assert!(change.position > position, "in order");
                position = change.position;
                match &change.kind {
                    ChangeKind::PutChunks { document, .. } => drop(seen.insert(document.external_id.clone())),
                    ChangeKind::DeleteDocument { document_id } => drop(seen.insert(document_id.to_string())),
                    _ => {}
                }
            }
            if is_last && page.is_empty() {
                return (position, seen);
            }
        }
    });
    for stager in join_all(stagers).await {
        stager.unwrap();
    }
    let (position, seen) = follower.await.unwrap();
    assert_eq!(position, processes[0].head().await.unwrap());
    for stager in 0..STAGERS {
        for i in (0..DOCUMENTS).filter(|i| i % 3 != 1) {
            assert!(seen.contains(&format!("{stager}/{i}")), "the put of {stager}/{i} was passed over");
        }
    }
    let deletes = seen.iter().filter(|name| !name.contains('/')).count();
    assert_eq!(deletes, STAGERS * DOCUMENTS / 3, "no delete was passed over");
    let held = contract::Replica::fed_from(&*processes[1]).await.texts();
    assert_eq!(held.len(), STAGERS * DOCUMENTS * 2 / 3 * 2);
}

/// Nothing that stages waits for one that stages beside it and has not come to the log yet.
#[tokio::test]
async fn other_documents_are_staged_meanwhile() {
    let Some(scratch) = scratch("other_documents_are_staged_meanwhile").await else { return };
    let database = scratch.database().await;
    let store = PostgresDocumentStore::new(database.clone());
    let slow = contract::Draft::new("slow", &["one"]).build(&store).await;
    let quick = contract::Draft::new("quick", &["two"]);
    database
        .transaction(async |connection| {
            documents::hold(connection, &[&slow]).await?;
            quick.publish(&store).await;
            stage::stage(connection, std::slice::from_ref(&slow)).await
        })
        .await
        .unwrap();
    assert_eq!(contract::Replica::fed_from(&store).await.texts().len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collection_that_is_removed_while_documents_come_in_is_gone_or_whole() {
    let Some(scratch) =
        scratch("a_collection_that_is_removed_while_documents_come_in_is_gone_or_whole").await
    else {
        return;
    };
    let store = Arc::new(PostgresDocumentStore::new(scratch.database().await));
    let over = Arc::new(AtomicBool::new(false));
    let stagers: Vec<_> = (0..4)
        .map(|stager| {
            let (store, over) = (Arc::clone(&store), Arc::clone(&over));
            tokio::spawn(async move {
                let mut i = 0;
                while !over.load(Ordering::SeqCst) {
                    let draft = contract::Draft::new(&format!("{stager}/{i}"), &["one"]).within("busy");
                    let built = draft.build(&*store).await;
                    match store.stage(vec![built]).await {
                        Ok(staged) => drop(store.publish(&staged).await),
                        Err(error) => {
                            assert!(error.is_transient() || error.kind() == ErrorKind::Conflict, "{error:?}")
                        }
                    }
                    i += 1;
                }
            })
        })
        .collect();
    let (tenant, name) = (Tenant::default(), Collection::new("busy").unwrap());
    let mut removed = 0;
    while removed < 20 {
        removed += usize::from(store.delete_collection(&tenant, &name).await.unwrap().is_some());
    }
    over.store(true, Ordering::SeqCst);
    for stager in stagers {
        stager.await.unwrap();
    }
    let all = DocumentFilter { limit: 10_000, ..DocumentFilter::default() };
    let documents = store.list(&tenant, &all).await.unwrap().len() as u64;
    let counted = store.collection(&tenant, &name).await.unwrap().map_or(0, |info| info.documents);
    assert_eq!(documents, counted, "no document lies where there is no collection");
}

/// What an index must hold: of each chunk the title and language that it is read with, and its text.
type Index = BTreeMap<ChunkId, (String, serde_json::Value, String)>;

/// The index of one that has read the whole log.
async fn index_from_log(store: &dyn DocumentStore) -> Index {
    let (mut position, mut index, mut of) = (0, Index::new(), HashMap::new());
    let said = |document: &Document| (document.title.clone(), document.metadata["lang"].clone());
    loop {
        let page = store.changes(position, 10).await.unwrap();
        let Some(last) = page.last() else { return index };
        position = last.position;
        for change in page {
            match change.kind {
                ChangeKind::PutChunks { document, chunks } => {
                    let (title, lang) = said(&document);
                    for chunk in chunks {
                        of.insert(chunk.id, document.id);
                        index.insert(chunk.id, (title.clone(), lang.clone(), chunk.text));
                    }
                }
                ChangeKind::PutDocument { document } => {
                    let (title, lang) = said(&document);
                    for (_, held) in index.iter_mut().filter(|(id, _)| of.get(id) == Some(&document.id)) {
                        (held.0, held.1) = (title.clone(), lang.clone());
                    }
                }
                ChangeKind::DeleteChunks { chunk_ids, .. } => {
                    chunk_ids.iter().for_each(|id| drop(index.remove(id)))
                }
                ChangeKind::DeleteDocument { document_id } => {
                    index.retain(|id, _| of.get(id) != Some(&document_id))
                }
            }
        }
    }
}

/// What readers see, in the same form.
async fn index_of_live(store: &dyn DocumentStore) -> Index {
    let (tenant, mut index) = (Tenant::default(), Index::new());
    let all = DocumentFilter { limit: 1_000, ..DocumentFilter::default() };
    for document in store.list(&tenant, &all).await.unwrap() {
        let ids: Vec<_> = store.chunk_ids(document.id).await.unwrap().into_iter().map(|(id, _)| id).collect();
        for passage in store.passages(&tenant, &document.collection, &ids).await.unwrap() {
            let held = (passage.title, passage.metadata["lang"].clone(), passage.text);
            index.insert(passage.chunk_id, held);
        }
    }
    index
}

/// Several processes change the same few documents in every way at once. Whatever came of it, the log tells the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[allow(clippy::async_yields_async)] // each connects before it writes
async fn the_log_tells_what_readers_see_whoever_wrote_it() {
    let Some(scratch) = scratch("the_log_tells_what_readers_see_whoever_wrote_it").await else { return };
    let settings = scratch.settings();
    let writers = (0..6_u64).map(async |seed| {
        let store = PostgresDocumentStore::new(PostgresDatabase::open(settings.clone()).await.unwrap());
        tokio::spawn(async move { write_at_random(&store, StdRng::seed_from_u64(seed)).await })
    });
    for writer in join_all(writers).await {
        writer.await.unwrap();
    }
    let store = PostgresDocumentStore::new(PostgresDatabase::open(settings.clone()).await.unwrap());
    store.clean(Duration::ZERO).await.unwrap();
    assert_eq!(index_from_log(&store).await, index_of_live(&store).await);
}

async fn write_at_random(store: &PostgresDocumentStore, mut random: StdRng) {
    let tenant = Tenant::default();
    for _ in 0..40 {
        let pieces: Vec<_> =
            ["ant", "bee", "cat", "dog"].into_iter().filter(|_| random.random_bool(0.5)).collect();
        let draft = contract::Draft {
            title: (*["Title", "Another title"].choose(&mut random).unwrap()).into(),
            model: *[Some("m1"), Some("m2"), None].choose(&mut random).unwrap(),
            ..contract::Draft::new(&format!("d{}", random.random_range(0..4)), &pieces)
        };
        let draft = draft.with("lang", *["de", "en"].choose(&mut random).unwrap());
        let built = draft.build(store).await;
        let id = built.document.id;
        let done = match (random.random_range(0..20), store.stage(vec![built]).await) {
            (0, Ok(_)) => store.delete(&tenant, id).await.map(drop),
            (1, Ok(_)) => store.delete_collection(&tenant, &draft.collection).await.map(drop),
            (2, Ok(_)) => store.clean(Duration::ZERO).await.map(drop),
            (3, Ok(_)) => Ok(()),
            (_, Ok(staged)) => store.publish(&staged).await.map(drop),
            (_, Err(error)) => Err(error),
        };
        if let Err(error) = done {
            assert_eq!(error.kind(), ErrorKind::Conflict, "{error:?}");
        }
    }
}

#[tokio::test]
async fn a_document_that_stands_twice_in_a_batch_is_taken_in_its_order() {
    let Some(scratch) = scratch("a_document_that_stands_twice_in_a_batch_is_taken_in_its_order").await else {
        return;
    };
    let store = PostgresDocumentStore::new(scratch.database().await);
    let mut batch = Vec::new();
    for pieces in [["one", "two"], ["two", "three"]] {
        batch.push(contract::Draft::new("twice", &pieces).build(&store).await);
        batch.push(contract::Draft::new(&format!("beside {}", pieces[0]), &["x"]).build(&store).await);
    }
    let staged = store.stage(batch).await.unwrap();
    assert_eq!(staged.iter().map(|staged| staged.version).collect::<Vec<_>>(), [1, 1, 2, 1]);
    let published = store.publish(&staged).await.unwrap();
    assert!(published.iter().all(|published| !published.superseded));
    assert_eq!(published[2].deleted_chunks, 1);
    assert_eq!(contract::texts(&store, staged[0].document_id).await, ["two", "three"]);
    let held: HashSet<_> = contract::Replica::fed_from(&store).await.texts().into_iter().collect();
    assert_eq!(held, HashSet::from(["two", "three", "x"].map(String::from)));
}

#[tokio::test]
async fn what_postgres_cannot_store_is_refused_whole() {
    let Some(scratch) = scratch("what_postgres_cannot_store_is_refused_whole").await else { return };
    let store = PostgresDocumentStore::new(scratch.database().await);
    let fine = contract::Draft::new("fine", &["one"]).build(&store).await;
    let mut bad = contract::Draft::new("bad", &["two"]).build(&store).await;
    bad.text = "nul \0".into();
    assert_eq!(store.stage(vec![fine, bad]).await.unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(store.head().await.unwrap(), 0, "nothing was written");
    // In metadata, which is kept as it came, it is no trouble.
    let id = contract::Draft::new("odd", &["one"]).with("key", "nul \0").publish(&store).await;
    let document = store.get(&Tenant::default(), id).await.unwrap().unwrap();
    assert_eq!(document.metadata["key"], "nul \0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_is_cleaned_than_one_batch_holds() {
    let Some(scratch) = scratch("more_is_cleaned_than_one_batch_holds").await else { return };
    let store = PostgresDocumentStore::new(scratch.database().await);
    let mut batch = Vec::new();
    for i in 0..1_100 {
        batch.push(contract::Draft::new(&format!("d{i}"), &["left"]).build(&store).await);
    }
    let staged = store.stage(batch).await.unwrap();
    store.publish(&staged[..10]).await.unwrap();
    assert_eq!(store.clean(Duration::from_secs(3_600)).await.unwrap(), 0, "they may yet be published");
    assert_eq!(store.clean(Duration::MAX).await.unwrap(), 0, "nothing is older than the calendar");
    assert_eq!(store.clean(Duration::ZERO).await.unwrap(), 1_090);
    assert_eq!(store.clean(Duration::ZERO).await.unwrap(), 0, "what that logged is old by now");
    let head = store.head().await.unwrap();
    assert!(store.horizon().await.unwrap() > 0 && store.horizon().await.unwrap() < head);
    assert_eq!(contract::Replica::fed_from(&store).await.texts().len(), 10);
    assert_eq!(
        store.collection(&Tenant::default(), &Collection::default()).await.unwrap().unwrap().documents,
        10
    );
    let left: i64 = store
        .database
        .primary(async |connection| {
            sqlx::query_scalar("SELECT count(*) FROM documents").fetch_one(connection).await.port()
        })
        .await
        .unwrap();
    assert_eq!(left, 10);
}

/// What the planner does must not depend on how much is in the tables.
#[tokio::test]
async fn passages_and_changes_are_looked_up_not_scanned() {
    let Some(scratch) = scratch("passages_and_changes_are_looked_up_not_scanned").await else { return };
    let database = scratch.database().await;
    // Of an empty table a scan is the cheapest; the question is whether anything else could be done.
    let plans = database
        .transaction(async |connection| {
            let mut plans = Vec::new();
            sqlx::query("SET LOCAL enable_seqscan = off").execute(&mut *connection).await.port()?;
            for (sql, arguments) in [
                (chunks::PASSAGES, "'{}', 'default', 'default'"),
                (chunks::OF_PUTS, "'{}'"),
                (changes::PAGE, "0, 10"),
            ] {
                for sql in [
                    format!("PREPARE looked_up AS {sql}"),
                    format!("EXPLAIN EXECUTE looked_up ({arguments})"),
                    "DEALLOCATE looked_up".to_owned(),
                ] {
                    let rows: Vec<String> = sqlx::raw_sql(AssertSqlSafe(sql))
                        .fetch_all(&mut *connection)
                        .await
                        .port()?
                        .iter()
                        .map(|row| sqlx::Row::get(row, 0))
                        .collect();
                    plans.push(rows.join("\n"));
                }
            }
            Ok(plans)
        })
        .await
        .unwrap();
    for plan in plans {
        assert!(!plan.contains("Seq Scan"), "{plan}");
    }
}
