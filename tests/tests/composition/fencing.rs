//! A job is one worker's at a time, and a worker whose lease went writes nothing.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use raglan_pipeline::{
    domain::{EventType, Job, JobError, JobStatus, Stage, now},
    lifecycle::LifecycleSettings,
    ports::{Outcome, Place, Taken},
    stage::{JobStage, StageContext, StageError},
};
use raglan_workers::Role;
use tokio::sync::Semaphore;

use crate::world::World;

fn short() -> LifecycleSettings {
    LifecycleSettings {
        lease: Duration::from_millis(300),
        republish_after: Duration::from_millis(200),
        ..LifecycleSettings::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_whose_worker_died_is_finished_by_another_and_the_dead_one_writes_nothing() {
    let world = World::new(short()).await;
    let id = world.ask("Who was first?").await;
    // A worker that takes the job and is not heard of again.
    let Taken::Yes(held) =
        world.lifecycle.jobs.take(id, Stage::Retrieval, world.lifecycle.settings.lease).await.unwrap()
    else {
        panic!("the job could not be taken")
    };
    world.start(&Role::ALL);
    let ended = world.ended(id).await;
    assert_eq!(ended.status, JobStatus::Succeeded);
    assert!(ended.fence > held.fence);

    let late = Outcome::Retry { due_at: now() };
    assert!(
        !world.lifecycle.finish(&held, late, Vec::new()).await.unwrap(),
        "the late worker's outcome counted"
    );
    assert_eq!(world.lifecycle.jobs.get(id).await.unwrap(), Some(ended));
    let finals = world.lifecycle.events.read(id).await.unwrap();
    assert_eq!(finals.iter().filter(|event| event.kind.is_final()).count(), 1);
}

/// Panics the first times.
struct Panics(AtomicU32);

#[async_trait]
impl JobStage for Panics {
    async fn run(&self, _job: &Job, _context: &StageContext) -> Result<Outcome, StageError> {
        let call = self.0.fetch_add(1, Ordering::SeqCst);
        panic!("on purpose, call {call}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stage_that_panics_fails_its_job_and_not_the_worker() {
    let mut world = World::new(short()).await;
    let panics = Arc::new(Panics(AtomicU32::new(0)));
    world.replace(Stage::Retrieval, panics.clone());
    world.start(&Role::ALL);
    for _ in 0..2 {
        let job = world.ended(world.ask("Does it hold?").await).await;
        assert_eq!(job.status, JobStatus::Failed);
        assert_eq!(job.error.unwrap().code, "internal");
    }
    assert_eq!(panics.0.load(Ordering::SeqCst), 6, "three attempts each");
}

/// Works until it is told to leave.
struct Endless;

#[async_trait]
impl JobStage for Endless {
    async fn run(&self, _job: &Job, context: &StageContext) -> Result<Outcome, StageError> {
        context.cancel.cancelled().await;
        Err(StageError::Cancelled)
    }
}

/// As endless, and never waits for anything: whenever it is asked it works for as long as it is let.
struct Restless;

#[async_trait]
impl JobStage for Restless {
    async fn run(&self, _job: &Job, context: &StageContext) -> Result<Outcome, StageError> {
        while !context.cancel.is_cancelled() {
            tokio::task::coop::consume_budget().await;
        }
        Err(StageError::Cancelled)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_stage_keeps_its_lease_and_a_cancel_reaches_it() {
    keeps_its_lease_and_hears_of_a_cancel(Arc::new(Endless)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stage_that_never_waits_keeps_its_lease_and_a_cancel_reaches_it() {
    keeps_its_lease_and_hears_of_a_cancel(Arc::new(Restless)).await;
}

async fn keeps_its_lease_and_hears_of_a_cancel(stage: Arc<dyn JobStage>) {
    let mut world = World::new(short()).await;
    world.replace(Stage::Retrieval, stage);
    world.start(&Role::ALL);
    let id = world.ask("For how long?").await;
    // Several leases later it is still the first attempt: the heartbeat kept it.
    let begun = tokio::time::Instant::now();
    while begun.elapsed() < world.lifecycle.settings.lease * 4 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let job = world.lifecycle.jobs.get(id).await.unwrap().unwrap();
    assert_eq!((job.status, job.attempt), (JobStatus::Retrieving, 1));

    world.submit.cancel(&job.tenant, id).await.unwrap().unwrap();
    let ended = world.ended(id).await;
    assert_eq!(ended.status, JobStatus::Cancelled);
    let events = world.lifecycle.events.read(id).await.unwrap();
    assert_eq!(events.last().unwrap().kind, EventType::Cancelled);
}

/// Has one place, and remembers how many jobs it ever had at once.
struct Narrow {
    room: Arc<Semaphore>,
    inside: AtomicU32,
    most: AtomicU32,
}

#[async_trait]
impl JobStage for Narrow {
    async fn place(&self) -> Place {
        Place::keeping(self.room.clone().acquire_owned().await.unwrap())
    }

    async fn run(&self, _job: &Job, _context: &StageContext) -> Result<Outcome, StageError> {
        self.most.fetch_max(self.inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(20)).await;
        self.inside.fetch_sub(1, Ordering::SeqCst);
        Err(StageError::Permanent(JobError::permanent("seen", "it was here")))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_is_taken_than_the_stage_has_places_for() {
    let mut world = World::new(LifecycleSettings::default()).await;
    let (inside, most) = (AtomicU32::new(0), AtomicU32::new(0));
    let narrow = Arc::new(Narrow { room: Arc::new(Semaphore::new(1)), inside, most });
    world.replace(Stage::Retrieval, narrow.clone());
    world.start(&Role::ALL);
    let jobs = futures::future::join_all((0..6).map(|_| world.ask("Who is next?"))).await;
    for job in jobs {
        assert_eq!(world.ended(job).await.status, JobStatus::Failed);
    }
    assert_eq!(narrow.most.load(Ordering::SeqCst), 1);
}
