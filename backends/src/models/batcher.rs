//! Runs work on threads of its own, in batches gathered across callers.
//!
//! Inputs wait in two lanes. A thread that is free takes a batch of the queries' lane if anything is there, else of the passages': the
//! longest-waiting inputs, in order, as many as fit into a budget of tokens. So a query waits for one batch at most, concurrent queries
//! share a pass, and nothing starves within its lane.

use std::{
    collections::VecDeque,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
};

use raglan_pipeline::ports::ModelError;
use tokio::sync::{Semaphore, oneshot};

use super::Placement;

/// How a model's work is cut up and spread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchSettings {
    /// Threads that run the model, each on its own batch; on a GPU there is one.
    pub workers: usize,
    /// The most tokens of a batch; a longer text is a batch by itself. A query waits for at most one batch: smaller is more prompt. On the processor
    /// texts are not padded and run through the layers a few at a time, so larger ones are hardly faster; a GPU needs many to be busy.
    pub batch_tokens: usize,
    /// The most texts that wait in each lane; callers beyond wait for room. A call with more texts than this waits until it
    /// is alone.
    pub waiting_texts: usize,
    /// Threads that tokenise; 0 is one for each four that run the model.
    pub tokenizers: usize,
}

impl Default for BatchSettings {
    /// For the processor: one thread for each core that the process may use.
    fn default() -> Self {
        Self { workers: cores(), batch_tokens: 256, waiting_texts: 2048, tokenizers: 0 }
    }
}

impl BatchSettings {
    /// For a model that runs there.
    #[must_use]
    pub fn of(placement: Placement) -> Self {
        match placement {
            Placement::Cpu(_) => Self::default(),
            // One thread gives the GPU its work; it is the tokenisers that must keep up.
            Placement::Cuda(..) => Self {
                workers: 1,
                batch_tokens: 16_384,
                waiting_texts: 8_192,
                tokenizers: cores().saturating_sub(1).clamp(1, 8),
            },
        }
    }

    pub(super) fn tokenizers(&self) -> usize {
        /// So many threads of the encoder are kept busy by one that tokenises.
        const WORKERS_PER_TOKENIZER: usize = 4;
        match self.tokenizers {
            0 => self.workers.div_ceil(WORKERS_PER_TOKENIZER),
            tokenizers => tokenizers,
        }
    }
}

/// The cores that the process may use: the machine's, less what its affinity and its control group (both versions, on Linux) take from it.
fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// What a [`Batcher`] runs.
pub(crate) trait Work: Send + Sync + 'static {
    /// What a caller hands in, each for itself.
    type Input: Send + 'static;
    /// What it gets for that.
    type Output: Send + 'static;

    /// How much of a batch's budget an input takes.
    fn cost(&self, input: &Self::Input) -> usize;

    /// One output for each input, in order.
    fn run(&self, batch: &[&Self::Input]) -> Result<Vec<Self::Output>, String>;
}

/// Which inputs go first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lane {
    /// Somebody waits for these.
    Query,
    /// These can wait.
    Passage,
}

/// A caller's inputs that are not answered yet.
struct Request<T> {
    state: Mutex<RequestState<T>>,
}

struct RequestState<T> {
    outputs: Vec<Option<T>>,
    missing: usize,
    /// Taken when the answer is sent.
    reply: Option<oneshot::Sender<Result<Vec<T>, ModelError>>>,
}

impl<T> Request<T> {
    fn deliver(&self, index: usize, output: T) {
        let mut state = lock(&self.state);
        if let Some(place) = state.outputs.get_mut(index)
            && place.replace(output).is_none()
        {
            state.missing -= 1;
        }
        if state.missing == 0 {
            let outputs = std::mem::take(&mut state.outputs).into_iter().flatten().collect();
            state.reply(Ok(outputs));
        }
    }

    fn fail(&self, error: ModelError) {
        lock(&self.state).reply(Err(error));
    }

    fn is_over(&self) -> bool {
        lock(&self.state).reply.as_ref().is_none_or(oneshot::Sender::is_closed)
    }
}

impl<T> RequestState<T> {
    fn reply(&mut self, answer: Result<Vec<T>, ModelError>) {
        if let Some(reply) = self.reply.take() {
            // A caller that has gone wants no answer.
            let _ = reply.send(answer);
        }
    }
}

struct Item<W: Work> {
    request: Arc<Request<W::Output>>,
    index: usize,
    input: W::Input,
}

struct Queue<W: Work> {
    queries: VecDeque<Item<W>>,
    passages: VecDeque<Item<W>>,
    closed: bool,
}

impl<W: Work> Queue<W> {
    fn lane(&mut self, lane: Lane) -> &mut VecDeque<Item<W>> {
        match lane {
            Lane::Query => &mut self.queries,
            Lane::Passage => &mut self.passages,
        }
    }

    fn remove(&mut self, request: &Arc<Request<W::Output>>) {
        for lane in [Lane::Query, Lane::Passage] {
            self.lane(lane).retain(|item| !Arc::ptr_eq(&item.request, request));
        }
    }
}

struct Shared<W: Work> {
    work: W,
    queue: Mutex<Queue<W>>,
    arrived: Condvar,
}

impl<W: Work> Shared<W> {
    /// Waits for work. None when the batcher is closed.
    fn next_batch(&self, budget: usize) -> Option<Vec<Item<W>>> {
        let mut queue = lock(&self.queue);
        loop {
            if queue.closed {
                return None;
            }
            for lane in [Lane::Query, Lane::Passage] {
                let batch = self.pick(queue.lane(lane), budget);
                if !batch.is_empty() {
                    return Some(batch);
                }
            }
            queue = self.arrived.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Takes the inputs that have waited longest, as many as fit, but one at least.
    fn pick(&self, lane: &mut VecDeque<Item<W>>, budget: usize) -> Vec<Item<W>> {
        let mut left = budget;
        let mut count = 0;
        for item in lane.iter() {
            match left.checked_sub(self.work.cost(&item.input)) {
                Some(rest) => left = rest,
                None if count > 0 => break,
                None => left = 0,
            }
            count += 1;
        }
        lane.drain(..count).collect()
    }
}

/// Takes a request's inputs out of the queue when its caller goes.
struct Waiting<'a, W: Work> {
    shared: &'a Shared<W>,
    request: Arc<Request<W::Output>>,
}

impl<W: Work> Drop for Waiting<'_, W> {
    fn drop(&mut self) {
        let unfinished = lock(&self.request.state).missing > 0;
        if unfinished {
            lock(&self.shared.queue).remove(&self.request);
        }
    }
}

/// Work with its threads. Dropping it ends and joins them, after the batches that are running.
pub(crate) struct Batcher<W: Work> {
    shared: Arc<Shared<W>>,
    waiting: usize,
    /// Places for waiting inputs, a lane each.
    rooms: [Semaphore; 2],
    threads: Vec<JoinHandle<()>>,
}

impl<W: Work> Batcher<W> {
    /// Starts the threads.
    pub(crate) fn start(name: &str, work: W, settings: &BatchSettings) -> io::Result<Self> {
        let waiting = settings.waiting_texts.clamp(1, 1 << 20);
        let queue = Queue { queries: VecDeque::new(), passages: VecDeque::new(), closed: false };
        let shared = Arc::new(Shared { work, queue: Mutex::new(queue), arrived: Condvar::new() });
        // Built first, so that what was started is joined when a later thread cannot be.
        let mut batcher = Self {
            shared: Arc::clone(&shared),
            rooms: [Semaphore::new(waiting), Semaphore::new(waiting)],
            waiting,
            threads: Vec::new(),
        };
        for number in 0..settings.workers.max(1) {
            let (shared, budget) = (Arc::clone(&shared), settings.batch_tokens);
            let thread = std::thread::Builder::new()
                .name(format!("{name}-{number}"))
                .spawn(move || run_batches(&shared, budget))?;
            batcher.threads.push(thread);
        }
        Ok(batcher)
    }

    /// Runs inputs; one output each, in order. A caller that goes takes with it what was not begun.
    pub(crate) async fn run(&self, inputs: Vec<W::Input>, lane: Lane) -> Result<Vec<W::Output>, ModelError> {
        if inputs.is_empty() {
            return Ok(Vec::new());
        }
        let room = match lane {
            Lane::Query => &self.rooms[0],
            Lane::Passage => &self.rooms[1],
        };
        let places = u32::try_from(inputs.len().min(self.waiting)).unwrap_or(u32::MAX);
        let _places = room.acquire_many(places).await.map_err(|_| shut_down())?;

        let (reply, answer) = oneshot::channel();
        let count = inputs.len();
        let outputs = std::iter::repeat_with(|| None).take(count).collect();
        let state = RequestState { outputs, missing: count, reply: Some(reply) };
        let request = Arc::new(Request { state: Mutex::new(state) });
        let items = inputs.into_iter().enumerate().map({
            let request = Arc::clone(&request);
            move |(index, input)| Item { request: Arc::clone(&request), index, input }
        });
        let _waiting = Waiting { shared: &*self.shared, request };
        lock(&self.shared.queue).lane(lane).extend(items);
        if count == 1 {
            self.shared.arrived.notify_one();
        } else {
            self.shared.arrived.notify_all();
        }
        answer.await.unwrap_or_else(|_| Err(shut_down()))
    }
}

impl<W: Work> Drop for Batcher<W> {
    fn drop(&mut self) {
        lock(&self.shared.queue).closed = true;
        self.shared.arrived.notify_all();
        for thread in self.threads.drain(..) {
            // The threads catch what the work panics with; nothing is left to be said here.
            let _ = thread.join();
        }
    }
}

fn shut_down() -> ModelError {
    ModelError::try_later("the model was shut down")
}

/// The life of one thread.
fn run_batches<W: Work>(shared: &Shared<W>, budget: usize) {
    while let Some(mut batch) = shared.next_batch(budget) {
        batch.retain(|item| !item.request.is_over());
        match run_batch(&shared.work, &batch) {
            Ok(outputs) => deliver(batch, outputs),
            Err(error) if batch.len() == 1 => fail(&batch, &error),
            // One caller's text must not fail another's: each by itself.
            Err(_) => {
                for item in batch {
                    let single = [item];
                    match run_batch(&shared.work, &single) {
                        Ok(outputs) => deliver(single, outputs),
                        Err(error) => fail(&single, &error),
                    }
                }
            }
        }
    }
}

fn deliver<W: Work>(batch: impl IntoIterator<Item = Item<W>>, outputs: Vec<W::Output>) {
    for (item, output) in batch.into_iter().zip(outputs) {
        item.request.deliver(item.index, output);
    }
}

fn fail<W: Work>(batch: &[Item<W>], error: &str) {
    for item in batch {
        item.request.fail(ModelError::Permanent(format!("the model failed: {error}")));
    }
}

/// Runs a batch; a panic of the work is an error like any other.
fn run_batch<W: Work>(work: &W, batch: &[Item<W>]) -> Result<Vec<W::Output>, String> {
    if batch.is_empty() {
        return Ok(Vec::new());
    }
    let inputs: Vec<&W::Input> = batch.iter().map(|item| &item.input).collect();
    // The work is read only, and what the batch has made so far is dropped.
    let outputs = catch_unwind(AssertUnwindSafe(|| work.run(&inputs))).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<&str>().copied().map(str::to_owned);
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
        Err(format!("it panicked: {}", text.as_deref().unwrap_or("without a word")))
    })?;
    if outputs.len() == batch.len() {
        Ok(outputs)
    } else {
        Err(format!("it answered {} of {} texts", outputs.len(), batch.len()))
    }
}

/// No code panics while it holds one of these locks, so a poisoned one guards nothing broken.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
