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
    let left = accept(&*jobs, a_query(JobId::generate())).await;
    // The task that writes ends waits for the row that this transaction has; a call that comes meanwhile waits for its turn.
    let waits = database
        .transaction(async |connection: &mut PgConnection| {
            let waits = end_while_locked(&jobs, &held, &database, &name, connection).await?;
            assert!(jobs.end(left.id, Ending::Cancel).now_or_never().is_none());
            Ok(waits)
        })
        .await
        .unwrap();
    assert!(matches!(waits.await.unwrap().unwrap(), Ended::Now(_)));
    let stays = accept(&*jobs, a_query(JobId::generate())).await;
    assert!(matches!(jobs.end(stays.id, Ending::Cancel).await.unwrap(), Ended::Now(_)));
    assert_eq!(jobs.get(left.id).await.unwrap(), Some(left));
}

#[tokio::test]
async fn an_end_that_is_held_up_holds_up_no_acceptance_and_no_worker() {
    let Some(scratch) = scratch("an_end_that_is_held_up_holds_up_no_acceptance_and_no_worker").await else {
        return;
    };
    let name = format!("apart {}", JobId::generate());
    let database = PostgresDatabase::open(scratch.named_settings(&name)).await.unwrap();
    let jobs = Arc::new(PostgresJobStore::new(database.clone(), HOUR));
    let held = accept(&*jobs, a_query(JobId::generate())).await;
    let waits = database
        .transaction(async |connection: &mut PgConnection| {
            let waits = end_while_locked(&jobs, &held, &database, &name, connection).await?;
            for _ in 0..8 {
                let new = accept(&*jobs, a_query(JobId::generate())).await;
                assert!(matches!(jobs.take(new.id, new.stage, HOUR).await?, Taken::Yes(_)));
            }
            assert!(!waits.is_finished(), "it was held up all the while");
            Ok(waits)
        })
        .await
        .unwrap();
    assert!(matches!(waits.await.unwrap().unwrap(), Ended::Now(_)));
}

/// Locks a job's row in this transaction and has the job ended: until the transaction ends, that waits.
async fn end_while_locked(
    jobs: &Arc<PostgresJobStore>,
    job: &Job,
    database: &PostgresDatabase,
    name: &str,
    connection: &mut PgConnection,
) -> PortResult<tokio::task::JoinHandle<PortResult<Ended>>> {
    sqlx::query("SELECT FROM jobs WHERE id = $1 FOR UPDATE")
        .bind(job.id.0)
        .execute(connection)
        .await
        .port()?;
    let (jobs, id) = (Arc::clone(jobs), job.id);
    let waits = tokio::spawn(async move { jobs.end(id, Ending::Cancel).await });
    until_somebody_waits(database, name).await;
    Ok(waits)
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
