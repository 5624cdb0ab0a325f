//! The events of a job while a stage works on it, on their way to the log.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::domain::{EventType, NewEvent};

/// Events that come within this time travel together, and pieces of text as one event: a fast model must not flood the log, and nobody reads faster.
const COALESCE: Duration = Duration::from_millis(30);

/// What a stage says about its job. It costs the stage nothing: the worker takes it to the log meanwhile, and what is left when the stage ends goes there
/// with what the worker itself has to say. So a stage that takes a moment only costs the log one write.
#[derive(Debug, Default)]
pub struct JobEvents {
    said: Mutex<Vec<NewEvent>>,
    changed: Notify,
    closed: CancellationToken,
}

impl JobEvents {
    /// Says something.
    pub fn say(&self, kind: EventType, data: Value) {
        self.said().push(NewEvent::now(kind, data));
        self.changed.notify_one();
    }

    /// Says the next piece of the answer's text.
    pub fn say_text(&self, text: &str) {
        {
            let mut said = self.said();
            let last = said.last_mut().filter(|last| last.kind == EventType::AnswerDelta);
            if let Some(Value::String(so_far)) = last.and_then(|last| last.data.get_mut("text")) {
                so_far.push_str(text);
                return;
            }
            said.push(NewEvent::now(EventType::AnswerDelta, json!({"text": text})));
        }
        self.changed.notify_one();
    }

    /// Gives what is said to `log`, until [`close`](Self::close): then it returns as soon as nothing is on its way any more. It must be polled
    /// until it has returned, or what is on its way is lost.
    pub async fn pass_on<F: Future<Output = ()>>(&self, log: impl Fn(Vec<NewEvent>) -> F) {
        loop {
            tokio::select! {
                biased;
                () = self.closed.cancelled() => return,
                () = self.something_to_pass_on() => {}
            }
            log(self.take()).await;
        }
    }

    async fn something_to_pass_on(&self) {
        self.changed.notified().await;
        tokio::time::sleep(COALESCE).await;
    }

    /// Nothing more is to be passed on; what has not begun its way is left.
    pub fn close(&self) {
        self.closed.cancel();
    }

    /// What was said and has not begun its way.
    #[must_use]
    pub fn take(&self) -> Vec<NewEvent> {
        std::mem::take(&mut *self.said())
    }

    fn said(&self) -> MutexGuard<'_, Vec<NewEvent>> {
        // Pushing does not panic half-way.
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    fn summary(events: &[NewEvent]) -> Vec<String> {
        let text = |event: &NewEvent| match event.kind {
            EventType::AnswerDelta => event.data["text"].as_str().unwrap().to_owned(),
            kind => kind.as_str().to_owned(),
        };
        events.iter().map(text).collect()
    }

    #[test]
    fn pieces_of_text_are_one_event_until_something_else_is_said() {
        let events = JobEvents::default();
        events.say_text("a");
        events.say(EventType::Generating, Value::Null);
        events.say_text("b");
        events.say_text("c");
        assert_eq!(summary(&events.take()), ["a", "job.generating", "bc"]);
        assert!(events.take().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_said_goes_to_the_log_within_a_moment_and_together() {
        let (events, written) = (JobEvents::default(), Mutex::new(Vec::new()));
        let begun = Instant::now();
        let log = |said: Vec<NewEvent>| {
            written.lock().unwrap().push((begun.elapsed(), summary(&said)));
            std::future::ready(())
        };
        let speak = async {
            events.say_text("a");
            tokio::time::sleep(COALESCE / 2).await;
            events.say_text("b");
            tokio::time::sleep(COALESCE * 10).await;
            events.say(EventType::Retrieved, Value::Null);
            tokio::time::sleep(COALESCE * 2).await;
            events.say_text("the rest");
            events.close();
        };
        tokio::join!(speak, events.pass_on(log));
        let written = written.into_inner().unwrap();
        let texts: Vec<_> = written.iter().map(|(_, texts)| texts.join(" ")).collect();
        assert_eq!(texts, ["ab", "job.retrieved"]);
        assert!(written[0].0 < COALESCE * 2, "{written:?}");
        assert_eq!(summary(&events.take()), ["the rest"]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_on_its_way_arrives_after_the_close() {
        let (events, written) = (JobEvents::default(), Mutex::new(Vec::new()));
        let log = async |said: Vec<NewEvent>| {
            tokio::time::sleep(COALESCE * 3).await;
            written.lock().unwrap().extend(summary(&said));
        };
        let speak = async {
            events.say_text("a");
            tokio::time::sleep(COALESCE * 2).await;
            events.say_text("b");
            events.close();
        };
        tokio::join!(speak, events.pass_on(log));
        assert_eq!(written.into_inner().unwrap(), ["a"]);
        assert_eq!(summary(&events.take()), ["b"]);
    }
}
