//! How fast work goes and how long it will still take, told only from what was seen.
//!
//! Work comes in two amounts. The *source* is known from the beginning, in bytes. What a part of it *costs*, in tokens to embed,
//! is known once it is read, and is nothing for a document that did not change. What is still to be read is taken to cost
//! what the last parts of the source did, for its bytes.

use std::{collections::VecDeque, time::Duration};

/// Rates are those of this long.
const WINDOW: Duration = Duration::from_secs(10);
/// Nothing is told before so much was seen.
const LEAST_SEEN: Duration = Duration::from_secs(1);
/// Samples within this time are one.
const GRAIN: Duration = Duration::from_millis(100);
/// The last parts of the source decide what the rest is taken to cost: about one of so many.
const MEMORY_SHARE: f64 = 32.0;
/// How fast what is told follows what is computed: in this time it comes nearer by about two thirds.
const SETTLE: Duration = Duration::from_secs(5);

/// What was done until a time.
#[derive(Debug, Clone, Copy, Default)]
struct Sample {
    at: Duration,
    read_bytes: u64,
    embedded_tokens: u64,
    model_tokens: u64,
}

/// What was done within the window.
struct Seen {
    seconds: f64,
    read_bytes: f64,
    embedded_tokens: f64,
    model_tokens: f64,
}

/// Follows one job. All times are since its beginning.
#[derive(Debug)]
pub struct Meter {
    /// Bytes of the source.
    total_bytes: u64,
    /// Bytes read.
    read_bytes: u64,
    /// Tokens to embed in what was read.
    found_tokens: u64,
    /// Of these, embedded.
    embedded_tokens: u64,
    /// Tokens that the model read.
    model_tokens: u64,
    /// What the last parts of the source had, the later ones counting more: bytes, tokens.
    recent: (f64, f64),
    /// What was done, at times of the last [`WINDOW`].
    samples: VecDeque<Sample>,
    /// From the end of a document's embedding until searches find it.
    publishing: Duration,
    /// When something was told, and what.
    told: Option<(Duration, Duration)>,
}

impl Meter {
    /// For a job with so many bytes to read.
    #[must_use]
    pub fn new(total_bytes: u64) -> Self {
        Self {
            total_bytes,
            read_bytes: 0,
            found_tokens: 0,
            embedded_tokens: 0,
            model_tokens: 0,
            recent: (0.0, 0.0),
            samples: VecDeque::from([Sample::default()]),
            publishing: Duration::ZERO,
            told: None,
        }
    }

    /// A part of the source was read: so many bytes, with so many tokens that must be embedded.
    #[allow(clippy::cast_precision_loss)] // estimates
    pub fn read(&mut self, bytes: u64, tokens: u64) {
        self.read_bytes += bytes;
        self.found_tokens += tokens;
        let memory = (self.total_bytes as f64 / MEMORY_SHARE).max(1.0);
        let keep = (-(bytes as f64) / memory).exp();
        self.recent = (self.recent.0 * keep + bytes as f64, self.recent.1 * keep + tokens as f64);
    }

    /// So many of the tokens that were found are embedded; the model counted them as so many.
    pub fn embedded(&mut self, tokens: u64, model_tokens: u64) {
        self.embedded_tokens += tokens;
        self.model_tokens += model_tokens;
    }

    /// Documents became visible so long after they were embedded.
    pub fn published(&mut self, after: Duration) {
        self.publishing = if self.publishing.is_zero() { after } else { (self.publishing * 3 + after) / 4 };
    }

    /// Tokens that the model reads in a second, over the last ones; none until enough was seen, or where it reads nothing.
    #[must_use]
    pub fn tokens_per_s(&mut self, now: Duration) -> Option<f64> {
        self.sample(now);
        let seen = self.seen()?;
        (seen.model_tokens > 0.0).then(|| seen.model_tokens / seen.seconds)
    }

    /// How long until all is done, about; none until it can be told. Between two looks it sinks with the time, unless what was seen
    /// meanwhile says otherwise, and then it comes nearer to that step by step.
    #[allow(clippy::cast_precision_loss)] // estimates
    pub fn left(&mut self, now: Duration) -> Option<Duration> {
        self.sample(now);
        let computed = self.computed()?;
        let told = match self.told {
            None => computed,
            Some((at, told)) => {
                let since = now.saturating_sub(at);
                let expected = told.saturating_sub(since).as_secs_f64();
                // Where nothing moves for a while, it grows for as long as that lasts, and not at once to what a rate of nearly nothing gives.
                let computed = computed.min(told * 2 + SETTLE).as_secs_f64();
                let weight = 1.0 - (-since.as_secs_f64() / SETTLE.as_secs_f64()).exp();
                Duration::from_secs_f64(expected + (computed - expected) * weight)
            }
        };
        self.told = Some((now, told));
        Some(told)
    }

    #[allow(clippy::cast_precision_loss)]
    fn computed(&self) -> Option<Duration> {
        let seen = self.seen()?;
        let unread = self.total_bytes.saturating_sub(self.read_bytes) as f64;
        let waiting = self.found_tokens.saturating_sub(self.embedded_tokens) as f64;
        let (recent_bytes, recent_tokens) = self.recent;
        let expected = waiting + if recent_bytes > 0.0 { unread * recent_tokens / recent_bytes } else { 0.0 };
        let embedding = match (expected > 0.0, seen.embedded_tokens > 0.0) {
            (false, _) => 0.0,
            (true, true) => expected * seen.seconds / seen.embedded_tokens,
            // There is something to embed, and nobody knows how fast that goes.
            (true, false) => return None,
        };
        // Reading runs ahead of embedding until it must wait. Only where nothing is embedded is it what takes the time.
        let reading = match (unread > 0.0 && expected <= 0.0, seen.read_bytes > 0.0) {
            (false, _) => 0.0,
            (true, true) => unread * seen.seconds / seen.read_bytes,
            (true, false) => return None,
        };
        let left = embedding.max(reading) + self.publishing.as_secs_f64();
        // Anything longer says no more than this.
        Some(Duration::from_secs_f64(left.min(1e9)))
    }

    #[allow(clippy::cast_precision_loss)]
    fn seen(&self) -> Option<Seen> {
        let (from, to) = (self.samples.front()?, self.samples.back()?);
        let long = to.at.saturating_sub(from.at);
        (long >= LEAST_SEEN).then(|| Seen {
            seconds: long.as_secs_f64(),
            read_bytes: (to.read_bytes - from.read_bytes) as f64,
            embedded_tokens: (to.embedded_tokens - from.embedded_tokens) as f64,
            model_tokens: (to.model_tokens - from.model_tokens) as f64,
        })
    }

    fn sample(&mut self, now: Duration) {
        let Self { read_bytes, embedded_tokens, model_tokens, .. } = *self;
        let sample = Sample { at: now, read_bytes, embedded_tokens, model_tokens };
        match self.samples.len() {
            // The first one stays, or the window would have no beginning.
            len if len > 1 && self.samples[len - 2].at + GRAIN > now => self.samples[len - 1] = sample,
            _ => self.samples.push_back(sample),
        }
        while self.samples.len() > 2 && self.samples[1].at + WINDOW <= now {
            self.samples.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: u64 = 1024;

    fn s(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    /// A job whose reading runs ahead by `ahead` parts of 1 KiB and 200 tokens, and which embeds 1,000 tokens a second.
    fn steady(parts: u64, ahead: u64) -> Vec<(f64, Option<Duration>, Option<f64>)> {
        let mut meter = Meter::new(parts * KIB);
        let (mut read, mut told) = (0, Vec::new());
        for embedded in 0..=parts {
            while read < (embedded + ahead).min(parts) {
                meter.read(KIB, 200);
                read += 1;
            }
            let now = s(embedded as f64 * 0.2);
            told.push((now.as_secs_f64(), meter.left(now), meter.tokens_per_s(now)));
            meter.embedded(200, 200);
        }
        told
    }

    #[test]
    fn a_steady_job_is_told_right() {
        for ahead in [1, 64, 1_000] {
            for (now, left, rate) in steady(1_000, ahead) {
                let truth = 200.0 - now;
                if now < 1.0 {
                    assert_eq!((left, rate), (None, None), "nothing is known yet at {now}");
                    continue;
                }
                let left = left.unwrap().as_secs_f64();
                assert!((left - truth).abs() <= 0.05 * truth + 0.5, "{left} for {truth}, {ahead} ahead");
                assert!((rate.unwrap() - 1_000.0).abs() < 1.0);
            }
        }
    }

    #[test]
    fn nothing_is_told_of_what_is_not_known() {
        let mut meter = Meter::new(100 * KIB);
        assert_eq!(meter.left(s(0.0)), None);
        assert_eq!(meter.left(s(5.0)), None, "nothing was read");
        meter.read(KIB, 200);
        assert_eq!(meter.left(s(6.0)), None, "nothing was embedded");
        assert_eq!(meter.tokens_per_s(s(6.0)), None);
        meter.embedded(200, 200);
        assert!(meter.left(s(7.0)).is_some());
    }

    #[test]
    fn unchanged_documents_cost_what_reading_them_takes() {
        let mut meter = Meter::new(100 * KIB);
        for part in 0..50u32 {
            meter.read(KIB, 0);
            meter.left(s(f64::from(part) * 0.1));
        }
        let left = meter.left(s(5.0)).unwrap().as_secs_f64();
        assert!((4.0..7.0).contains(&left), "{left}");
        assert_eq!(meter.tokens_per_s(s(5.0)), None);
    }

    #[test]
    fn after_a_retry_the_rest_costs_what_its_parts_do() {
        let mut meter = Meter::new(1_000 * KIB);
        for _ in 0..500 {
            meter.read(KIB, 0);
        }
        let mut left = None;
        for part in 0..100u32 {
            meter.read(KIB, 200);
            meter.embedded(200, 200);
            left = meter.left(s(0.1 + f64::from(part) * 0.2));
        }
        // 400 parts are left, of 0.2 s each; the unchanged half still weighs a little.
        let left = left.unwrap().as_secs_f64();
        assert!((40.0..=85.0).contains(&left), "{left}");
    }

    #[test]
    fn a_stall_raises_it_and_nothing_makes_it_jump() {
        let mut meter = Meter::new(1_000 * KIB);
        meter.read(1_000 * KIB, 200_000);
        let mut last: Option<f64> = None;
        for tick in 0..400u32 {
            let now = f64::from(tick) * 0.25;
            if !(100..140).contains(&tick) {
                meter.embedded(250, 250);
            }
            let left = meter.left(s(now)).map(|left| left.as_secs_f64());
            if let (Some(before), Some(left)) = (last, left) {
                assert!(left - before < 0.25 * before, "from {before} to {left}");
            }
            last = left.or(last);
        }
        let truth = (200_000.0 - 360.0 * 250.0) / 1_000.0;
        assert!((last.unwrap() - truth).abs() < 0.15 * truth, "{last:?} for {truth}");
    }

    #[test]
    fn the_end_is_near_when_all_is_embedded_and_never_negative() {
        let mut meter = Meter::new(KIB);
        meter.read(KIB, 200);
        meter.embedded(100, 110);
        meter.left(s(1.0));
        meter.embedded(500, 500);
        meter.published(s(0.5));
        meter.read(KIB, 0);
        let left = meter.left(s(60.0)).unwrap();
        assert!(left <= s(1.0), "{left:?}");
    }
}
