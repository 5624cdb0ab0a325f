use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use raglan_pipeline::contract::document_store as contract;
use tempfile::TempDir;

use super::*;

async fn open(folder: &TempDir, name: &str) -> (SqliteDatabase, SqliteDocumentStore) {
    let database = SqliteDatabase::open(&folder.path().join(name)).await.unwrap();
    (database.clone(), SqliteDocumentStore::new(database))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keeps_the_contract() {
    let folder = TempDir::new().unwrap();
    let count = AtomicUsize::new(0);
    contract::run_all(async || {
        let name = format!("{}.db", count.fetch_add(1, Ordering::Relaxed));
        Arc::new(open(&folder, &name).await.1) as Arc<dyn DocumentStore>
    })
    .await;
}

#[tokio::test]
async fn documents_and_the_log_survive_a_close_and_a_drop_without_one() {
    let folder = TempDir::new().unwrap();
    let (database, store) = open(&folder, "a.db").await;
    let draft = contract::Draft::new("one", &["alpha", "beta"]);
    let id = draft.publish(&store).await;
    let history = store.history().await.unwrap();
    let before = contract::Replica::fed_from(&store).await;
    database.close().await.unwrap();
    drop((database, store));

    let (database, store) = open(&folder, "a.db").await;
    assert_eq!(store.history().await.unwrap(), history);
    assert_eq!(contract::Replica::fed_from(&store).await, before);
    let two = contract::Draft::new("two", &["gamma"]).publish(&store).await;
    let texts = contract::texts(&store, two).await;
    drop((database, store));

    let (_database, store) = open(&folder, "a.db").await;
    assert_eq!(contract::texts(&store, id).await, ["alpha", "beta"]);
    assert_eq!(contract::texts(&store, two).await, texts);
    assert_eq!(store.text(&Tenant::default(), id).await.unwrap().as_deref(), Some("alpha beta"));
}

#[tokio::test]
async fn a_database_of_its_own_has_a_history_of_its_own() {
    let folder = TempDir::new().unwrap();
    let (_a, one) = open(&folder, "a.db").await;
    let (_b, two) = open(&folder, "b.db").await;
    assert_ne!(one.history().await.unwrap(), two.history().await.unwrap());
}

/// What the planner does must not depend on how much is in the tables.
#[tokio::test]
async fn passages_and_changes_are_looked_up_not_scanned() {
    let folder = TempDir::new().unwrap();
    let (database, _store) = open(&folder, "a.db").await;
    for sql in [chunks::PASSAGES, chunks::PUT_AT] {
        let plan: Vec<(i64, i64, i64, String)> =
            sqlx::query_as(sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {sql}")))
                .fetch_all(database.readers())
                .await
                .unwrap();
        let scans =
            plan.iter().filter(|step| step.3.starts_with("SCAN") && !step.3.contains("VIRTUAL TABLE"));
        assert_eq!(scans.count(), 0, "{plan:?}");
    }
}
