//! Time is tokio's, paused.

use serde_json::json;

use super::*;

const WINDOW: Duration = Duration::from_millis(30);
const MS: Duration = Duration::from_millis(1);

/// Writes down what it is told, slowly, and fails as it is told.
#[derive(Default)]
struct Notes {
    events: Mutex<Vec<(Duration, NewEvent)>>,
    begun: Mutex<Option<Instant>>,
    takes: Duration,
    failures: Mutex<VecDeque<ErrorKind>>,
}

#[async_trait]
impl EventLog for Notes {
    async fn append(&self, _: JobId, floor: u64, event: NewEvent) -> PortResult<u64> {
        tokio::time::sleep(self.takes).await;
        if let Some(kind) = self.failures.lock().unwrap().pop_front() {
            return Err(PortError::new(kind, "told to"));
        }
        let begun = *self.begun.lock().unwrap().get_or_insert_with(Instant::now);
        let mut events = self.events.lock().unwrap();
        events.push((begun.elapsed(), event));
        Ok(floor + events.len() as u64)
    }

    async fn follow(&self, _: JobId, _: u64) -> PortResult<BoxStream<'static, Followed>> {
        Ok(Box::pin(futures::stream::pending()))
    }

    async fn read(&self, _: JobId) -> PortResult<Vec<Event>> {
        Ok(Vec::new())
    }

    async fn forget(&self, _: JobId, _: Duration) -> PortResult<()> {
        Ok(())
    }
}

impl Notes {
    /// Texts of deltas, names of other events.
    fn said(&self) -> Vec<String> {
        let said = |(_, event): &(Duration, NewEvent)| match event.kind {
            EventType::AnswerDelta => event.data["text"].as_str().unwrap_or("?").to_owned(),
            kind => kind.as_str().to_owned(),
        };
        self.events.lock().unwrap().iter().map(said).collect()
    }

    fn times(&self) -> Vec<Duration> {
        self.events.lock().unwrap().iter().map(|(at, _)| *at).collect()
    }
}

struct World {
    notes: Arc<Notes>,
    log: Arc<CoalescingEventLog>,
    job: JobId,
}

impl World {
    fn new(notes: Notes) -> Self {
        let notes = Arc::new(notes);
        let log = CoalescingEventLog::new(Arc::clone(&notes) as Arc<dyn EventLog>, WINDOW);
        Self { notes, log, job: JobId::generate() }
    }

    fn failing(failures: impl IntoIterator<Item = ErrorKind>) -> Self {
        Self::new(Notes { failures: Mutex::new(failures.into_iter().collect()), ..Notes::default() })
    }

    async fn text(&self, text: &str) {
        let event = NewEvent::now(EventType::AnswerDelta, json!({"text": text}));
        assert_eq!(self.log.append(self.job, 7, event).await.unwrap(), 7, "a number below its own");
    }

    async fn event(&self, kind: EventType) -> PortResult<u64> {
        self.log.append(self.job, 7, NewEvent::now(kind, json!({}))).await
    }

    /// Waits until no task is left, which is within this time.
    async fn quiet(&self, within: Duration) {
        tokio::time::sleep(within).await;
        assert!(self.log.shared.jobs().is_empty(), "something is left behind");
    }
}

#[tokio::test(start_paused = true)]
async fn the_first_text_comes_at_once_and_the_rest_one_event_a_window() {
    let world = World::new(Notes::default());
    for n in 0..100 {
        world.text(&format!("{n} ")).await;
        tokio::time::sleep(MS).await;
    }
    world.quiet(3 * WINDOW).await;
    let (said, times) = (world.notes.said(), world.notes.times());
    assert_eq!(said[0], "0 ", "the first waits for nothing");
    assert_eq!(said.concat(), (0..100).map(|n| format!("{n} ")).collect::<String>());
    assert_eq!(said.len(), 5, "{said:?}");
    assert!(times.windows(2).all(|pair| pair[1] - pair[0] >= WINDOW), "{times:?}");
}

#[tokio::test(start_paused = true)]
async fn another_event_comes_after_the_text_before_it_and_does_not_wait() {
    let world = World::new(Notes { takes: 2 * MS, ..Notes::default() });
    world.text("a").await;
    world.text("b").await;
    let begun = Instant::now();
    assert_eq!(world.event(EventType::Retrying).await.unwrap(), 7 + 2, "its own number");
    assert!(begun.elapsed() < WINDOW);
    assert_eq!(
        world.notes.said(),
        ["ab", "job.retrying"],
        "what came before the first was logged is joined too"
    );
    world.text("c").await;
    world.text("d").await;
    assert_eq!(world.event(EventType::Succeeded).await.unwrap(), 7 + 4);
    assert_eq!(world.notes.said(), ["ab", "job.retrying", "cd", "job.succeeded"]);
    world.quiet(MS).await;
}

#[tokio::test(start_paused = true)]
async fn without_text_an_event_goes_straight_through() {
    let world = World::failing([ErrorKind::Conflict]);
    assert_eq!(world.event(EventType::Queued).await.unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(world.event(EventType::Queued).await.unwrap(), 7 + 1);
    world.quiet(Duration::ZERO).await;
}

#[tokio::test(start_paused = true)]
async fn text_with_something_beside_it_is_left_as_it_is() {
    let world = World::new(Notes::default());
    world.text("a").await;
    let odd = [json!({"text": "b", "tokens": 1}), json!({"text": 1}), json!({"other": "c"}), json!("d")];
    for data in &odd {
        let event = NewEvent::now(EventType::AnswerDelta, data.clone());
        assert!(world.log.append(world.job, 0, event).await.unwrap() > 0);
    }
    let events = world.notes.events.lock().unwrap();
    let logged: Vec<_> = events.iter().map(|(_, event)| event.data.clone()).collect();
    assert_eq!(logged[0], json!({"text": "a"}));
    assert_eq!(logged[1..], odd);
}

#[tokio::test(start_paused = true)]
async fn jobs_do_not_wait_for_each_other() {
    let world = World::new(Notes::default());
    world.text("a").await;
    tokio::time::sleep(MS).await;
    let other =
        World { job: JobId::generate(), notes: Arc::clone(&world.notes), log: Arc::clone(&world.log) };
    world.text("b").await;
    other.text("x").await;
    tokio::time::sleep(MS).await;
    assert_eq!(world.notes.said(), ["a", "x"]);
    world.quiet(3 * WINDOW).await;
    assert_eq!(world.notes.said(), ["a", "x", "b"]);
}

#[tokio::test(start_paused = true)]
async fn text_that_was_refused_is_kept_for_a_while_and_nothing_comes_twice() {
    let world = World::failing([ErrorKind::Unavailable, ErrorKind::Overloaded]);
    world.text("a").await;
    tokio::time::sleep(MS).await;
    world.text("b").await;
    world.quiet(Duration::from_secs(1)).await;
    assert_eq!(world.notes.said(), ["a", "b"]);

    let world = World::failing([ErrorKind::Timeout]);
    world.text("a").await;
    tokio::time::sleep(MS).await;
    world.text("b").await;
    world.quiet(Duration::from_secs(1)).await;
    assert_eq!(world.notes.said(), ["b"], "the first may be there already");
}

#[tokio::test(start_paused = true)]
async fn an_event_waits_for_one_last_try_only() {
    let world = World::failing(vec![ErrorKind::Unavailable; 100]);
    world.text("a").await;
    tokio::time::sleep(MS).await;
    let begun = Instant::now();
    assert_eq!(world.event(EventType::Succeeded).await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert!(begun.elapsed() <= MS, "{:?}", begun.elapsed());
    world.quiet(MS).await;
}

#[tokio::test(start_paused = true)]
async fn a_log_that_stays_away_is_given_up_and_nothing_is_left() {
    let world = World::failing(vec![ErrorKind::Unavailable; TRIES as usize]);
    world.text("a").await;
    world.quiet(Duration::from_secs(10)).await;
    assert!(world.notes.said().is_empty());
    world.text("b").await;
    world.quiet(2 * WINDOW).await;
    assert_eq!(world.notes.said(), ["b"]);
}

#[tokio::test(start_paused = true)]
async fn text_has_a_bound() {
    let world = World::failing(vec![ErrorKind::Unavailable; TRIES as usize]);
    world.text("a").await;
    tokio::time::sleep(MS).await;
    let large = "x".repeat(MOST_WAITING / 2 + 1);
    world.text(&large).await;
    let event = NewEvent::now(EventType::AnswerDelta, json!({"text": large}));
    let refused = world.log.append(world.job, 7, event).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Overloaded);
}

#[tokio::test(start_paused = true)]
async fn what_is_forgotten_does_not_come_back() {
    let world = World::new(Notes::default());
    world.text("a").await;
    tokio::time::sleep(MS).await;
    world.text("b").await;
    world.log.forget(world.job, Duration::ZERO).await.unwrap();
    world.quiet(2 * WINDOW).await;
    assert_eq!(world.notes.said(), ["a"]);
}
