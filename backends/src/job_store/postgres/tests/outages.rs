//! Connections that are cut, wires that go dead, callers that leave.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_fail_for_a_moment_when_the_server_cuts_connections() {
    let Some(scratch) = scratch("calls_fail_for_a_moment_when_the_server_cuts_connections").await else {
        return;
    };
    let name = format!("cut {}", JobId::generate());
    let database = PostgresDatabase::open(scratch.named_settings(&name)).await.unwrap();
    let jobs = Arc::new(PostgresJobStore::new(database, HOUR));
    let over = Arc::new(AtomicBool::new(false));
    let callers: Vec<_> = (0..20)
        .map(|_| {
            let (jobs, over) = (Arc::clone(&jobs), Arc::clone(&over));
            tokio::spawn(async move {
                let mut stored = Vec::new();
                while !over.load(Ordering::SeqCst) {
                    let id = JobId::generate();
                    match jobs.accept(a_query(id)).await {
                        Ok(Accepted::New(job)) => stored.push(job.id),
                        Ok(other) => panic!("unexpected: {other:?}"),
                        Err(error) => assert!(error.is_transient(), "{error:?}"),
                    }
                    if let Err(error) = jobs.get(id).await {
                        assert!(error.is_transient(), "{error:?}");
                    }
                }
                stored
            })
        })
        .collect();
    let elsewhere = PostgresDatabase::connect(scratch.settings()).await.unwrap();
    let mut cut = 0;
    while cut < 10 {
        let pids: Vec<bool> = elsewhere
            .primary(async |connection| {
                sqlx::query_scalar(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1",
                )
                .bind(&name)
                .fetch_all(connection)
                .await
                .port()
            })
            .await
            .unwrap();
        cut += pids.len();
        // As long as nothing was stored since, cutting again shows nothing new.
        while jobs.accept(a_query(JobId::generate())).await.is_err() {}
    }
    over.store(true, Ordering::SeqCst);
    let mut stored = HashSet::new();
    for caller in join_all(callers).await {
        stored.extend(caller.unwrap());
    }
    for id in &stored {
        assert!(jobs.get(*id).await.unwrap().is_some(), "what was accepted is there");
    }
    assert!(!stored.is_empty());
}

#[tokio::test]
async fn a_wire_that_is_cut_without_a_word_is_given_up_in_time() {
    let Some(scratch) = scratch("a_wire_that_is_cut_without_a_word_is_given_up_in_time").await else {
        return;
    };
    let settings = scratch.settings();
    let wire = Wire::to(&settings).await;
    let settings = PostgresSettings { statement_timeout: Duration::from_millis(500), ..wire.over(settings) };
    let jobs = PostgresJobStore::new(PostgresDatabase::open(settings).await.unwrap(), HOUR);
    let before = accept(&jobs, a_query(JobId::generate())).await;
    for _ in 0..2 {
        wire.cut();
        // The writer's connection is one, the readers' are others.
        let after = loop {
            match jobs.accept(a_query(JobId::generate())).await {
                Ok(Accepted::New(job)) => break job,
                Ok(other) => panic!("unexpected: {other:?}"),
                Err(error) => assert!(error.is_transient(), "{error:?}"),
            }
        };
        for job in [&before, &after] {
            let found = loop {
                match jobs.get(job.id).await {
                    Ok(found) => break found,
                    Err(error) => assert!(error.is_transient(), "{error:?}"),
                }
            };
            assert_eq!(found.as_ref(), Some(job));
        }
    }
}

#[tokio::test]
async fn a_caller_that_left_before_its_turn_changes_nothing() {
    let Some(scratch) = scratch("a_caller_that_left_before_its_turn_changes_nothing").await else { return };
    let name = format!("left {}", JobId::generate());
    let database = PostgresDatabase::open(scratch.named_settings(&name)).await.unwrap();
    let jobs = Arc::new(PostgresJobStore::new(database.clone(), HOUR));
    let held = accept(&*jobs, a_query(JobId::generate())).await;
    let left = a_query(JobId::generate());
    // The writer waits for the row that this transaction has; a call that comes meanwhile waits for its turn.
    let waits = database
        .transaction(async |connection: &mut PgConnection| {
            sqlx::query("SELECT FROM jobs WHERE id = $1 FOR UPDATE")
                .bind(held.id.0)
                .execute(&mut *connection)
                .await
                .port()?;
            let waits = tokio::spawn({
                let (jobs, held) = (Arc::clone(&jobs), held.clone());
                async move { jobs.take(held.id, held.stage, HOUR).await }
            });
            until_somebody_waits(&database, &name).await;
            assert!(jobs.accept(left.clone()).now_or_never().is_none());
            Ok(waits)
        })
        .await
        .unwrap();
    assert!(matches!(waits.await.unwrap().unwrap(), Taken::Yes(_)));
    let stays = accept(&*jobs, a_query(JobId::generate())).await;
    assert!(jobs.get(stays.id).await.unwrap().is_some());
    assert_eq!(jobs.get(left.id).await.unwrap(), None);
}

/// Until a statement in a connection of this name waits for a lock.
async fn until_somebody_waits(database: &PostgresDatabase, name: &str) {
    let waits = async |connection: &mut PgConnection| -> PortResult<bool> {
        sqlx::query_scalar(
            "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE application_name = $1 AND wait_event_type = 'Lock')",
        )
        .bind(name)
        .fetch_one(connection)
        .await
        .port()
    };
    while !database.primary(waits).await.unwrap() {
        tokio::task::yield_now().await;
    }
}
