//! One job through one stage: take it, keep its lease alive, do the work, leave it.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::{FutureExt, StreamExt};
use raglan_pipeline::{
    domain::{EventType, Job, JobError, JobId, NewEvent, Stage, now},
    job_events::JobEvents,
    lifecycle::{Lifecycle, retrying},
    message::Message,
    ports::{Delivered, Ending, Followed, Outcome, Place, PortResult, Taken},
    stage::{JobStage, Report, StageContext, StageError},
    submit::delta,
};
use rand::Rng;
use tokio::{sync::watch, task::coop::unconstrained, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug, error, info, info_span, warn};

use crate::consume::Handler;

/// How jobs are worked on.
#[derive(Debug, Clone, PartialEq)]
pub struct WorkerSettings {
    /// How often a stage is tried before its job fails.
    pub max_attempts: u32,
    /// The wait before the second attempt; doubled for each further one, with full jitter.
    pub retry_base: Duration,
    /// The longest such wait.
    pub retry_max: Duration,
}

impl Default for WorkerSettings {
    fn default() -> Self {
        Self { max_attempts: 5, retry_base: Duration::from_millis(500), retry_max: Duration::from_secs(60) }
    }
}

/// Works on the jobs of one stage.
pub struct JobWorker {
    /// The stage.
    pub stage: Stage,
    /// Its work.
    pub work: Arc<dyn JobStage>,
    /// The record, queues and events.
    pub lifecycle: Arc<Lifecycle>,
    /// How.
    pub settings: WorkerSettings,
}

/// Why the work on a job stopped before it was done.
enum Stopped {
    /// The job is somebody else's now, or over.
    Lost,
    /// Its deadline passed.
    Deadline,
    /// This process stops.
    Shutdown,
}

/// How the work on a job ended.
type Ended = Result<Result<Outcome, StageError>, Stopped>;

/// A stage that takes longer than this listens for its job's end. Shorter ones are over before anybody could tell them.
const LISTEN_AFTER: Duration = Duration::from_millis(50);

/// A stage that takes longer than this takes its job for all to see. Shorter ones write it once, at their end: should two do the same work for so long, one of
/// them counts.
const HOLD_AFTER: Duration = Duration::from_millis(100);

/// How long a stage that was told to leave may take to do so before it is dropped.
const LEAVE: Duration = Duration::from_secs(2);

#[async_trait]
impl Handler for JobWorker {
    async fn place(&self) -> Place {
        self.work.place().await
    }

    async fn handle(&self, delivered: Box<dyn Delivered>, abandon: CancellationToken) {
        let job_id = match delivered.envelope().message {
            Message::Job { job_id, stage } if stage == self.stage => job_id,
            ref other => {
                error!(stage = self.stage.as_str(), message = ?other, "message on the wrong queue dropped");
                settle(delivered.ack().await);
                return;
            }
        };
        let span = info_span!("job", %job_id, stage = self.stage.as_str());
        self.job(job_id, delivered, abandon).instrument(span).await;
    }
}

impl JobWorker {
    async fn job(&self, id: JobId, delivered: Box<dyn Delivered>, abandon: CancellationToken) {
        let (job, held) = match self.take(id, delivered.attempt()).await {
            Ok(Taken::Yes(job)) => (*job, true),
            Ok(Taken::Claimed(job)) => (*job, false),
            // Another copy of the message was faster. Should that worker die, the sweeper brings the job back.
            Ok(Taken::Busy(_) | Taken::Over) => {
                debug!("nothing to do");
                settle(delivered.ack().await);
                return;
            }
            Err(error) => {
                warn!(%error, "job not taken");
                let delay = self.delay(delivered.attempt(), error.retry_after());
                settle(delivered.nack(delay, &error.to_string()).await);
                return;
            }
        };
        let begun = Instant::now();
        let (ended, said) = self.attempt(&job, held, &abandon).await;
        metrics::histogram!("raglan_stage_seconds", "stage" => self.stage.as_str())
            .record(begun.elapsed().as_secs_f64());
        settle(match ended {
            Ok(Ok(outcome)) => {
                self.leave(&job, outcome, said).await;
                delivered.ack().await
            }
            Ok(Err(StageError::Permanent(error))) => {
                info!(code = error.code, message = error.message, "job failed");
                self.leave(&job, Outcome::Fail(error), said).await;
                delivered.ack().await
            }
            Ok(Err(StageError::Retry { error, after })) => {
                self.retry(&job, error, after, said, delivered).await
            }
            Ok(Err(StageError::Cancelled)) | Err(Stopped::Lost) => {
                debug!("job was ended or taken over");
                delivered.ack().await
            }
            Err(Stopped::Deadline) => {
                self.lifecycle.log(&job, said).await;
                if let Err(error) = self.lifecycle.end(job.id, Ending::Deadline).await {
                    warn!(%error, "deadline not recorded; the sweeper will");
                }
                delivered.ack().await
            }
            Err(Stopped::Shutdown) => {
                let due_at = now() + delta(self.lifecycle.settings.republish_after);
                self.leave(&job, Outcome::HandBack { due_at }, said).await;
                delivered.hand_back().await
            }
        });
    }

    async fn take(&self, id: JobId, delivered: u32) -> PortResult<Taken> {
        let (jobs, lease) = (&self.lifecycle.jobs, self.lifecycle.settings.lease);
        match self.stage {
            // A message that comes again may have killed who had it before.
            Stage::Retrieval | Stage::Generation if delivered <= 1 => jobs.claim(id, self.stage, lease).await,
            // An ingestion writes documents before it ends.
            _ => jobs.take(id, self.stage, lease).await,
        }
    }

    /// Runs the stage and takes what it says to the job's log. How it ended, and what it said that is not there yet.
    async fn attempt(&self, job: &Job, held: bool, abandon: &CancellationToken) -> (Ended, Vec<NewEvent>) {
        let events = Arc::new(JobEvents::default());
        let (report, reports) = watch::channel(Report::default());
        let context = StageContext {
            cancel: CancellationToken::new(),
            report: Arc::new(report),
            events: Arc::clone(&events),
        };
        let run = async {
            let ended = self.run(job, held, &context, reports, abandon).await;
            events.close();
            ended
        };
        let (ended, ()) = tokio::join!(run, events.pass_on(|said| self.lifecycle.log(job, said)));
        (ended, events.take())
    }

    /// Runs the stage with a heartbeat, until it is done or must stop.
    async fn run(
        &self,
        job: &Job,
        held: bool,
        context: &StageContext,
        reports: watch::Receiver<Report>,
        abandon: &CancellationToken,
    ) -> Ended {
        if job.attempt > self.settings.max_attempts {
            // Every attempt ended without a word: its worker died each time.
            let message = format!("{} workers died while working on this job", self.settings.max_attempts);
            return Ok(Err(StageError::Permanent(JobError::permanent("attempts_exhausted", message))));
        }
        let work = AssertUnwindSafe(self.work.run(job, context)).catch_unwind();
        tokio::pin!(work);
        // A stage that always has something to do, such as a generator whose words come faster than they are taken, uses up what tokio lets a task do at one
        // turn, and is asked first at the next: what could stop it must not depend on what it leaves.
        let until_stopped = unconstrained(self.until_stopped(job, held, reports, abandon));
        let stopped = tokio::select! {
            biased;
            done = &mut work => {
                let done = done.unwrap_or_else(|panic| Err(panicked(panic.as_ref())));
                if done.is_ok() {
                    self.report_last(job, context).await;
                }
                return Ok(done);
            }
            stopped = until_stopped => stopped,
        };
        context.cancel.cancel();
        let _ = tokio::time::timeout(LEAVE, work).await;
        Err(stopped)
    }

    /// Keeps the lease until the work must stop, and says why it must.
    async fn until_stopped(
        &self,
        job: &Job,
        held: bool,
        reports: watch::Receiver<Report>,
        abandon: &CancellationToken,
    ) -> Stopped {
        let left = (job.deadline - now()).to_std().unwrap_or_default();
        tokio::select! {
            () = self.keep_lease(job, held, reports) => Stopped::Lost,
            () = self.until_ended(job) => Stopped::Lost,
            () = tokio::time::sleep(left) => Stopped::Deadline,
            () = abandon.cancelled() => Stopped::Shutdown,
        }
    }

    /// Writes how far the stage has come at its end: the last report may have come after the last heartbeat, and there is none after it.
    async fn report_last(&self, job: &Job, context: &StageContext) {
        let Report { status, progress } = context.report.borrow().clone();
        if progress.is_none() {
            return;
        }
        let lease = self.lifecycle.settings.lease;
        if let Err(error) = self.lifecycle.jobs.extend(job.id, job.fence, lease, status, progress).await {
            debug!(%error, "last progress not written");
        }
    }

    /// Beats until the lease is lost; of a job that is only claimed, the first time soon.
    async fn keep_lease(&self, job: &Job, held: bool, mut reports: watch::Receiver<Report>) {
        let lease = self.lifecycle.settings.lease;
        let beat = lease / 3;
        let mut kept_until = Instant::now() + lease;
        // Progress is written when it changes, but not more often than four times a second.
        let soonest = Duration::from_millis(250).min(beat);
        let mut pause = if held { beat } else { HOLD_AFTER.min(beat) };
        loop {
            let last_beat = Instant::now();
            tokio::select! {
                () = tokio::time::sleep(std::mem::replace(&mut pause, beat)) => {}
                Ok(()) = reports.changed() => tokio::time::sleep_until(last_beat + soonest).await,
            }
            let Report { status, progress } = reports.borrow_and_update().clone();
            match self.lifecycle.jobs.extend(job.id, job.fence, lease, status, progress).await {
                Ok(Some(_)) => kept_until = Instant::now() + lease,
                Ok(None) => return,
                Err(error) if Instant::now() < kept_until => warn!(%error, "heartbeat failed; trying again"),
                Err(error) => {
                    warn!(%error, "lease ran out");
                    return;
                }
            }
        }
    }

    /// Returns when the job's log tells of its end, which this worker did not cause: a cancel reaches the work at once, not with the next heartbeat.
    async fn until_ended(&self, job: &Job) {
        // What has been said meanwhile is heard then: the log is read from the beginning.
        tokio::time::sleep(LISTEN_AFTER).await;
        match self.lifecycle.events.follow(job.id, job.event_floor()).await {
            Ok(mut events) => {
                while let Some(followed) = events.next().await {
                    if matches!(followed, Followed::Event(event) if event.kind.is_final()) {
                        return;
                    }
                }
            }
            Err(error) => debug!(%error, "job's events cannot be followed"),
        }
        // Without events the heartbeat still tells.
        std::future::pending::<()>().await;
    }

    /// Leaves a job. A store that fails for a moment is tried again; one that stays away leaves the job to the sweeper, which brings
    /// it back when its lease has run out.
    async fn leave(&self, job: &Job, outcome: Outcome, said: Vec<NewEvent>) {
        for attempt in 1..=5 {
            match self.lifecycle.finish(job, outcome.clone(), said.clone()).await {
                Ok(true) => return,
                Ok(false) => {
                    debug!("job was no longer this worker's; nothing written");
                    return;
                }
                Err(error) => {
                    warn!(%error, attempt, "outcome not written");
                    tokio::time::sleep(self.delay(attempt, error.retry_after())).await;
                }
            }
        }
    }

    async fn retry(
        &self,
        job: &Job,
        error: JobError,
        after: Option<Duration>,
        mut said: Vec<NewEvent>,
        delivered: Box<dyn Delivered>,
    ) -> PortResult<()> {
        if job.attempt >= self.settings.max_attempts {
            warn!(code = error.code, message = error.message, "attempts used up");
            self.leave(job, Outcome::Fail(error), said).await;
            return delivered.ack().await;
        }
        let delay = self.delay(job.attempt, after);
        info!(
            code = error.code,
            message = error.message,
            ?delay,
            attempt = job.attempt,
            "trying again later"
        );
        said.push(NewEvent::now(EventType::Retrying, retrying(job, &error.message, delay)));
        let due_at = now() + delta(delay + self.lifecycle.settings.republish_after);
        self.leave(job, Outcome::Retry { due_at }, said).await;
        delivered.nack(delay, &error.message).await
    }

    /// Exponential back-off with full jitter; what the other side asked for counts where it is longer.
    fn delay(&self, attempt: u32, asked: Option<Duration>) -> Duration {
        let WorkerSettings { retry_base, retry_max, .. } = self.settings;
        let most = retry_base.saturating_mul(1 << attempt.saturating_sub(1).min(16)).min(retry_max);
        let jittered = most.mul_f64(rand::rng().random_range(0.5..=1.0));
        jittered.max(asked.unwrap_or_default().min(Duration::from_secs(600)))
    }
}

fn panicked(panic: &(dyn std::any::Any + Send)) -> StageError {
    let message = panic
        .downcast_ref::<&str>()
        .map(ToString::to_string)
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_default();
    error!(message, "stage panicked");
    StageError::Retry { error: JobError::retryable("internal", "the stage failed unexpectedly"), after: None }
}

pub(crate) fn settle(settled: PortResult<()>) {
    if let Err(error) = settled {
        // It comes again, and finds its work done.
        warn!(%error, "message not settled");
    }
}
