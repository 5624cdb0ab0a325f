use rayon::prelude::*;

use super::{
    math::{exp, exponential},
    philox::philox,
};
use crate::{NO_TOKEN, SampleRow, element::Element, rows::Rows};

/// Scores beyond are cut to it, so that differences of two are finite.
const LIMIT: f32 = 1e30;
/// A probability of 1, relative to the most likely token, in fixed point.
const ONE: f32 = (1u64 << 40) as f32;

pub(crate) fn sample<T: Element>(logits: &[T], layout: &Rows, rows: &[SampleRow<'_>]) -> Vec<u32> {
    rows.par_iter()
        .enumerate()
        .map_init(
            || vec![0f32; layout.width],
            |scores, (index, row)| {
                T::widen(layout.row(logits, index), scores);
                choose(scores, row)
            },
        )
        .collect()
}

/// The token that a row comes to. The logits are overwritten.
fn choose(scores: &mut [f32], row: &SampleRow<'_>) -> u32 {
    if row.repetition_penalty != 1.0 {
        let mut seen: Vec<u32> = row.seen.to_vec();
        seen.sort_unstable();
        seen.dedup();
        for token in seen {
            if let Some(score) = scores.get_mut(token as usize) {
                *score = if *score > 0.0 {
                    *score / row.repetition_penalty
                } else {
                    *score * row.repetition_penalty
                };
            }
        }
    }
    let greedy = row.temperature == 0.0;
    let divisor = if greedy { 1.0 } else { row.temperature };
    let mut highest = -LIMIT;
    for score in scores.iter_mut() {
        *score = bounded(*score / divisor);
        highest = highest.max(*score);
    }
    if highest <= -LIMIT {
        return NO_TOKEN;
    }
    if greedy {
        return scores.iter().position(|score| *score == highest).map_or(NO_TOKEN, |token| token as u32);
    }
    race(scores, highest, threshold(scores, highest, row), row)
}

/// A score within the limits; the least where it is not a number.
#[inline(always)]
fn bounded(score: f32) -> f32 {
    let above = if score > -LIMIT { score } else { -LIMIT };
    if above < LIMIT { above } else { LIMIT }
}

/// How likely a token is, relative to the most likely.
#[inline(always)]
fn probability(score: f32, highest: f32) -> f32 {
    exp(score - highest)
}

/// The same in fixed point.
fn mass(score: f32, highest: f32) -> u64 {
    (probability(score, highest) * ONE) as u64
}

/// The lowest score that can be chosen.
fn threshold(scores: &[f32], highest: f32, row: &SampleRow<'_>) -> f32 {
    let mut lowest = -LIMIT;
    let count = row.top_k as usize;
    if count > 0 && count < scores.len() {
        let mut sorted = scores.to_vec();
        let (_, last, _) = sorted.select_nth_unstable_by(count - 1, |a, b| b.total_cmp(a));
        lowest = *last;
    }
    if row.top_p < 1.0 {
        let all: u64 =
            scores.iter().filter(|score| **score >= lowest).map(|score| mass(*score, highest)).sum();
        lowest = nucleus(scores, highest, lowest, (f64::from(row.top_p) * all as f64) as u64);
    }
    lowest
}

/// The highest score from which on there is as much mass as `wanted`, among scores from `lowest` on.
fn nucleus(scores: &[f32], highest: f32, lowest: f32, wanted: u64) -> f32 {
    // Mostly few tokens hold nearly all: the reach grows until they are enough.
    let mut reach = 4.0;
    loop {
        let from = (highest - reach).max(lowest);
        let mut best: Vec<f32> = scores.iter().copied().filter(|score| *score >= from).collect();
        best.sort_unstable_by(|a, b| b.total_cmp(a));
        let mut sum = 0;
        for score in best {
            sum += mass(score, highest);
            if sum >= wanted {
                return score;
            }
        }
        if from <= lowest {
            return lowest;
        }
        reach *= 2.0;
    }
}

/// The winner among the scores from `lowest` on.
fn race(scores: &[f32], highest: f32, lowest: f32, row: &SampleRow<'_>) -> u32 {
    let key = [row.seed as u32, (row.seed >> 32) as u32];
    let mut best = (f32::INFINITY, NO_TOKEN);
    for (part, scores) in scores.chunks(4).enumerate() {
        if scores.iter().all(|score| *score < lowest) {
            continue;
        }
        let words = philox(key, [part as u32, row.position as u32, (row.position >> 32) as u32, 0]);
        for (lane, (score, word)) in scores.iter().zip(words).enumerate() {
            let likely = probability(*score, highest);
            if *score < lowest || likely == 0.0 {
                continue;
            }
            // A draw is at least this much; most logarithms need not be computed.
            if word as f32 * (1.0 / 4_294_967_296.0) * 0.999 > best.0 * likely {
                continue;
            }
            let time = exponential(word) / likely;
            // Tokens come in ascending order: of equals the first stays.
            if time < best.0 {
                best = (time, (part * 4 + lane) as u32);
            }
        }
    }
    best.1
}
