mod claims;
mod outages;

use std::{
    collections::HashSet,
    sync::atomic::{AtomicBool, Ordering},
};

use futures::{FutureExt as _, future::join_all};
use raglan_pipeline::{
    contract::job_store::{self as contract, a_query, accept, an_ingestion},
    domain::{Tenant, WebhookTarget, now},
    ports::{ErrorKind, Idempotency},
};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use sqlx::PgConnection;

use super::{known::Known, *};
use crate::database::{
    PostgresSettings, SqlxResultExt as _,
    postgres::scratch::{Scratch, Wire},
};

const HOUR: Duration = Duration::from_secs(3_600);

/// The scratch of a test of this module, or none where there is no server.
async fn scratch(test: &str) -> Option<Scratch> {
    Scratch::new(&format!("job_store::postgres::{test}")).await
}

fn keyed(key: &str) -> NewJob {
    let idempotency = Some(Idempotency { key: key.into(), request_hash: "h".into() });
    NewJob { idempotency, ..a_query(JobId::generate()) }
}

/// Jobs stored together.
async fn store(database: &PostgresDatabase, new: &[NewJob]) -> PortResult<Vec<PortResult<Answer>>> {
    let new: Vec<_> = new.iter().collect();
    group::accept(&mut database.connection().await?, &new).await
}

/// Changes made together, by a process that knows nothing yet.
async fn change(
    database: &PostgresDatabase,
    operations: &[Operation],
) -> PortResult<Vec<PortResult<Answer>>> {
    let operations: Vec<_> = operations.iter().collect();
    group::change(&mut database.connection().await?, &Known::default(), &operations, HOUR).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keeps_the_contract() {
    let Some(scratch) = scratch("keeps_the_contract").await else { return };
    contract::run_all(async |retention| {
        Arc::new(PostgresJobStore::new(scratch.database().await, retention)) as Arc<dyn JobStore>
    })
    .await;
}

#[tokio::test]
async fn a_count_of_many_is_kept_for_a_while() {
    let Some(scratch) = scratch("a_count_of_many_is_kept_for_a_while").await else { return };
    let database = scratch.database().await;
    let jobs = PostgresJobStore::new(database.clone(), HOUR);
    accept(&jobs, a_query(JobId::generate())).await;
    assert_eq!(jobs.waiting().await.unwrap(), [(Stage::Retrieval, 1)]);
    accept(&jobs, a_query(JobId::generate())).await;
    assert_eq!(jobs.waiting().await.unwrap(), [(Stage::Retrieval, 2)], "a few are counted again");
    let many: Vec<_> = (0..1_000).map(|_| a_query(JobId::generate())).collect();
    store(&database, &many).await.unwrap();
    let counted = jobs.waiting().await.unwrap();
    assert_eq!(counted, [(Stage::Retrieval, 1_002)]);
    accept(&jobs, a_query(JobId::generate())).await;
    let fresh = PostgresJobStore::new(database, HOUR);
    assert_eq!(fresh.waiting().await.unwrap(), [(Stage::Retrieval, 1_003)]);
    while jobs.waiting().await.unwrap() == counted {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_jobs_of_two_hundred_callers_are_all_there() {
    let Some(scratch) = scratch("two_thousand_jobs_of_two_hundred_callers_are_all_there").await else {
        return;
    };
    let jobs = Arc::new(PostgresJobStore::new(scratch.database().await, HOUR));
    let callers = (0..200).map(|_| {
        let jobs = Arc::clone(&jobs);
        tokio::spawn(async move {
            let mut ids = Vec::new();
            for _ in 0..10 {
                ids.push(accept(&*jobs, a_query(JobId::generate())).await.id);
            }
            ids
        })
    });
    let accepted: HashSet<_> = join_all(callers).await.into_iter().flat_map(Result::unwrap).collect();
    let stored = jobs.list(&JobFilter { limit: 10_000, ..JobFilter::default() }).await.unwrap();
    assert_eq!((accepted.len(), stored.len()), (2_000, 2_000));
    assert_eq!(stored.into_iter().map(|job| job.id).collect::<HashSet<_>>(), accepted);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operation_that_cannot_be_stored_fails_alone() {
    let Some(scratch) = scratch("an_operation_that_cannot_be_stored_fails_alone").await else { return };
    let jobs = Arc::new(PostgresJobStore::new(scratch.database().await, HOUR));
    let taken = accept(&*jobs, a_query(JobId::generate())).await;
    // PostgreSQL has no text with this character: the whole statement fails for one of its rows.
    let accepts = (0..40).map(|i| {
        let jobs = Arc::clone(&jobs);
        let new = if i == 20 { keyed("a\0b") } else { keyed(&format!("key {i}")) };
        tokio::spawn(async move { jobs.accept(new).await })
    });
    let (accepts, took) = tokio::join!(join_all(accepts), jobs.take(taken.id, taken.stage, HOUR));
    assert!(matches!(took.unwrap(), Taken::Yes(_)));
    let accepts: Vec<_> = accepts.into_iter().map(Result::unwrap).collect();
    for (i, accepted) in accepts.into_iter().enumerate() {
        match accepted {
            Ok(Accepted::New(job)) if i != 20 => assert!(jobs.get(job.id).await.unwrap().is_some()),
            Err(error) if i == 20 => assert_eq!(error.kind(), ErrorKind::Invalid, "{error}"),
            other => panic!("accept {i}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_group_that_fails_leaves_nothing() {
    let Some(scratch) = scratch("a_group_that_fails_leaves_nothing").await else { return };
    let database = scratch.database().await;
    let jobs = PostgresJobStore::new(database.clone(), HOUR);
    let good = a_query(JobId::generate());
    let error = store(&database, &[good.clone(), keyed("\0")]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert_eq!(jobs.get(good.id).await.unwrap(), None);

    let webhook = WebhookTarget { url: "https://example.com/".parse().unwrap(), events: vec![] };
    let mut taken = Vec::new();
    for _ in 0..2 {
        let job =
            accept(&jobs, NewJob { webhook: Some(webhook.clone()), ..a_query(JobId::generate()) }).await;
        taken.push(contract::take(&jobs, &job, HOUR).await);
    }
    let fail = |job: &Job, message: &str| Operation::Finish {
        id: job.id,
        fence: job.fence,
        outcome: Outcome::Fail(raglan_pipeline::domain::JobError::permanent("x", message)),
    };
    let changes = [fail(&taken[0], "good"), fail(&taken[1], "good")];
    // A delivery that cannot be stored takes the ends with it.
    let elsewhere = async |statement: &'static str| {
        database.primary(async |on| sqlx::query(statement).execute(on).await.map(drop).port()).await.unwrap();
    };
    elsewhere("ALTER TABLE deliveries ADD CONSTRAINT closed CHECK (url = '')").await;
    assert!(change(&database, &changes).await.is_err());
    for job in &taken {
        assert_eq!(jobs.get(job.id).await.unwrap().as_ref(), Some(job));
    }
    elsewhere("ALTER TABLE deliveries DROP CONSTRAINT closed").await;
    assert!(change(&database, &changes).await.unwrap().iter().all(Result::is_ok));
}

/// What was written stays written, and is told, where a read that comes after it fails.
#[tokio::test]
async fn what_was_written_is_told_whatever_fails_after_it() {
    let Some(scratch) = scratch("what_was_written_is_told_whatever_fails_after_it").await else { return };
    let database = scratch.database().await;
    let jobs = PostgresJobStore::new(database.clone(), HOUR);
    // A row that this program cannot read.
    let spoil = async |id: JobId| {
        database
            .primary(async |on| {
                sqlx::query("UPDATE jobs SET status = 'no such', revision = revision + 1 WHERE id = $1")
                    .bind(id.0)
                    .execute(on)
                    .await
                    .map(drop)
                    .port()
            })
            .await
            .unwrap();
    };
    let held = accept(&jobs, keyed("k")).await;
    spoil(held.id).await;
    let fresh = a_query(JobId::generate());
    let answers = store(&database, &[fresh.clone(), keyed("k")]).await.unwrap();
    assert!(matches!(&answers[..], [Ok(Answer::Accepted(Accepted::New(_))), Err(_)]), "{answers:?}");
    assert!(jobs.get(fresh.id).await.unwrap().is_some());

    let known = Known::default();
    let mut taken = Vec::new();
    for _ in 0..2 {
        let job = accept(&jobs, a_query(JobId::generate())).await;
        let take = Operation::Take { id: job.id, stage: job.stage, lease: HOUR };
        let mut connection = database.connection().await.unwrap();
        let mut answers = group::change(&mut connection, &known, &[&take], HOUR).await.unwrap();
        match answers.remove(0).unwrap() {
            Answer::Taken(Taken::Yes(job)) => taken.push(job),
            other => panic!("{other:?}"),
        }
    }
    spoil(taken[0].id).await;
    let fail = |job: &Job| Operation::Finish {
        id: job.id,
        fence: job.fence,
        outcome: Outcome::Fail(raglan_pipeline::domain::JobError::permanent("x", "x")),
    };
    let (first, second) = (fail(&taken[0]), fail(&taken[1]));
    let mut connection = database.connection().await.unwrap();
    let answers = group::change(&mut connection, &known, &[&first, &second], HOUR).await.unwrap();
    assert!(matches!(&answers[..], [Err(_), Ok(Answer::Held(Some(_)))]), "{answers:?}");
}

/// What a process knows of a job from its last write is not believed where another one wrote it since.
#[tokio::test]
async fn what_another_process_wrote_is_not_written_over() {
    let Some(scratch) = scratch("what_another_process_wrote_is_not_written_over").await else { return };
    let database = scratch.database().await;
    let [one, other] = [(); 2].map(|()| PostgresJobStore::new(database.clone(), HOUR));
    let done = |to| Outcome::Advance { to, due_at: now() + HOUR, took_ms: 1 };
    // Its lease is over when it is given, and another worker has the job.
    let job = accept(&one, a_query(JobId::generate())).await;
    let late = contract::take(&one, &job, Duration::ZERO).await;
    let held = contract::take(&other, &job, HOUR).await;
    assert_eq!(one.finish(job.id, late.fence, done(Stage::Generation)).await.unwrap(), None);
    assert_eq!(one.extend(job.id, late.fence, HOUR, None, None).await.unwrap(), None);
    assert_eq!(one.get(job.id).await.unwrap().as_ref(), Some(&held));
    // It was ended meanwhile.
    let ended = other.end(job.id, Ending::Cancel).await.unwrap();
    let Ended::Now(ended) = ended else { panic!("{ended:?}") };
    assert_eq!(other.finish(job.id, held.fence, done(Stage::Generation)).await.unwrap(), None);
    assert_eq!(one.get(job.id).await.unwrap(), Some(*ended));
    // It advanced here, was done by another worker there, and is asked for here once more.
    let job = accept(&one, a_query(JobId::generate())).await;
    let held = contract::take(&one, &job, HOUR).await;
    let waiting = one.finish(job.id, held.fence, done(Stage::Generation)).await.unwrap().unwrap();
    let theirs = contract::take(&other, &waiting, HOUR).await;
    assert!(matches!(one.take(job.id, Stage::Generation, HOUR).await.unwrap(), Taken::Busy(_)));
    let error = raglan_pipeline::domain::JobError::permanent("x", "x");
    other.finish(job.id, theirs.fence, Outcome::Fail(error)).await.unwrap().unwrap();
    assert_eq!(one.take(job.id, Stage::Generation, HOUR).await.unwrap(), Taken::Over);
}

#[tokio::test]
async fn an_idempotency_key_that_stands_twice_in_a_group_is_one_job() {
    let Some(scratch) = scratch("an_idempotency_key_that_stands_twice_in_a_group_is_one_job").await else {
        return;
    };
    let database = scratch.database().await;
    let (first, again) = (keyed("k"), keyed("k"));
    let other = Some(Idempotency { key: "k".into(), request_hash: "other".into() });
    let reused = NewJob { idempotency: other, ..a_query(JobId::generate()) };
    let theirs = NewJob { tenant: Tenant::new("other").unwrap(), ..keyed("k") };
    let known = a_query(JobId::generate());
    store(&database, std::slice::from_ref(&known)).await.unwrap();
    let group = [first, again, reused, theirs, known];
    let ids = group.each_ref().map(|new| new.id);
    let answers = store(&database, &group).await.unwrap();
    let kinds: Vec<_> = answers
        .iter()
        .map(|answer| match answer {
            Ok(Answer::Accepted(Accepted::New(_))) => "new",
            Ok(Answer::Accepted(Accepted::Existing(job))) if job.id == ids[0] => "that of the first",
            Ok(Answer::Accepted(Accepted::KeyReused)) => "reused",
            Err(error) if error.kind() == ErrorKind::Conflict => "its id is taken",
            other => panic!("unexpected: {other:?}"),
        })
        .collect();
    assert_eq!(kinds, ["new", "that of the first", "reused", "new", "its id is taken"]);
}

#[tokio::test]
async fn changes_of_many_jobs_share_a_statement() {
    let Some(scratch) = scratch("changes_of_many_jobs_share_a_statement").await else { return };
    let database = scratch.database().await;
    let jobs = PostgresJobStore::new(database.clone(), HOUR);
    let webhook = WebhookTarget { url: "https://example.com/".parse().unwrap(), events: vec![] };
    let mut taken = Vec::new();
    for _ in 0..5 {
        let new = NewJob { webhook: Some(webhook.clone()), ..an_ingestion(JobId::generate()) };
        let job = accept(&jobs, new).await;
        taken.push(contract::take(&jobs, &job, HOUR).await);
    }
    let [extended, failed, ended, lost, misled] = taken.as_slice() else { panic!("five were taken") };
    let error = || raglan_pipeline::domain::JobError::permanent("x", "x");
    let group = [
        Operation::Extend {
            id: extended.id,
            fence: extended.fence,
            lease: HOUR,
            status: Some(JobStatus::Embedding),
            progress: None,
        },
        Operation::Finish { id: failed.id, fence: failed.fence, outcome: Outcome::Fail(error()) },
        Operation::End { id: ended.id, ending: Ending::Cancel },
        Operation::Finish { id: lost.id, fence: lost.fence + 1, outcome: Outcome::Fail(error()) },
        Operation::Take { id: JobId::generate(), stage: Stage::Ingestion, lease: HOUR },
        Operation::Extend {
            id: misled.id,
            fence: misled.fence,
            lease: HOUR,
            status: Some(JobStatus::Failed),
            progress: None,
        },
    ];
    let statuses: Vec<_> = change(&database, &group)
        .await
        .unwrap()
        .into_iter()
        .map(|answer| match answer {
            Ok(Answer::Held(Some(job))) => Ok(Some(job.status)),
            Ok(Answer::Ended(Ended::Now(job))) => Ok(Some(job.status)),
            Ok(Answer::Held(None) | Answer::Taken(Taken::Over)) => Ok(None),
            Ok(other) => panic!("unexpected: {other:?}"),
            Err(error) => Err(error.kind()),
        })
        .collect();
    assert_eq!(
        statuses,
        [
            Ok(Some(JobStatus::Embedding)),
            Ok(Some(JobStatus::Failed)),
            Ok(Some(JobStatus::Cancelled)),
            Ok(None),
            Ok(None),
            Err(ErrorKind::Invalid),
        ]
    );
    for unchanged in [lost, misled] {
        assert_eq!(jobs.get(unchanged.id).await.unwrap().as_ref(), Some(unchanged));
    }
    let deliveries: i64 = database
        .primary(async |connection| {
            sqlx::query_scalar("SELECT count(*) FROM deliveries").fetch_one(connection).await.port()
        })
        .await
        .unwrap();
    assert_eq!(deliveries, 2, "one for each that ended");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sweepers_of_two_processes_share_what_is_due() {
    let Some(scratch) = scratch("sweepers_of_two_processes_share_what_is_due").await else { return };
    let settings = scratch.settings();
    let open = async || PostgresDatabase::open(settings.clone()).await.unwrap();
    let (one, two) = (open().await, open().await);
    let stores = [one.clone(), two.clone()].map(|database| Arc::new(PostgresJobStore::new(database, HOUR)));
    let mut due = HashSet::new();
    for _ in 0..60 {
        let past = NewJob { due_at: now() - chrono::Duration::seconds(5), ..a_query(JobId::generate()) };
        due.insert(accept(&*stores[0], past).await.id);
    }
    // One is in the middle of it, and the other does not wait.
    let (locked, beside) = one
        .transaction(async |connection: &mut PgConnection| {
            let locked = table::lock_due(connection, 20).await?;
            let beside = stores[1].due(100, HOUR).await?;
            Ok((locked, beside))
        })
        .await
        .unwrap();
    assert_eq!((locked.len(), beside.len()), (20, 40));
    // Both at once take the rest, and neither has one of the other's.
    let sweeps = stores.iter().flat_map(|store| [Arc::clone(store), Arc::clone(store)]);
    let sweeps = sweeps.map(|store| tokio::spawn(async move { store.due(7, HOUR).await.unwrap() }));
    let rest: Vec<_> = join_all(sweeps).await.into_iter().flat_map(Result::unwrap).collect();
    assert_eq!(rest.len(), 20);
    let all: HashSet<_> = rest.iter().chain(&beside).map(|job| job.id).collect();
    assert_eq!(all, due);
}

/// Several processes do everything to the same few jobs at once. Nothing is lost between them, and every job ends once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_at_once_end_every_job_once() {
    let Some(scratch) = scratch("processes_at_once_end_every_job_once").await else { return };
    let settings = scratch.settings();
    let mut processes = Vec::new();
    for _ in 0..4 {
        let database = PostgresDatabase::open(settings.clone()).await.unwrap();
        processes.push(Arc::new(PostgresJobStore::new(database, HOUR)));
    }
    let webhook = Some(WebhookTarget { url: "https://example.com/".parse().unwrap(), events: vec![] });
    let workers = (0..16_u64).map(|seed| {
        let jobs = Arc::clone(&processes[usize::try_from(seed).unwrap() % processes.len()]);
        let mut random = StdRng::seed_from_u64(seed);
        let webhook = webhook.clone();
        tokio::spawn(async move {
            let (mut ended, mut made) = (Vec::new(), 0);
            for _ in 0..60 {
                // The same keys as everybody else's.
                let new = NewJob {
                    webhook: webhook.clone(),
                    due_at: now() - chrono::Duration::seconds(1),
                    ..keyed(&format!("key {}", random.random_range(0..30)))
                };
                let job = match jobs.accept(new).await.unwrap() {
                    Accepted::New(job) => {
                        made += 1;
                        job
                    }
                    Accepted::Existing(job) => job,
                    Accepted::KeyReused => panic!("all hashes are one"),
                };
                let how = random.random_range(0..6);
                let taking = async || match how {
                    2 | 3 => jobs.claim(job.id, job.stage, HOUR).await.unwrap(),
                    _ => jobs.take(job.id, job.stage, Duration::ZERO).await.unwrap(),
                };
                let over = match how {
                    0 => matches!(jobs.end(job.id, Ending::Cancel).await.unwrap(), Ended::Now(_)),
                    1 => {
                        jobs.due(5, Duration::ZERO).await.unwrap();
                        false
                    }
                    _ => match taking().await {
                        Taken::Yes(taken) | Taken::Claimed(taken) => {
                            jobs.extend(job.id, taken.fence, Duration::ZERO, None, None).await.unwrap();
                            let error = raglan_pipeline::domain::JobError::permanent("x", "x");
                            jobs.finish(job.id, taken.fence, Outcome::Fail(error)).await.unwrap().is_some()
                        }
                        Taken::Busy(_) | Taken::Over => false,
                    },
                };
                ended.extend(over.then_some(job.id));
            }
            (made, ended)
        })
    });
    let (mut made, mut ended) = (0, Vec::new());
    for worker in join_all(workers).await {
        let (of_worker, by_worker) = worker.unwrap();
        made += of_worker;
        ended.extend(by_worker);
    }
    assert_eq!(made, 30, "one for each key");
    assert_eq!(ended.len(), ended.iter().collect::<HashSet<_>>().len(), "none ended twice");
    let deliveries: i64 = processes[0]
        .database
        .primary(async |connection| {
            sqlx::query_scalar("SELECT count(*) FROM deliveries").fetch_one(connection).await.port()
        })
        .await
        .unwrap();
    assert_eq!(usize::try_from(deliveries).unwrap(), ended.len(), "each end has its delivery");
}

/// A job's place in the index of due times is allowed to be early, never late.
#[tokio::test]
async fn a_job_that_is_due_later_than_the_index_says_is_not_due() {
    let Some(scratch) = scratch("a_job_that_is_due_later_than_the_index_says_is_not_due").await else {
        return;
    };
    let database = scratch.database().await;
    let jobs = PostgresJobStore::new(database.clone(), HOUR);
    let past = NewJob { due_at: now() - chrono::Duration::seconds(5), ..a_query(JobId::generate()) };
    let job = accept(&jobs, past).await;
    let early = async || -> i64 {
        database
            .primary(async |connection| {
                sqlx::query_scalar("SELECT count(*) FROM jobs WHERE sweep_at < due_at")
                    .fetch_one(connection)
                    .await
                    .port()
            })
            .await
            .unwrap()
    };
    let taken = contract::take(&jobs, &job, HOUR).await;
    assert_eq!(early().await, 1, "taking it leaves the index alone");
    assert!(jobs.due(10, HOUR).await.unwrap().is_empty(), "its worker lives");
    assert_eq!(early().await, 0, "the sweeper has brought the index up to date");
    let soon = Outcome::Retry { due_at: now() - chrono::Duration::seconds(1) };
    jobs.finish(job.id, taken.fence, soon).await.unwrap().unwrap();
    assert_eq!(jobs.due(10, HOUR).await.unwrap().len(), 1, "what is due earlier is earlier in the index");
}
