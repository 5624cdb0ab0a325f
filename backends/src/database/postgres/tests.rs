use std::pin::pin;

use futures::{StreamExt as _, future::join_all};
use raglan_pipeline::{
    contract::job_store::{a_query, accept},
    domain::JobId,
    ports::JobStore as _,
};
use sqlx::AssertSqlSafe;

use super::{scratch::Scratch, *};
use crate::job_store::PostgresJobStore;

async fn scratch(test: &str) -> Option<Scratch> {
    Scratch::new(&format!("database::postgres::{test}")).await
}

async fn run(database: &PostgresDatabase, sql: impl Into<String>) -> PortResult<u64> {
    let sql = sql.into();
    let run = async |connection: &mut PgConnection| {
        sqlx::query(AssertSqlSafe(sql)).execute(connection).await.port().map(|done| done.rows_affected())
    };
    database.primary(run).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_ten_that_migrate_at_once_one_does() {
    let Some(scratch) = scratch("of_ten_that_migrate_at_once_one_does").await else { return };
    let settings = scratch.settings();
    let migrations = (0..10).map(|_| {
        let settings = settings.clone();
        tokio::spawn(async move { PostgresDatabase::migrate(&settings).await })
    });
    for migrated in join_all(migrations).await {
        migrated.unwrap().unwrap();
    }
    let database = PostgresDatabase::connect(settings).await.unwrap();
    database.check_migrated().await.unwrap();
    assert_eq!(run(&database, "SELECT FROM _sqlx_migrations").await.unwrap(), 1);
    assert_eq!(run(&database, "SELECT FROM change_log").await.unwrap(), 1, "one history");
}

#[tokio::test]
async fn a_schema_is_looked_at_before_it_is_used() {
    let Some(scratch) = scratch("a_schema_is_looked_at_before_it_is_used").await else { return };
    let settings = scratch.settings();
    let database = PostgresDatabase::connect(settings.clone()).await.unwrap();
    let error = database.check_migrated().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("migrate it"), "{error}");
    PostgresDatabase::migrate(&settings).await.unwrap();
    database.check_migrated().await.unwrap();

    run(&database, "UPDATE _sqlx_migrations SET checksum = 'x'").await.unwrap();
    let error = database.check_migrated().await.unwrap_err();
    assert!(error.to_string().contains("not those of this program"), "{error}");
    assert_eq!(PostgresDatabase::migrate(&settings).await.unwrap_err().kind(), ErrorKind::Invalid);

    run(&database, "INSERT INTO _sqlx_migrations VALUES (999999, 'later', now(), true, '', 0)")
        .await
        .unwrap();
    for error in [
        database.check_migrated().await.unwrap_err(),
        PostgresDatabase::migrate(&settings).await.unwrap_err(),
        PostgresDatabase::open(settings.clone()).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains("newer version"), "{error}");
    }
    run(&database, "DELETE FROM _sqlx_migrations WHERE version < 999999").await.unwrap();
    run(&database, "UPDATE _sqlx_migrations SET version = 1, success = false").await.unwrap();
    let error = database.check_migrated().await.unwrap_err();
    assert!(error.to_string().contains("not finished"), "{error}");
}

#[tokio::test]
async fn schemas_are_apart() {
    let Some(scratch) = scratch("schemas_are_apart").await else { return };
    let (one, two) = (scratch.database().await, scratch.database().await);
    run(&one, "INSERT INTO collections VALUES ('t', 'mine', now(), '')").await.unwrap();
    assert_eq!(run(&one, "SELECT FROM collections").await.unwrap(), 1);
    assert_eq!(run(&two, "SELECT FROM collections").await.unwrap(), 0);
}

#[tokio::test]
async fn settings_that_cannot_be_are_refused_and_never_printed() {
    for schema in ["", "1st", "a-b", "a\"b", "a;b", &"x".repeat(64)] {
        let settings = PostgresSettings {
            schema: Some(schema.into()),
            ..PostgresSettings::new("postgres://user:hunter2@127.0.0.1:1/x".to_owned())
        };
        assert_eq!(
            PostgresDatabase::migrate(&settings).await.unwrap_err().kind(),
            ErrorKind::Invalid,
            "{schema}"
        );
    }
    for url in ["mysql://user:hunter2@127.0.0.1:1/x", "postgres://user:hunter2@127.0.0.1:port/x"] {
        let settings = PostgresSettings::new(url.to_owned());
        let error = PostgresDatabase::connect(settings.clone()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(!format!("{error} {error:?} {settings:?}").contains("hunter2"));
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_is_unavailable_in_time() {
    // Nobody listens on a port that was just given back.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = format!("postgres://user:hunter2@127.0.0.1:{port}/x");
    let settings =
        PostgresSettings { acquire_timeout: Duration::from_millis(300), ..PostgresSettings::new(url) };
    for error in [
        PostgresDatabase::connect(settings.clone()).await.unwrap_err(),
        PostgresDatabase::migrate(&settings).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        assert!(!format!("{error} {error:?}").contains("hunter2"));
    }
}

#[tokio::test]
async fn a_busy_pool_is_overload() {
    let Some(scratch) = scratch("a_busy_pool_is_overload").await else { return };
    let settings =
        PostgresSettings { pool_size: 1, acquire_timeout: Duration::from_millis(200), ..scratch.settings() };
    let database = PostgresDatabase::open(settings).await.unwrap();
    let error = database
        .primary(async |_| database.ping().await)
        .await
        .expect_err("there is one connection, and this call has it");
    assert_eq!(error.kind(), ErrorKind::Overloaded);
    database.ping().await.unwrap();
}

#[tokio::test]
async fn a_statement_that_takes_too_long_is_cut_off() {
    let Some(scratch) = scratch("a_statement_that_takes_too_long_is_cut_off").await else { return };
    let settings = PostgresSettings { statement_timeout: Duration::from_millis(100), ..scratch.settings() };
    let database = PostgresDatabase::open(settings).await.unwrap();
    let error = run(&database, "SELECT pg_sleep(3600)").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "by the server: {error}");
    let error = database
        .primary(async |_| {
            std::future::pending::<()>().await;
            Ok(())
        })
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "by the caller's side: {error}");
    database.ping().await.unwrap();
}

#[tokio::test]
async fn a_call_that_was_given_up_leaves_nothing_behind() {
    let Some(scratch) = scratch("a_call_that_was_given_up_leaves_nothing_behind").await else { return };
    let settings = PostgresSettings { pool_size: 1, ..scratch.settings() };
    let database = PostgresDatabase::open(settings).await.unwrap();
    let given_up = database.transaction(async |connection| {
        sqlx::query("INSERT INTO collections VALUES ('t', 'left', now(), '')")
            .execute(&mut *connection)
            .await
            .port()?;
        sqlx::query("SELECT pg_sleep(3600)").execute(connection).await.map(drop).port()
    });
    assert!(tokio::time::timeout(Duration::from_millis(100), given_up).await.is_err());
    // The pool has one connection, and it is not the one in which the sleep goes on.
    assert_eq!(run(&database, "SELECT FROM collections").await.unwrap(), 0);
    let failed = database.transaction(async |connection| {
        sqlx::query("INSERT INTO collections VALUES ('t', 'left', now(), '')")
            .execute(connection)
            .await
            .port()?;
        Err::<(), _>(PortError::new(ErrorKind::Conflict, "for the test"))
    });
    assert_eq!(failed.await.unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(run(&database, "SELECT FROM collections").await.unwrap(), 0, "a failure undoes it");
}

#[tokio::test]
async fn a_closed_database_answers_unavailable() {
    let Some(scratch) = scratch("a_closed_database_answers_unavailable").await else { return };
    let database = scratch.database().await;
    let jobs = PostgresJobStore::new(database.clone(), Duration::from_secs(3_600));
    accept(&jobs, a_query(JobId::generate())).await;
    database.close().await;
    database.close().await;
    assert_eq!(database.ping().await.unwrap_err().kind(), ErrorKind::Unavailable);
    let late = jobs.accept(a_query(JobId::generate())).await;
    assert_eq!(late.unwrap_err().kind(), ErrorKind::Unavailable, "also what has a connection of its own");
    assert_eq!(pin!(database.listen()).next().await, None);
}

#[tokio::test]
async fn stale_reads_go_to_the_replica_while_it_answers() {
    let Some(scratch) = scratch("stale_reads_go_to_the_replica_while_it_answers").await else { return };
    let settings = scratch.settings();
    let named = |url: &Secret, name: &str| Secret::new(format!("{}?application_name={name}", url.expose()));
    let asked = async |database: &PostgresDatabase| -> String {
        let name = async |connection: &mut PgConnection| {
            sqlx::query_scalar("SHOW application_name").fetch_one(connection).await.port()
        };
        database.stale(name).await.unwrap()
    };
    let with_replica =
        PostgresSettings { replica_url: Some(named(&settings.url, "replica")), ..settings.clone() };
    assert_eq!(asked(&PostgresDatabase::open(with_replica).await.unwrap()).await, "replica");
    assert_eq!(asked(&PostgresDatabase::open(settings.clone()).await.unwrap()).await, "raglan");
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let away = PostgresSettings {
        replica_url: Some(format!("postgres://x@127.0.0.1:{port}/x").into()),
        acquire_timeout: Duration::from_millis(300),
        ..settings
    };
    let database = PostgresDatabase::open(away).await.unwrap();
    for _ in 0..2 {
        assert_eq!(asked(&database).await, "raglan", "the primary steps in");
    }
    assert!(database.shared.replica.as_ref().unwrap().is_paused(), "it is not asked again at once");
}

#[tokio::test]
async fn hints_come_after_changes_of_this_schema_and_after_every_connection() {
    let Some(scratch) = scratch("hints_come_after_changes_of_this_schema_and_after_every_connection").await
    else {
        return;
    };
    let name = format!("listens {}", uuid::Uuid::new_v4());
    let database = PostgresDatabase::open(scratch.named_settings(&name)).await.unwrap();
    let other = scratch.database().await;
    let notify = async |database: &PostgresDatabase| {
        run(database, format!("SELECT pg_notify('{CHANGES_CHANNEL}', current_schema())")).await.unwrap();
    };
    let mut hints = pin!(database.listen());
    assert_eq!(hints.next().await, Some(()), "it listens now; something may have been before");
    notify(&other).await;
    notify(&database).await;
    assert_eq!(hints.next().await, Some(()));
    // Nothing is left of the other schema's: the next one is that of a new connection.
    let cut =
        format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = '{name}'");
    assert!(run(&other, cut).await.unwrap() >= 1);
    assert_eq!(hints.next().await, Some(()));
    notify(&database).await;
    assert_eq!(hints.next().await, Some(()));
}
