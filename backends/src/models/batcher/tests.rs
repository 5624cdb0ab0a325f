use std::sync::{
    atomic::{AtomicUsize, Ordering},
    mpsc,
};

use super::*;

fn settings() -> BatchSettings {
    BatchSettings { workers: 1, batch_tokens: 64, waiting_texts: 16, tokenizers: 0 }
}

/// Inputs are what they cost. Answers with each, tells which it ran, and waits for leave before each batch.
struct Gated {
    ran: Mutex<mpsc::Sender<Vec<usize>>>,
    leave: Mutex<mpsc::Receiver<()>>,
}

impl Gated {
    fn start() -> (Arc<Batcher<Self>>, mpsc::Receiver<Vec<usize>>, mpsc::Sender<()>) {
        let (ran, batches) = mpsc::channel();
        let (go, leave) = mpsc::channel();
        let work = Self { ran: Mutex::new(ran), leave: Mutex::new(leave) };
        (Arc::new(Batcher::start("test", work, &settings()).unwrap()), batches, go)
    }
}

impl Work for Gated {
    type Input = usize;
    type Output = usize;

    fn cost(&self, input: &usize) -> usize {
        *input
    }

    fn run(&self, batch: &[&usize]) -> Result<Vec<usize>, String> {
        let batch: Vec<usize> = batch.iter().copied().copied().collect();
        let _ = lock(&self.ran).send(batch.clone());
        // When the test is over it has let go of its end: run on.
        let _ = lock(&self.leave).recv();
        Ok(batch)
    }
}

/// Starts a call and returns once its inputs wait in the queue (or are being run).
async fn call(
    batcher: &Arc<Batcher<Gated>>,
    inputs: &[usize],
    lane: Lane,
) -> tokio::task::JoinHandle<Result<Vec<usize>, ModelError>> {
    let inputs = inputs.to_vec();
    let caller = Arc::clone(batcher);
    let (polled, first_poll) = oneshot::channel();
    let task = tokio::spawn(async move {
        let mut run = Box::pin(caller.run(inputs, lane));
        let first = futures::poll!(&mut run);
        let _ = polled.send(());
        match first {
            std::task::Poll::Ready(answer) => answer,
            std::task::Poll::Pending => run.await,
        }
    });
    first_poll.await.unwrap();
    task
}

fn waiting(batcher: &Batcher<Gated>) -> usize {
    let queue = lock(&batcher.shared.queue);
    queue.queries.len() + queue.passages.len()
}

/// What comes over a channel, waited for off the runtime.
async fn next(batches: mpsc::Receiver<Vec<usize>>) -> (Vec<usize>, mpsc::Receiver<Vec<usize>>) {
    tokio::task::spawn_blocking(move || (batches.recv().unwrap(), batches)).await.unwrap()
}

#[tokio::test]
async fn queries_go_first_and_what_waits_shares_a_batch_as_far_as_the_budget_goes() {
    let (batcher, batches, go) = Gated::start();
    let first = call(&batcher, &[1], Lane::Passage).await;
    let (ran, batches) = next(batches).await;
    assert_eq!(ran, [1]);

    // These arrive while the first batch runs.
    let mixed = call(&batcher, &[30, 2, 29, 3], Lane::Passage).await;
    let long = call(&batcher, &[100, 4], Lane::Passage).await;
    let one_query = call(&batcher, &[5], Lane::Query).await;
    let other_query = call(&batcher, &[6, 7], Lane::Query).await;
    let mut order = Vec::new();
    let mut batches = batches;
    for _ in 0..4 {
        go.send(()).unwrap();
        let (ran, rest) = next(batches).await;
        order.push(ran);
        batches = rest;
    }
    go.send(()).unwrap();
    // All queries in one pass; then as many passages as fit into 64 tokens, in order, and what alone is more than that alone.
    assert_eq!(order, [vec![5, 6, 7], vec![30, 2, 29, 3], vec![100], vec![4]]);
    assert_eq!(first.await.unwrap().unwrap(), [1]);
    assert_eq!(mixed.await.unwrap().unwrap(), [30, 2, 29, 3], "in the caller's order");
    assert_eq!(long.await.unwrap().unwrap(), [100, 4]);
    assert_eq!(one_query.await.unwrap().unwrap(), [5]);
    assert_eq!(other_query.await.unwrap().unwrap(), [6, 7]);
    drop(go);
}

#[tokio::test]
async fn what_nobody_waits_for_is_not_run() {
    let (batcher, batches, go) = Gated::start();
    let first = call(&batcher, &[1], Lane::Query).await;
    let (_, batches) = next(batches).await;
    let gone = call(&batcher, &[2, 2, 2], Lane::Passage).await;
    let stays = call(&batcher, &[3], Lane::Passage).await;
    assert_eq!(waiting(&batcher), 4);
    gone.abort();
    assert!(gone.await.unwrap_err().is_cancelled());
    assert_eq!(waiting(&batcher), 1, "an abandoned request leaves the queue at once");
    go.send(()).unwrap();
    let (ran, _batches) = next(batches).await;
    assert_eq!(ran, [3]);
    go.send(()).unwrap();
    assert_eq!(stays.await.unwrap().unwrap(), [3]);
    assert_eq!(first.await.unwrap().unwrap(), [1]);
    drop(go);
}

#[tokio::test]
async fn no_more_wait_than_there_is_room_for_and_a_huge_call_still_runs() {
    let (batcher, batches, go) = Gated::start();
    let first = call(&batcher, &[1], Lane::Query).await;
    let (_, batches) = next(batches).await;
    let full = call(&batcher, &[2; 16], Lane::Passage).await;
    let beyond = call(&batcher, &[3], Lane::Passage).await;
    let huge = call(&batcher, &[4; 40], Lane::Passage).await;
    assert_eq!(waiting(&batcher), 16, "callers beyond the room wait outside");
    drop(go);
    drop(batches);
    assert_eq!(full.await.unwrap().unwrap().len(), 16);
    assert_eq!(beyond.await.unwrap().unwrap(), [3]);
    assert_eq!(huge.await.unwrap().unwrap(), vec![4; 40]);
    first.await.unwrap().unwrap();
}

/// Panics over 13 and fails on 14.
struct Moody(Arc<AtomicUsize>);

impl Work for Moody {
    type Input = usize;
    type Output = usize;

    fn cost(&self, input: &usize) -> usize {
        *input
    }

    fn run(&self, batch: &[&usize]) -> Result<Vec<usize>, String> {
        self.0.fetch_add(1, Ordering::Relaxed);
        let answer = |input: &&usize| match **input {
            13 => panic!("unlucky"),
            14 => Err("too superstitious".to_owned()),
            input => Ok(input * 2),
        };
        batch.iter().map(answer).collect()
    }
}

#[tokio::test]
async fn a_text_that_the_model_fails_on_fails_its_own_caller_only() {
    let batches = Arc::new(AtomicUsize::new(0));
    let batcher = Arc::new(Batcher::start("test", Moody(Arc::clone(&batches)), &settings()).unwrap());
    let calls = (10..18).map(|input| {
        let batcher = Arc::clone(&batcher);
        async move { (input, batcher.run(vec![input], Lane::Passage).await) }
    });
    for (input, answer) in futures::future::join_all(calls).await {
        match (input, answer) {
            (13, Err(ModelError::Permanent(message))) => assert!(message.contains("unlucky"), "{message}"),
            (14, Err(ModelError::Permanent(message))) => {
                assert!(message.contains("superstitious"), "{message}");
            }
            (_, answer) => assert_eq!(answer.unwrap(), [input * 2]),
        }
    }
    // The threads have survived.
    assert_eq!(batcher.run(vec![9], Lane::Query).await.unwrap(), [18]);
    assert!(batches.load(Ordering::Relaxed) > 0);
}

#[tokio::test]
async fn nothing_asked_is_nothing_answered() {
    let batcher = Batcher::start("test", Moody(Arc::default()), &settings()).unwrap();
    assert!(batcher.run(Vec::new(), Lane::Query).await.unwrap().is_empty());
}
