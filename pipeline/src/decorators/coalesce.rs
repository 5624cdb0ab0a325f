//! Text of answers that comes in many small pieces travels in few events.

#[cfg(test)]
mod tests;

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use futures::stream::BoxStream;
use serde_json::Value;
use tokio::{
    sync::{Notify, oneshot},
    time::{Instant, sleep_until},
};
use tracing::warn;

use super::retry::Backoff;
use crate::{
    domain::{Event, EventType, JobId, NewEvent},
    ports::{ErrorKind, EventLog, Followed, PortError, PortResult},
};

/// So much text of one job may wait, in bytes; more is refused.
const MOST_WAITING: usize = 1 << 20;
/// How often text is tried to be logged.
const TRIES: u32 = 8;
/// How long to wait before another try.
const BACKOFF: Backoff =
    Backoff { base: Duration::from_millis(50), factor: 2.0, max: Duration::from_secs(1) };

/// An event log that joins the pieces of an answer.
///
/// The first `answer.delta` after a quiet time is logged at once. What follows within the window is joined into one event, which is logged when the
/// window is over, and so on; so a job has at most one such event a window, and its first text waits for nothing. Any other event is logged after all
/// text before it, without waiting for the window.
///
/// Of an `answer.delta`, [`append`](EventLog::append) returns at once and does not know its number yet: what it returns is only a number that the event's
/// will be higher than. Of all other events it returns their own number. Text is joined where `data` is nothing but `{"text": …}`; any other
/// `answer.delta` is treated as an event of another kind.
///
/// Text that the log refuses for the moment is kept and tried again for some seconds, or until another event of its job waits for it; text that may have
/// been logged already, or that cannot be, is given up and the failure is written to the program's log. While text waits there is one task for its job,
/// and it ends with the window.
pub struct CoalescingEventLog {
    shared: Arc<Shared>,
}

struct Shared {
    inner: Arc<dyn EventLog>,
    window: Duration,
    jobs: Mutex<HashMap<JobId, Queue>>,
}

/// What waits to be logged for one job, in order.
struct Queue {
    waiting: VecDeque<Waiting>,
    /// Something came that does not wait for the window.
    hurry: Arc<Notify>,
}

enum Waiting {
    Text(Text),
    Event { floor: u64, event: NewEvent, logged: oneshot::Sender<PortResult<u64>> },
}

/// Pieces that were joined.
#[derive(Debug, Clone)]
struct Text {
    floor: u64,
    /// The first of them, without its text.
    event: NewEvent,
    text: String,
}

impl CoalescingEventLog {
    /// Puts this before a log. To be used within a Tokio runtime.
    #[must_use]
    pub fn new(inner: Arc<dyn EventLog>, window: Duration) -> Arc<Self> {
        Arc::new(Self { shared: Arc::new(Shared { inner, window, jobs: Mutex::default() }) })
    }
}

impl Text {
    /// The text of an event that can be joined with others of its kind, or the event as it was.
    fn of(floor: u64, mut event: NewEvent) -> Result<Self, NewEvent> {
        if event.kind != EventType::AnswerDelta {
            return Err(event);
        }
        match &mut event.data {
            Value::Object(fields) if fields.len() == 1 => match fields.get_mut("text") {
                Some(Value::String(text)) => {
                    let text = std::mem::take(text);
                    Ok(Self { floor, event, text })
                }
                _ => Err(event),
            },
            _ => Err(event),
        }
    }

    fn into_event(self) -> NewEvent {
        let mut event = self.event;
        event.data["text"] = Value::String(self.text);
        event
    }
}

#[async_trait]
impl EventLog for CoalescingEventLog {
    async fn append(&self, job: JobId, floor: u64, event: NewEvent) -> PortResult<u64> {
        match Text::of(floor, event) {
            Ok(text) => self.shared.add_text(job, text).map(|()| floor),
            Err(event) => match self.shared.add_event(job, floor, event) {
                Ok(logged) => logged.await.unwrap_or_else(|_| {
                    Err(PortError::new(ErrorKind::Internal, "the text before an event could not be logged"))
                }),
                Err(event) => self.shared.inner.append(job, floor, event).await,
            },
        }
    }

    async fn follow(&self, job: JobId, after: u64) -> PortResult<BoxStream<'static, Followed>> {
        self.shared.inner.follow(job, after).await
    }

    async fn read(&self, job: JobId) -> PortResult<Vec<Event>> {
        self.shared.inner.read(job).await
    }

    async fn forget(&self, job: JobId, delay: Duration) -> PortResult<()> {
        if delay.is_zero()
            && let Some(queue) = self.shared.jobs().get_mut(&job)
        {
            // It would bring back what is to be gone.
            queue.waiting.retain(|waiting| matches!(waiting, Waiting::Event { .. }));
        }
        self.shared.inner.forget(job, delay).await
    }
}

impl Shared {
    fn jobs(&self) -> MutexGuard<'_, HashMap<JobId, Queue>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add_text(self: &Arc<Self>, job: JobId, new: Text) -> PortResult<()> {
        let mut jobs = self.jobs();
        let Some(queue) = jobs.get_mut(&job) else {
            let hurry = Arc::new(Notify::new());
            let waiting = VecDeque::from([Waiting::Text(new)]);
            jobs.insert(job, Queue { waiting, hurry: Arc::clone(&hurry) });
            drop(jobs);
            let driver = Driver { shared: Arc::clone(self), job, hurry };
            tokio::spawn(driver.run());
            return Ok(());
        };
        match queue.waiting.back_mut() {
            Some(Waiting::Text(last)) if last.text.len() + new.text.len() > MOST_WAITING => {
                Err(PortError::new(ErrorKind::Overloaded, "too much text waits to be logged"))
            }
            Some(Waiting::Text(last)) => {
                last.text.push_str(&new.text);
                last.floor = last.floor.max(new.floor);
                Ok(())
            }
            _ => {
                queue.waiting.push_back(Waiting::Text(new));
                Ok(())
            }
        }
    }

    /// Puts an event behind the text that waits; gives it back where none does.
    fn add_event(
        &self,
        job: JobId,
        floor: u64,
        event: NewEvent,
    ) -> Result<oneshot::Receiver<PortResult<u64>>, NewEvent> {
        let mut jobs = self.jobs();
        let Some(queue) = jobs.get_mut(&job) else { return Err(event) };
        let (logged, receiver) = oneshot::channel();
        queue.waiting.push_back(Waiting::Event { floor, event, logged });
        queue.hurry.notify_one();
        Ok(receiver)
    }
}

/// Logs what waits for one job, until nothing does.
struct Driver {
    shared: Arc<Shared>,
    job: JobId,
    hurry: Arc<Notify>,
}

impl Driver {
    async fn run(self) {
        while let Some(waiting) = self.next() {
            match waiting {
                Waiting::Text(text) => {
                    let window_ends = Instant::now() + self.shared.window;
                    self.log_text(text).await;
                    self.wait_until(window_ends).await;
                }
                Waiting::Event { floor, event, logged } => {
                    let result = self.shared.inner.append(self.job, floor, event).await;
                    // Its caller may have left.
                    let _ = logged.send(result);
                }
            }
        }
    }

    /// What to log now; none when the queue was empty, and is no more.
    fn next(&self) -> Option<Waiting> {
        let mut jobs = self.shared.jobs();
        let next = jobs.get_mut(&self.job)?.waiting.pop_front();
        if next.is_none() {
            jobs.remove(&self.job);
        }
        next
    }

    async fn log_text(&self, text: Text) {
        let (floor, bytes) = (text.floor, text.text.len());
        let event = text.into_event();
        let mut failures = 0;
        loop {
            let Err(error) = self.shared.inner.append(self.job, floor, event.clone()).await else { return };
            failures += 1;
            // Of a time-out it is not known whether the text is there already: twice would be worse than not at all.
            let refused = matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Overloaded);
            if !refused || failures == TRIES || self.is_in_hurry() {
                warn!(job_id = %self.job, bytes, failures, %error, "text of an answer not logged");
                return;
            }
            let delay = BACKOFF.delay(failures, &mut rand::rng());
            self.wait_until(Instant::now() + delay).await;
        }
    }

    /// Waits, unless an event of another kind does too.
    async fn wait_until(&self, end: Instant) {
        while !self.is_in_hurry() {
            tokio::select! {
                () = sleep_until(end) => return,
                () = self.hurry.notified() => {}
            }
        }
    }

    fn is_in_hurry(&self) -> bool {
        let jobs = self.shared.jobs();
        let queue = jobs.get(&self.job);
        queue
            .is_some_and(|queue| queue.waiting.iter().any(|waiting| matches!(waiting, Waiting::Event { .. })))
    }
}

impl Drop for Driver {
    /// Whatever ends it, nobody goes on waiting for it.
    fn drop(&mut self) {
        let mut jobs = self.shared.jobs();
        if jobs.get(&self.job).is_some_and(|queue| Arc::ptr_eq(&queue.hurry, &self.hurry)) {
            jobs.remove(&self.job);
        }
    }
}
