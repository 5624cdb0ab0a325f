//! What is shown of several ingestion jobs as one.

use std::time::{Duration, Instant};

use raglan_pipeline::ingestion::progress::Meter;
use serde_json::Value;

use super::{FileEntry, send::number};
use crate::terminal::Bar;

/// The state of all requests that files were divided into.
pub(super) struct Board<'b> {
    bar: &'b mut Bar,
    batches: Vec<Batch>,
    /// Tells when all is done, as long as there are files that the server does not have yet.
    meter: Meter,
    begun: Instant,
}

#[derive(Debug, Clone, Copy, Default)]
struct Batch {
    files: u64,
    bytes: u64,
    /// Of its files, those done.
    done: u64,
    chunks: u64,
    tokens_per_s: Option<u64>,
    eta: Option<Duration>,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum State {
    #[default]
    Waiting,
    Runs,
    Finished,
}

impl<'b> Board<'b> {
    pub(super) fn new(bar: &'b mut Bar, batches: &[&[FileEntry]]) -> Self {
        let batches: Vec<Batch> = batches
            .iter()
            .map(|files| Batch {
                files: files.len() as u64,
                bytes: files.iter().map(|file| file.size).sum(),
                ..Batch::default()
            })
            .collect();
        let meter = Meter::new(batches.iter().map(|batch| batch.bytes).sum());
        Self { bar, batches, meter, begun: Instant::now() }
    }

    /// What a `document.progress` event of a batch's job says.
    pub(super) fn progress(&mut self, number: usize, event: &Value) {
        let progress = &event["progress"];
        self.change(number, |batch| {
            batch.done = self::number(progress, "done").min(batch.files);
            batch.chunks = self::number(progress, "chunks");
            batch.tokens_per_s = progress["tokens_per_s"].as_u64();
            batch.eta = event["eta_ms"].as_u64().map(Duration::from_millis);
            batch.state = State::Runs;
        });
    }

    /// Nothing more comes of a batch.
    pub(super) fn finished(&mut self, number: usize) {
        self.change(number, |batch| {
            batch.done = batch.files;
            batch.state = State::Finished;
        });
    }

    fn change(&mut self, number: usize, change: impl FnOnce(&mut Batch)) {
        let Some(batch) = self.batches.get_mut(number) else { return };
        let before = batch.bytes_done();
        change(batch);
        self.meter.read(batch.bytes_done().saturating_sub(before), 0);
        let done = self.batches.iter().map(|batch| batch.done).sum();
        let note = self.note(self.begun.elapsed());
        self.bar.set(done, &note);
    }

    fn note(&mut self, elapsed: Duration) -> String {
        let chunks: u64 = self.batches.iter().map(|batch| batch.chunks).sum();
        let running = || self.batches.iter().filter(|batch| batch.state == State::Runs);
        let rate: u64 = running().filter_map(|batch| batch.tokens_per_s).sum();
        let is_all_sent = self.batches.iter().all(|batch| batch.state != State::Waiting);
        // Jobs at once share the machine: the last one ends when all of their work is done.
        let of_server =
            running().map(|batch| batch.eta).try_fold(Duration::ZERO, |most, eta| Some(most.max(eta?)));
        let left = if is_all_sent { of_server } else { self.meter.left(elapsed) };
        let mut note = format!("documents, {chunks} chunks");
        if rate > 0 {
            note.push_str(&format!(", {rate} tokens/s"));
        }
        if let Some(left) = left {
            note.push_str(&format!(", about {} left", words(left)));
        }
        note
    }
}

impl Batch {
    fn bytes_done(&self) -> u64 {
        (self.bytes * self.done).checked_div(self.files).unwrap_or(self.bytes)
    }
}

/// A time as one says it.
fn words(time: Duration) -> String {
    let seconds = time.as_secs_f64().ceil() as u64;
    match seconds {
        0..100 => format!("{seconds} s"),
        100..6_000 => format!("{} min", seconds.div_ceil(60)),
        _ => format!("{} h {} min", seconds / 3_600, seconds % 3_600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn files(count: usize, size: u64) -> Vec<FileEntry> {
        let file =
            |n: usize| FileEntry { path: "x".into(), external_id: n.to_string(), size, modified_ms: 0 };
        (0..count).map(file).collect()
    }

    #[test]
    fn several_jobs_are_shown_as_one() {
        let (first, second) = (files(10, 100), files(10, 100));
        let mut bar = Bar::work("ingesting", 20);
        let mut board = Board::new(&mut bar, &[&first, &second]);
        let event = |done: u64, eta: Option<u64>| json!({"progress": {"done": done, "total": 10, "chunks": done * 2, "tokens_per_s": 500}, "eta_ms": eta});
        board.progress(0, &event(5, Some(4_000)));
        assert_eq!(
            board.note(Duration::ZERO),
            "documents, 10 chunks, 500 tokens/s",
            "files wait, and nothing is known of those"
        );
        // 500 bytes of 2,000 in 5 s.
        assert_eq!(board.note(Duration::from_secs(5)), "documents, 10 chunks, 500 tokens/s, about 15 s left");
        board.progress(1, &event(0, None));
        assert_eq!(board.note(Duration::from_secs(5)), "documents, 10 chunks, 1000 tokens/s");
        board.progress(1, &event(5, Some(7_500)));
        assert_eq!(board.note(Duration::from_secs(5)), "documents, 20 chunks, 1000 tokens/s, about 8 s left");
        board.finished(0);
        board.finished(1);
        assert_eq!(board.note(Duration::from_secs(9)), "documents, 20 chunks, about 0 s left");
        assert_eq!(board.batches.iter().map(Batch::bytes_done).sum::<u64>(), 2_000);
    }

    #[test]
    fn times_are_short() {
        for (seconds, told) in
            [(0.2, "1 s"), (99.0, "99 s"), (100.0, "2 min"), (5_999.0, "100 min"), (7_300.0, "2 h 1 min")]
        {
            assert_eq!(words(Duration::from_secs_f64(seconds)), told);
        }
    }
}
