use std::sync::{
    atomic::{AtomicUsize, Ordering},
    mpsc,
};

use super::*;

fn sequence(tokens: usize) -> Sequence {
    Sequence { ids: vec![7; tokens], types: vec![0; tokens] }
}

fn settings() -> BatchSettings {
    BatchSettings { workers: 1, batch_tokens: 64, batch_texts: 4, waiting_texts: 16 }
}

/// Answers with each sequence's length, tells which lengths it ran, and waits for leave before each batch.
struct Gated {
    ran: Mutex<mpsc::Sender<Vec<usize>>>,
    leave: Mutex<mpsc::Receiver<()>>,
}

impl Gated {
    fn start() -> (Arc<Batcher>, mpsc::Receiver<Vec<usize>>, mpsc::Sender<()>) {
        let (ran, batches) = mpsc::channel();
        let (go, leave) = mpsc::channel();
        let model = Arc::new(Self { ran: Mutex::new(ran), leave: Mutex::new(leave) });
        (Arc::new(Batcher::start("test", model, &settings()).unwrap()), batches, go)
    }
}

impl Model for Gated {
    fn run(&self, batch: &[&Sequence]) -> Result<Vec<Vec<f32>>, String> {
        let lengths: Vec<usize> = batch.iter().map(|sequence| sequence.len()).collect();
        let _ = lock(&self.ran).send(lengths.clone());
        // When the test is over it has let go of its end: run on.
        let _ = lock(&self.leave).recv();
        Ok(lengths.into_iter().map(|length| vec![length as f32]).collect())
    }
}

/// Starts a call and returns once its sequences wait in the queue (or are being run).
async fn call(
    batcher: &Arc<Batcher>,
    lengths: &[usize],
    lane: Lane,
) -> tokio::task::JoinHandle<Result<Rows, ModelError>> {
    let sequences: Vec<Sequence> = lengths.iter().map(|&length| sequence(length)).collect();
    let caller = Arc::clone(batcher);
    let (polled, first_poll) = oneshot::channel();
    let task = tokio::spawn(async move {
        let mut run = Box::pin(caller.run(sequences, lane));
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

fn waiting(batcher: &Batcher) -> usize {
    let queue = lock(&batcher.shared.queue);
    queue.queries.len() + queue.passages.len()
}

/// What comes over a channel, waited for off the runtime.
async fn next(batches: mpsc::Receiver<Vec<usize>>) -> (Vec<usize>, mpsc::Receiver<Vec<usize>>) {
    tokio::task::spawn_blocking(move || (batches.recv().unwrap(), batches)).await.unwrap()
}

#[tokio::test]
async fn queries_go_first_and_neighbours_in_length_share_a_batch() {
    let (batcher, batches, go) = Gated::start();
    let first = call(&batcher, &[1], Lane::Passage).await;
    let (ran, batches) = next(batches).await;
    assert_eq!(ran, [1]);

    // These arrive while the first batch runs.
    let mixed = call(&batcher, &[30, 2, 29, 3], Lane::Passage).await;
    let others = call(&batcher, &[2, 28], Lane::Passage).await;
    let query = call(&batcher, &[5], Lane::Query).await;
    let mut order = Vec::new();
    let mut batches = batches;
    for _ in 0..4 {
        go.send(()).unwrap();
        let (mut ran, rest) = next(batches).await;
        ran.sort_unstable();
        order.push(ran);
        batches = rest;
    }
    go.send(()).unwrap();
    // The query; then the longest-waiting with its nearest, as far as 64 tokens go; then the rest, in the same way.
    assert_eq!(order, [vec![5], vec![29, 30], vec![2, 2, 3], vec![28]]);
    let rows = |answer: Result<Rows, ModelError>| answer.unwrap().concat();
    assert_eq!(rows(first.await.unwrap()), [1.0]);
    assert_eq!(rows(mixed.await.unwrap()), [30.0, 2.0, 29.0, 3.0], "in the caller's order");
    assert_eq!(rows(others.await.unwrap()), [2.0, 28.0]);
    assert_eq!(rows(query.await.unwrap()), [5.0]);
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
    assert_eq!(stays.await.unwrap().unwrap(), [[3.0]]);
    assert_eq!(first.await.unwrap().unwrap(), [[1.0]]);
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
    assert_eq!(beyond.await.unwrap().unwrap(), [[3.0]]);
    assert_eq!(huge.await.unwrap().unwrap(), vec![[4.0]; 40]);
    first.await.unwrap().unwrap();
}

/// Panics over sequences of 13 tokens, fails on 14, answers 15 with what is no number.
struct Moody(AtomicUsize);

impl Model for Moody {
    fn run(&self, batch: &[&Sequence]) -> Result<Vec<Vec<f32>>, String> {
        self.0.fetch_add(1, Ordering::Relaxed);
        batch
            .iter()
            .map(|sequence| match sequence.len() {
                13 => panic!("unlucky"),
                14 => Err("too superstitious".to_owned()),
                15 => Ok(vec![f32::NAN]),
                length => Ok(vec![length as f32]),
            })
            .collect()
    }
}

#[tokio::test]
async fn a_text_that_the_model_fails_on_fails_its_own_caller_only() {
    let model = Arc::new(Moody(AtomicUsize::new(0)));
    let batcher = Arc::new(Batcher::start("test", Arc::clone(&model) as _, &settings()).unwrap());
    let calls = (10..18).map(|length| {
        let batcher = Arc::clone(&batcher);
        async move { (length, batcher.run(vec![sequence(length)], Lane::Passage).await) }
    });
    for (length, answer) in futures::future::join_all(calls).await {
        match (length, answer) {
            (13, Err(ModelError::Permanent(message))) => assert!(message.contains("unlucky"), "{message}"),
            (14, Err(ModelError::Permanent(message))) => {
                assert!(message.contains("superstitious"), "{message}");
            }
            (15, Err(ModelError::Permanent(message))) => assert!(message.contains("number"), "{message}"),
            (_, answer) => assert_eq!(answer.unwrap(), [[length as f32]]),
        }
    }
    // The threads have survived.
    assert_eq!(batcher.run(vec![sequence(9)], Lane::Query).await.unwrap(), [[9.0]]);
    assert!(model.0.load(Ordering::Relaxed) > 0);
}

#[tokio::test]
async fn nothing_asked_is_nothing_answered() {
    let batcher = Batcher::start("test", Arc::new(Moody(AtomicUsize::new(0))), &settings()).unwrap();
    assert!(batcher.run(Vec::new(), Lane::Query).await.unwrap().is_empty());
}
