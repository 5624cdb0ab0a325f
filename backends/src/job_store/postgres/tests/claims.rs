//! Claims: jobs that a process has and has not written yet.

use super::*;

fn advance() -> Outcome {
    Outcome::Advance { to: Stage::Generation, due_at: now() + HOUR, took_ms: 1 }
}

#[tokio::test]
async fn of_two_processes_that_claim_a_job_the_first_that_writes_has_it() {
    let Some(scratch) = scratch("of_two_processes_that_claim_a_job_the_first_that_writes_has_it").await
    else {
        return;
    };
    let database = scratch.database().await;
    let [one, other] = [(); 2].map(|()| PostgresJobStore::new(database.clone(), HOUR));
    for finished in [true, false] {
        let job = accept(&one, a_query(JobId::generate())).await;
        let claims = [contract::claim(&one, &job).await, contract::claim(&other, &job).await];
        assert_eq!(one.get(job.id).await.unwrap().as_ref(), Some(&job), "nothing is written");
        let written = if finished {
            other.finish(job.id, claims[1].fence, advance()).await
        } else {
            other.extend(job.id, claims[1].fence, HOUR, None, None).await
        };
        let written = written.unwrap().expect("it was the first");
        assert_eq!(one.extend(job.id, claims[0].fence, HOUR, None, None).await.unwrap(), None);
        assert_eq!(one.finish(job.id, claims[0].fence, advance()).await.unwrap(), None);
        assert_eq!(one.get(job.id).await.unwrap(), Some(written));
    }
}

/// A sweeper that puts a job on its queue once more has not taken it.
#[tokio::test]
async fn a_claim_outlives_a_sweeper() {
    let Some(scratch) = scratch("a_claim_outlives_a_sweeper").await else { return };
    let database = scratch.database().await;
    let [one, other] = [(); 2].map(|()| PostgresJobStore::new(database.clone(), HOUR));
    for finished in [true, false] {
        let new = NewJob { due_at: now() - chrono::Duration::seconds(1), ..a_query(JobId::generate()) };
        let job = accept(&one, new).await;
        let claimed = contract::claim(&one, &job).await;
        assert_eq!(other.due(1, Duration::from_secs(5)).await.unwrap()[0].id, job.id);
        let written = if finished {
            one.finish(job.id, claimed.fence, advance()).await
        } else {
            one.extend(job.id, claimed.fence, HOUR, None, None).await
        };
        let written = written.unwrap().expect("nobody took it");
        assert_eq!(other.get(job.id).await.unwrap().as_ref(), Some(&written));
        assert!(written.revision > claimed.revision);
        other.end(job.id, Ending::Cancel).await.unwrap();
    }
}

/// A heartbeat is on its way when the stage is done.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_that_is_extended_and_finished_at_once_is_finished() {
    let Some(scratch) = scratch("a_claim_that_is_extended_and_finished_at_once_is_finished").await else {
        return;
    };
    let jobs = Arc::new(PostgresJobStore::new(scratch.database().await, HOUR));
    let callers = (0..100).map(|_| {
        let jobs = Arc::clone(&jobs);
        tokio::spawn(async move {
            let job = accept(&*jobs, a_query(JobId::generate())).await;
            let Job { id, fence, .. } = contract::claim(&*jobs, &job).await;
            let failed = Outcome::Fail(raglan_pipeline::domain::JobError::permanent("x", "x"));
            let (extended, finished) =
                tokio::join!(jobs.extend(id, fence, HOUR, None, None), jobs.finish(id, fence, failed));
            extended.unwrap();
            assert!(finished.unwrap().is_some());
        })
    });
    for caller in join_all(callers).await {
        caller.unwrap();
    }
}

#[tokio::test]
async fn a_claim_outlives_an_error_of_the_server() {
    let Some(scratch) = scratch("a_claim_outlives_an_error_of_the_server").await else { return };
    let database = scratch.database().await;
    let jobs = PostgresJobStore::new(database.clone(), HOUR);
    let job = accept(&jobs, a_query(JobId::generate())).await;
    let claimed = contract::claim(&jobs, &job).await;
    let rename = async |from: &str, to: &str| {
        let rename = format!("ALTER TABLE {from} RENAME TO {to}");
        let renamed = async |connection: &mut PgConnection| {
            sqlx::query(sqlx::AssertSqlSafe(rename.as_str())).execute(connection).await.map(drop).port()
        };
        database.primary(renamed).await.unwrap();
    };
    rename("jobs", "gone").await;
    jobs.finish(job.id, claimed.fence, advance()).await.unwrap_err();
    rename("gone", "jobs").await;
    assert!(jobs.finish(job.id, claimed.fence, advance()).await.unwrap().is_some());
}
