//! A fixed text at a fixed rate: no answer to anything, for load tests.

use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
use raglan_pipeline::{
    domain::{FinishReason, Usage},
    ports::{Generated, GenerationRequest, Generator, ModelError},
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// No word is due later than this, however slow the settings: far beyond any job's deadline, and within what clocks can hold.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// How the simulated model writes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SimulatedSettings {
    /// How many words it writes before its citation.
    pub tokens: u32,
    /// How many of them a second; without a pause where it is not above zero.
    pub tokens_per_s: f64,
    /// How long it takes before the first one, in milliseconds.
    pub first_token_ms: u64,
}

impl Default for SimulatedSettings {
    fn default() -> Self {
        Self { tokens: 64, tokens_per_s: 100.0, first_token_ms: 100 }
    }
}

/// Writes `token1 token2 … [1]`. Its results carry `simulated` as their model, so that none is taken for an answer.
#[derive(Debug, Clone)]
pub struct SimulatedGenerator {
    settings: SimulatedSettings,
}

impl SimulatedGenerator {
    /// A generator that writes so.
    #[must_use]
    pub fn new(settings: SimulatedSettings) -> Self {
        Self { settings }
    }
}

#[async_trait]
impl Generator for SimulatedGenerator {
    fn model(&self) -> &str {
        "simulated"
    }

    fn context_tokens(&self) -> Option<usize> {
        None
    }

    async fn generate(
        &self,
        request: GenerationRequest,
        cancel: CancellationToken,
    ) -> Result<BoxStream<'static, Result<Generated, ModelError>>, ModelError> {
        let settings = self.settings;
        let tokens = settings.tokens.min(request.options.max_tokens);
        let reason = if tokens < settings.tokens { FinishReason::Length } else { FinishReason::Stop };
        let cited = !request.passages.is_empty();
        // Each word has its own time from the start, so that late wake-ups do not add up.
        let begin = Instant::now() + Duration::from_millis(settings.first_token_ms).min(LONGEST);
        let stream = async_stream::stream! {
            for number in 1..=tokens {
                let due = begin + delay(number - 1, settings.tokens_per_s);
                tokio::select! {
                    biased;
                    () = cancel.cancelled() => {
                        yield Err(ModelError::Cancelled);
                        return;
                    }
                    () = tokio::time::sleep_until(due) => {}
                }
                yield Ok(Generated::Delta(if number == 1 { "token1".to_owned() } else { format!(" token{number}") }));
            }
            if cancel.is_cancelled() {
                yield Err(ModelError::Cancelled);
                return;
            }
            if cited {
                yield Ok(Generated::Delta(" [1]".to_owned()));
            }
            // No model read or wrote a token.
            yield Ok(Generated::End { reason, usage: Usage::default(), found: cited, degraded: Vec::new() });
        };
        Ok(Box::pin(stream))
    }
}

/// When the word after `before` others is due, after the first.
fn delay(before: u32, tokens_per_s: f64) -> Duration {
    if tokens_per_s > 0.0 {
        Duration::try_from_secs_f64(f64::from(before) / tokens_per_s).unwrap_or(LONGEST).min(LONGEST)
    } else {
        Duration::ZERO
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures::StreamExt;
    use raglan_pipeline::contract::generator as contract;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_keeps_the_contract() {
        contract::run_all(Arc::new(SimulatedGenerator::new(SimulatedSettings::default()))).await;
        let fast = SimulatedSettings { tokens: 5, tokens_per_s: 0.0, first_token_ms: 0 };
        contract::run_all(Arc::new(SimulatedGenerator::new(fast))).await;
    }

    #[tokio::test(start_paused = true)]
    async fn it_writes_its_text_at_its_rate() {
        let generator =
            SimulatedGenerator::new(SimulatedSettings { tokens: 3, tokens_per_s: 2.0, first_token_ms: 250 });
        let begin = Instant::now();
        let mut stream = generator.generate(contract::request(), CancellationToken::new()).await.unwrap();
        let mut text = String::new();
        let mut at = Vec::new();
        while let Some(item) = stream.next().await {
            match item.unwrap() {
                Generated::Delta(delta) => {
                    text.push_str(&delta);
                    at.push(begin.elapsed().as_millis());
                }
                Generated::End { reason, usage, found, degraded } => {
                    assert_eq!((reason, usage, found), (FinishReason::Stop, Usage::default(), true));
                    assert_eq!(degraded, []);
                }
            }
        }
        assert_eq!(text, "token1 token2 token3 [1]");
        assert_eq!(at, [250, 750, 1250, 1250]);
    }

    #[tokio::test(start_paused = true)]
    async fn it_stops_at_the_longest_answer() {
        let generator = SimulatedGenerator::new(SimulatedSettings::default());
        let mut request = contract::request();
        request.options.max_tokens = 2;
        let items =
            contract::collect(generator.generate(request, CancellationToken::new()).await.unwrap()).await;
        assert_eq!(contract::text(&items), "token1 token2 [1]");
        assert!(matches!(items.last(), Some(Ok(Generated::End { reason: FinishReason::Length, .. }))));
    }
}
