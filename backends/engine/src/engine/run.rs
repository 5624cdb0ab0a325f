//! The engine's thread: takes requests, computes steps, passes on what comes of them.

use std::{
    collections::HashMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::AtomicBool,
        mpsc::{Receiver, TryRecvError},
    },
    time::Instant,
};

use candle_core::{Device, Tensor};
use raglan_kernels::{NO_TOKEN, SampleRow, sample};

use super::{
    metrics::{Observer, Rates, Snapshot},
    request::{Output, Request, Sink},
    settings::BLOCK_SIZE,
    text::Texts,
    writer::Writer,
};
use crate::{
    RequestError,
    cache::KvCache,
    error::first_line,
    model::{Batch, BatchPart, Model},
    scheduler::{Scheduler, SequenceId, Step},
};

/// After so many failed steps in a row the device is given up.
const MOST_FAILURES: usize = 3;

/// A request with its tokens.
pub(super) struct Submission {
    pub(super) request: Request,
    pub(super) tokens: Vec<u32>,
    pub(super) cancelled: Arc<AtomicBool>,
    pub(super) sink: Sink,
}

/// What the thread works with.
pub(super) struct Runner {
    pub(super) model: Model,
    pub(super) cache: KvCache,
    pub(super) scheduler: Scheduler,
    pub(super) texts: Arc<Texts>,
    pub(super) device: Device,
    /// Whether texts are passed on while the next step is computed: worth it where the device computes by itself.
    pub(super) overlap: bool,
    pub(super) observer: Observer,
    writers: HashMap<SequenceId, Writer>,
    snapshot: Snapshot,
    rates: Rates,
}

impl Runner {
    pub(super) fn new(
        model: Model,
        cache: KvCache,
        scheduler: Scheduler,
        texts: Arc<Texts>,
        device: Device,
        observer: Observer,
    ) -> Self {
        let overlap = !device.is_cpu();
        Self {
            model,
            cache,
            scheduler,
            texts,
            device,
            overlap,
            observer,
            writers: HashMap::new(),
            snapshot: Snapshot::default(),
            rates: Rates::new(),
        }
    }

    /// Works until nobody can send any more, or the device is given up.
    pub(super) fn run(mut self, submissions: &Receiver<Submission>) {
        // In a row.
        let mut failures = 0;
        self.observe();
        loop {
            if self.scheduler.is_idle() {
                self.deliver();
                self.rates.rest(&mut self.snapshot);
                self.observe();
                match submissions.recv() {
                    Ok(submission) => self.take(submission),
                    Err(_) => return,
                }
            }
            loop {
                match submissions.try_recv() {
                    Ok(submission) => self.take(submission),
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => {
                        self.fail_all("the engine was shut down");
                        return;
                    }
                }
            }
            self.interrupt();
            let begun = Instant::now();
            let failure = match catch_unwind(AssertUnwindSafe(|| self.step())) {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(first_line(&error)),
                Err(_) => Some("it panicked".to_owned()),
            };
            match failure {
                None => failures = 0,
                Some(message) => {
                    failures += 1;
                    self.failed(&message);
                }
            }
            self.snapshot.step = begun.elapsed();
            self.snapshot.stopped = failures >= MOST_FAILURES;
            self.observe();
            if self.snapshot.stopped {
                return;
            }
        }
    }

    fn take(&mut self, submission: Submission) {
        let Submission { request, tokens, cancelled, mut sink } = submission;
        let prompt_tokens = tokens.len();
        match self.scheduler.add(tokens, request.max_tokens) {
            Ok(id) => {
                self.writers.insert(id, Writer::new(&request, prompt_tokens, cancelled, sink));
            }
            Err(error) => sink(Output::Refused(error)),
        }
    }

    /// Ends what was cancelled or is late.
    fn interrupt(&mut self) {
        let now = Instant::now();
        let interrupted: Vec<(SequenceId, Output)> =
            self.writers.iter().filter_map(|(id, writer)| Some((*id, writer.interrupted(now)?))).collect();
        for (id, output) in interrupted {
            self.end(id, output);
        }
    }

    fn end(&mut self, id: SequenceId, output: Output) {
        self.scheduler.remove(id);
        if let Some(writer) = self.writers.remove(&id) {
            writer.end(output);
        }
    }

    fn fail_all(&mut self, message: &str) {
        for (id, writer) in self.writers.drain() {
            self.scheduler.remove(id);
            writer.end(Output::Failed(message.to_owned()));
        }
    }

    /// Ends everything: what is in the cache after a failed step cannot be relied on.
    fn failed(&mut self, message: &str) {
        self.fail_all(&format!("a step failed: {message}"));
        self.scheduler.forget();
        self.snapshot.failed_steps += 1;
    }

    fn step(&mut self) -> candle_core::Result<()> {
        let step = self.scheduler.plan();
        if step.parts.is_empty() {
            return Ok(());
        }
        let batch = self.batch(&step)?;
        let chosen = match self.model.forward(&batch, &self.cache)? {
            Some(logits) => Some(self.choose(&step, &logits)?),
            None => None,
        };
        if self.overlap {
            self.deliver();
        }
        // Here, and nowhere else, the device is waited for.
        let chosen = chosen.map_or(Ok(Vec::new()), |tokens| tokens.to_vec1::<u32>())?;
        self.scheduler.computed(&step);
        let completed = step.parts.iter().filter(|part| part.completes);
        for (part, token) in completed.zip(chosen) {
            self.accept(part.id, token);
        }
        if !self.overlap {
            self.deliver();
        }
        let decoded = step.tokens() - step.prefill_tokens;
        self.snapshot.steps += 1;
        self.snapshot.prefill_tokens += step.prefill_tokens as u64;
        self.snapshot.decode_tokens += decoded as u64;
        self.snapshot.batch_tokens = step.tokens();
        self.snapshot.batch_sequences = step.parts.len();
        self.rates.count(&mut self.snapshot, step.prefill_tokens, decoded);
        Ok(())
    }

    /// Brings a step to the device.
    fn batch(&self, step: &Step) -> candle_core::Result<Batch> {
        let parts: Vec<BatchPart<'_>> = step
            .parts
            .iter()
            .filter_map(|part| {
                let sequence = self.scheduler.sequence(part.id)?;
                Some(BatchPart {
                    tokens: &sequence.tokens()[part.start..part.start + part.count],
                    start: part.start,
                    blocks: sequence.blocks(),
                    completes: part.completes,
                })
            })
            .collect();
        Batch::new(&parts, BLOCK_SIZE, self.model.config().head_dim, &self.device)
    }

    /// The next tokens, on the device.
    fn choose(&self, step: &Step, logits: &Tensor) -> candle_core::Result<Tensor> {
        let rows: Vec<SampleRow<'_>> = step
            .parts
            .iter()
            .filter(|part| part.completes)
            .filter_map(|part| {
                let sampling = self.writers.get(&part.id)?.sampling;
                Some(sampling.row(self.scheduler.sequence(part.id)?.tokens()))
            })
            .collect();
        sample(logits, &rows)
    }

    fn accept(&mut self, id: SequenceId, token: u32) {
        if token == NO_TOKEN {
            self.end(id, Output::Failed("the model gave no usable numbers".to_owned()));
            return;
        }
        // Gone where its text was found to be over while the step was computed.
        let Some(writer) = self.writers.get_mut(&id) else { return };
        let ends = !writer.ignore_end && self.texts.end_tokens.contains(&token);
        if writer.take(token, ends) {
            self.scheduler.remove(id);
        } else {
            self.scheduler.push(id, token);
        }
    }

    /// Passes on what is pending.
    fn deliver(&mut self) {
        let tokenizer = &self.texts.tokenizer;
        let scheduler = &mut self.scheduler;
        self.writers.retain(|id, writer| {
            let over = writer.is_pending() && writer.deliver(tokenizer);
            if over {
                scheduler.remove(*id);
            }
            !over
        });
    }

    fn observe(&mut self) {
        self.snapshot.counts = self.scheduler.counts();
        (self.observer)(&self.snapshot);
    }
}

/// Refuses what comes after the thread's work has ended.
pub(super) fn refuse(submissions: &Receiver<Submission>, message: &str) {
    while let Ok(mut submission) = submissions.recv() {
        (submission.sink)(Output::Refused(RequestError::Stopped(message.to_owned())));
    }
}
