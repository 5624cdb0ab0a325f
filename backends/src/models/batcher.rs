//! Runs a model on threads of its own, in batches gathered across callers.
//!
//! Sequences wait in two lanes. A thread that is free takes a batch of the queries' lane if anything is there, else of the
//! passages': the longest-waiting sequence and those of nearly the same length, up to a budget of padded tokens. So a query
//! waits for one batch at most, nothing starves, and little is padded.

use std::{
    collections::VecDeque,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::Instant,
};

use raglan_pipeline::ports::ModelError;
use tokio::sync::{Semaphore, oneshot};

use super::Sequence;

/// Of how many waiting sequences a batch is picked.
const WINDOW: usize = 256;

/// How a model's work is cut up and spread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchSettings {
    /// Threads that run the model, each on its own batch.
    ///
    /// candle cuts every product into as many pieces as the environment variable `RAYON_NUM_THREADS` says (the number of cores
    /// where it is not set), whichever thread runs them. With several workers the cutting is pure cost: a process that sets the
    /// variable to 1 before it starts a thread embeds 15 % faster on 2 cores, and several times on many.
    pub workers: usize,
    /// The most tokens of a batch, padding included. A query waits for at most one batch: smaller is more prompt.
    pub batch_tokens: usize,
    /// The most texts of a batch.
    pub batch_texts: usize,
    /// The most texts that wait in each lane; callers beyond wait for room. A call with more texts than this waits until it
    /// is alone.
    pub waiting_texts: usize,
}

impl Default for BatchSettings {
    /// One thread a core, at most four: beyond that memory bandwidth is what is short.
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self { workers: cores.clamp(1, 4), batch_tokens: 1024, batch_texts: 16, waiting_texts: 2048 }
    }
}

/// What a [`Batcher`] runs.
pub(crate) trait Model: Send + Sync + 'static {
    /// One row of numbers for each sequence, in order.
    fn run(&self, batch: &[&Sequence]) -> Result<Vec<Vec<f32>>, String>;
}

/// Which sequences go first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lane {
    /// Somebody waits for these.
    Query,
    /// These can wait.
    Passage,
}

type Rows = Vec<Vec<f32>>;

/// A caller's sequences that are not answered yet.
struct Request {
    state: Mutex<RequestState>,
}

struct RequestState {
    rows: Rows,
    missing: usize,
    /// Taken when the answer is sent.
    reply: Option<oneshot::Sender<Result<Rows, ModelError>>>,
}

impl Request {
    fn deliver(&self, index: usize, row: Vec<f32>) {
        let mut state = lock(&self.state);
        if let Some(place) = state.rows.get_mut(index) {
            *place = row;
            state.missing -= 1;
        }
        if state.missing == 0 {
            let rows = std::mem::take(&mut state.rows);
            state.reply(Ok(rows));
        }
    }

    fn fail(&self, error: ModelError) {
        lock(&self.state).reply(Err(error));
    }

    fn is_over(&self) -> bool {
        lock(&self.state).reply.as_ref().is_none_or(oneshot::Sender::is_closed)
    }
}

impl RequestState {
    fn reply(&mut self, answer: Result<Rows, ModelError>) {
        if let Some(reply) = self.reply.take() {
            // A caller that has gone wants no answer.
            let _ = reply.send(answer);
        }
    }
}

struct Item {
    request: Arc<Request>,
    index: usize,
    sequence: Sequence,
}

#[derive(Default)]
struct Queue {
    queries: VecDeque<Item>,
    passages: VecDeque<Item>,
    closed: bool,
}

impl Queue {
    fn lane(&mut self, lane: Lane) -> &mut VecDeque<Item> {
        match lane {
            Lane::Query => &mut self.queries,
            Lane::Passage => &mut self.passages,
        }
    }

    fn remove(&mut self, request: &Arc<Request>) {
        for lane in [Lane::Query, Lane::Passage] {
            self.lane(lane).retain(|item| !Arc::ptr_eq(&item.request, request));
        }
    }
}

struct Shared {
    queue: Mutex<Queue>,
    arrived: Condvar,
}

impl Shared {
    /// Waits for work. None when the batcher is closed.
    fn next_batch(&self, settings: &BatchSettings) -> Option<Vec<Item>> {
        let mut queue = lock(&self.queue);
        loop {
            if queue.closed {
                return None;
            }
            for lane in [Lane::Query, Lane::Passage] {
                let batch = pick(queue.lane(lane), settings);
                if !batch.is_empty() {
                    return Some(batch);
                }
            }
            queue = self.arrived.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Takes the first sequence and those nearest to it in length, as many as fit.
fn pick(lane: &mut VecDeque<Item>, settings: &BatchSettings) -> Vec<Item> {
    let Some(first) = lane.front().map(|item| item.sequence.len()) else { return Vec::new() };
    let window = lane.len().min(WINDOW);
    let length = |at: usize| lane.get(at).map_or(0, |item| item.sequence.len());
    let mut nearest: Vec<usize> = (1..window).collect();
    nearest.sort_by_key(|&at| length(at).abs_diff(first));

    let (mut picked, mut longest) = (vec![0], first);
    for at in nearest {
        let with = longest.max(length(at));
        if picked.len() >= settings.batch_texts || with * (picked.len() + 1) > settings.batch_tokens {
            break;
        }
        picked.push(at);
        longest = with;
    }
    picked.sort_unstable_by(|a, b| b.cmp(a));
    picked.into_iter().filter_map(|at| lane.remove(at)).collect()
}

/// Takes a request's sequences out of the queue when its caller goes.
struct Waiting<'a> {
    shared: &'a Shared,
    request: Arc<Request>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let unfinished = lock(&self.request.state).missing > 0;
        if unfinished {
            lock(&self.shared.queue).remove(&self.request);
        }
    }
}

/// A model with its threads. Dropping it ends and joins them, after the batches that are running.
pub(crate) struct Batcher {
    shared: Arc<Shared>,
    settings: BatchSettings,
    /// Places for waiting texts, a lane each.
    rooms: [Semaphore; 2],
    threads: Vec<JoinHandle<()>>,
}

impl Batcher {
    /// Starts the threads.
    pub(crate) fn start(name: &str, model: Arc<dyn Model>, settings: &BatchSettings) -> io::Result<Self> {
        let settings = BatchSettings {
            workers: settings.workers.max(1),
            batch_tokens: settings.batch_tokens.max(1),
            batch_texts: settings.batch_texts.max(1),
            waiting_texts: settings.waiting_texts.clamp(1, 1 << 20),
        };
        let room = || Semaphore::new(settings.waiting_texts);
        let shared = Arc::new(Shared { queue: Mutex::default(), arrived: Condvar::new() });
        // Built first, so that what was started is joined when a later thread cannot be.
        let mut batcher = Self {
            shared: Arc::clone(&shared),
            rooms: [room(), room()],
            settings: settings.clone(),
            threads: Vec::new(),
        };
        for number in 0..settings.workers {
            let (shared, model, settings) = (Arc::clone(&shared), Arc::clone(&model), settings.clone());
            let name = name.to_owned();
            let thread = std::thread::Builder::new()
                .name(format!("{name}-{number}"))
                .spawn(move || work(&name, &shared, &*model, &settings))?;
            batcher.threads.push(thread);
        }
        Ok(batcher)
    }

    /// Runs sequences; one row each, in order.
    pub(crate) async fn run(&self, sequences: Vec<Sequence>, lane: Lane) -> Result<Rows, ModelError> {
        if sequences.is_empty() {
            return Ok(Vec::new());
        }
        let room = match lane {
            Lane::Query => &self.rooms[0],
            Lane::Passage => &self.rooms[1],
        };
        let places = u32::try_from(sequences.len().min(self.settings.waiting_texts)).unwrap_or(u32::MAX);
        let _places = room.acquire_many(places).await.map_err(|_| shut_down())?;

        let (reply, answer) = oneshot::channel();
        let count = sequences.len();
        let request = Arc::new(Request {
            state: Mutex::new(RequestState {
                rows: vec![Vec::new(); count],
                missing: count,
                reply: Some(reply),
            }),
        });
        let mut items: Vec<Item> = sequences
            .into_iter()
            .enumerate()
            .map(|(index, sequence)| Item { request: Arc::clone(&request), index, sequence })
            .collect();
        // Neighbours in the queue are neighbours in length.
        items.sort_by_key(|item| std::cmp::Reverse(item.sequence.len()));
        let _waiting = Waiting { shared: &self.shared, request };
        lock(&self.shared.queue).lane(lane).extend(items);
        self.shared.arrived.notify_all();
        answer.await.unwrap_or_else(|_| Err(shut_down()))
    }
}

impl Drop for Batcher {
    fn drop(&mut self) {
        lock(&self.shared.queue).closed = true;
        self.shared.arrived.notify_all();
        for thread in self.threads.drain(..) {
            // The threads catch what the model panics with; nothing is left to be said here.
            let _ = thread.join();
        }
    }
}

fn shut_down() -> ModelError {
    ModelError::try_later("the model was shut down")
}

/// The life of one thread.
fn work(name: &str, shared: &Shared, model: &dyn Model, settings: &BatchSettings) {
    let tokens = metrics::counter!("raglan_model_tokens_total", "model" => name.to_owned());
    let seconds = metrics::histogram!("raglan_model_batch_seconds", "model" => name.to_owned());
    while let Some(mut batch) = shared.next_batch(settings) {
        batch.retain(|item| !item.request.is_over());
        let started = Instant::now();
        let whole = run_batch(model, &batch);
        tokens.increment(batch.iter().map(|item| item.sequence.len() as u64).sum());
        seconds.record(started.elapsed());
        match whole {
            Ok(rows) => deliver(batch, rows),
            Err(error) if batch.len() == 1 => fail(&batch, &error),
            // One caller's text must not fail another's: each by itself.
            Err(_) => {
                for item in batch {
                    let single = [item];
                    match run_batch(model, &single) {
                        Ok(rows) => deliver(single, rows),
                        Err(error) => fail(&single, &error),
                    }
                }
            }
        }
    }
}

fn deliver(batch: impl IntoIterator<Item = Item>, rows: Rows) {
    for (item, row) in batch.into_iter().zip(rows) {
        item.request.deliver(item.index, row);
    }
}

fn fail(batch: &[Item], error: &str) {
    for item in batch {
        item.request.fail(ModelError::Permanent(format!("the model failed: {error}")));
    }
}

/// Runs a batch; a panic of the model is an error like any other.
fn run_batch(model: &dyn Model, batch: &[Item]) -> Result<Rows, String> {
    if batch.is_empty() {
        return Ok(Vec::new());
    }
    let sequences: Vec<&Sequence> = batch.iter().map(|item| &item.sequence).collect();
    // The model is read only, and what the batch has made so far is dropped.
    let rows = catch_unwind(AssertUnwindSafe(|| model.run(&sequences))).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<&str>().copied().map(str::to_owned);
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
        Err(format!("it panicked: {}", text.as_deref().unwrap_or("without a word")))
    })?;
    match rows.len() == batch.len() {
        true if rows.iter().flatten().all(|value| value.is_finite()) => Ok(rows),
        true => Err("it computed something that is not a number".to_owned()),
        false => Err(format!("it answered {} of {} texts", rows.len(), batch.len())),
    }
}

/// No code panics while it holds one of these locks, so a poisoned one guards nothing broken.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
