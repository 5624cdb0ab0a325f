use std::sync::atomic::Ordering;

use futures::FutureExt as _;
use tempfile::TempDir;
use tokio::sync::oneshot;

use super::*;

async fn scratch() -> (TempDir, SqliteDatabase) {
    let folder = TempDir::new().unwrap();
    let database = SqliteDatabase::open(&folder.path().join("nested/raglan.db")).await.unwrap();
    (folder, database)
}

async fn put(database: &SqliteDatabase, name: String) -> PortResult<()> {
    database
        .write(move |connection| {
            async move {
                sqlx::query("INSERT INTO collections VALUES ('t', ?, '', 0)")
                    .bind(name)
                    .execute(connection)
                    .await
                    .map(drop)
                    .port()
            }
            .boxed()
        })
        .await
}

async fn names(database: &SqliteDatabase) -> Vec<String> {
    sqlx::query_scalar("SELECT name FROM collections ORDER BY name")
        .fetch_all(database.readers())
        .await
        .unwrap()
}

/// Occupies the writer until the sender is used.
fn occupy(database: &SqliteDatabase) -> (oneshot::Sender<()>, tokio::task::JoinHandle<PortResult<()>>) {
    let (release, released) = oneshot::channel::<()>();
    let database = database.clone();
    let held = tokio::spawn(async move {
        database
            .write(|_| {
                async move {
                    released.await.unwrap();
                    Ok(())
                }
                .boxed()
            })
            .await
    });
    (release, held)
}

#[tokio::test]
async fn writes_that_wait_are_committed_together_and_fail_alone() {
    let (_folder, database) = scratch().await;
    let (release, held) = occupy(&database);
    // All are polled up to their place in the queue before the writer is let go.
    let mut writes: Vec<_> = (0..100).map(|i| Box::pin(put(&database, format!("{:02}", i % 99)))).collect();
    tokio::task::yield_now().await;
    for write in &mut writes {
        assert!(write.now_or_never_ref().is_none());
    }
    release.send(()).unwrap();
    let results = futures::future::join_all(writes).await;
    held.await.unwrap().unwrap();

    let failed: Vec<_> = results.iter().filter_map(|result| result.as_ref().err()).collect();
    assert_eq!(failed.len(), 1, "only the second `00` fails");
    assert_eq!(failed[0].kind(), ErrorKind::Conflict);
    assert_eq!(names(&database).await.len(), 99);
    let commits = database.writer.commits.load(Ordering::Relaxed);
    assert!(commits < 100, "{commits} commits for 101 writes");
}

trait PollOnce: std::future::Future + Unpin {
    fn now_or_never_ref(&mut self) -> Option<Self::Output> {
        std::pin::Pin::new(self).now_or_never()
    }
}

impl<F: std::future::Future + Unpin> PollOnce for F {}

#[tokio::test]
async fn a_full_disk_is_overload_and_passes() {
    let (_folder, database) = scratch().await;
    database
        .write(|connection| {
            async move {
                // As if the disk ended a few pages from here.
                sqlx::query("PRAGMA max_page_count = 60").execute(connection).await.map(drop).port()
            }
            .boxed()
        })
        .await
        .unwrap();
    let (small, huge) = tokio::join!(put(&database, "small".into()), put(&database, "x".repeat(1_000_000)));
    assert_eq!(huge.unwrap_err().kind(), ErrorKind::Overloaded);
    assert!(small.as_ref().err().is_none_or(PortError::is_transient), "{small:?}");
    assert_eq!(names(&database).await.len(), usize::from(small.is_ok()), "an answer tells what is there");
    put(&database, "after".into()).await.unwrap();
}

#[tokio::test]
async fn a_write_that_panics_is_undone_and_leaves_the_writer_working() {
    let (_folder, database) = scratch().await;
    let panicked: PortResult<()> = database
        .write(|connection| {
            async move {
                sqlx::query("INSERT INTO collections VALUES ('t', 'torn', '', 0)")
                    .execute(connection)
                    .await
                    .port()?;
                panic!("for the test");
            }
            .boxed()
        })
        .await;
    assert_eq!(panicked.unwrap_err().kind(), ErrorKind::Internal);
    put(&database, "whole".into()).await.unwrap();
    assert_eq!(names(&database).await, ["whole"]);
}

#[tokio::test]
async fn a_write_whose_caller_left_before_it_began_does_not_happen() {
    let (_folder, database) = scratch().await;
    let (release, held) = occupy(&database);
    tokio::task::yield_now().await;
    let mut left = Box::pin(put(&database, "left".into()));
    assert!(left.now_or_never_ref().is_none());
    drop(left);
    release.send(()).unwrap();
    held.await.unwrap().unwrap();
    put(&database, "stayed".into()).await.unwrap();
    assert_eq!(names(&database).await, ["stayed"]);
}

#[tokio::test]
async fn a_closed_database_has_no_log_left_and_answers_unavailable() {
    let (folder, database) = scratch().await;
    put(&database, "kept".into()).await.unwrap();
    database.close().await.unwrap();
    database.close().await.unwrap();
    assert!(!folder.path().join("nested/raglan.db-wal").exists());
    assert_eq!(put(&database, "late".into()).await.unwrap_err().kind(), ErrorKind::Unavailable);
    let again = SqliteDatabase::open(&folder.path().join("nested/raglan.db")).await.unwrap();
    assert_eq!(names(&again).await, ["kept"]);
}

#[tokio::test]
async fn readers_cannot_write() {
    let (_folder, database) = scratch().await;
    let error = sqlx::query("DELETE FROM collections").execute(database.readers()).await.port().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
}

#[tokio::test]
async fn a_file_that_is_no_database_is_corrupt() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("raglan.db");
    std::fs::write(&path, "this is a letter, not a database. ".repeat(200)).unwrap();
    assert_eq!(SqliteDatabase::open(&path).await.unwrap_err().kind(), ErrorKind::Corrupt);
}

#[tokio::test]
async fn a_database_of_a_newer_program_is_refused() {
    let (folder, database) = scratch().await;
    database
        .write(|connection| {
            async move {
                sqlx::query(
                    "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
                     VALUES (999999, 'later', 1, x'00', 0)",
                )
                .execute(connection)
                .await
                .map(drop)
                .port()
            }
            .boxed()
        })
        .await
        .unwrap();
    database.close().await.unwrap();
    let error = SqliteDatabase::open(&folder.path().join("nested/raglan.db")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("newer version"), "{error}");
}
