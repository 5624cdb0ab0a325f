use candle_core::{DType, Device, Result, Tensor};

use super::{TYPES, random};
use crate::{NO_TOKEN, SampleRow, sample};

/// Takes any token, as likely as it is.
const PLAIN: SampleRow<'_> = SampleRow {
    temperature: 1.0,
    top_k: 0,
    top_p: 1.0,
    repetition_penalty: 1.0,
    seen: &[],
    seed: 3,
    position: 0,
};
const GREEDY: SampleRow<'_> = SampleRow { temperature: 0.0, ..PLAIN };

fn tokens(logits: &Tensor, rows: &[SampleRow<'_>]) -> Result<Vec<u32>> {
    sample(logits, rows)?.to_vec1()
}

/// How often each token comes, at as many positions.
fn counts(logits: &[f32], row: SampleRow<'_>, draws: u64) -> Result<Vec<u32>> {
    let one = Tensor::new(logits, &Device::Cpu)?.unsqueeze(0)?;
    let many = one.broadcast_as((draws as usize, logits.len()))?.contiguous()?;
    let rows: Vec<SampleRow<'_>> = (0..draws).map(|position| SampleRow { position, ..row }).collect();
    let mut counts = vec![0; logits.len()];
    for token in tokens(&many, &rows)? {
        counts[token as usize] += 1;
    }
    Ok(counts)
}

#[test]
fn without_temperature_the_most_likely_token_comes() -> Result<()> {
    for dtype in TYPES {
        let logits = random(1, &[5, 1000], dtype)?;
        let expected: Vec<u32> = logits.to_dtype(DType::F32)?.argmax(1)?.to_vec1()?;
        assert_eq!(tokens(&logits, &[GREEDY; 5])?, expected);
    }
    // Of equals the first.
    let equal = Tensor::new(&[[1f32, 5.0, 5.0, 2.0]], &Device::Cpu)?;
    assert_eq!(tokens(&equal, &[GREEDY])?, [1]);
    Ok(())
}

#[test]
fn tokens_come_as_often_as_they_are_likely() -> Result<()> {
    const DRAWS: u64 = 100_000;
    let logits: Vec<f32> = (0..50).map(|token| (token as f32 * 0.7).sin() * 3.0).collect();
    let temperature = 0.8;
    let weights: Vec<f64> = logits.iter().map(|logit| f64::from(logit / temperature).exp()).collect();
    let all: f64 = weights.iter().sum();
    let mut chi_square = 0.0;
    for (count, weight) in counts(&logits, SampleRow { temperature, ..PLAIN }, DRAWS)?.iter().zip(&weights) {
        let expected = weight / all * DRAWS as f64;
        chi_square += (f64::from(*count) - expected).powi(2) / expected;
    }
    // 49 degrees of freedom: 94.6 is passed once in ten thousand times, and the seed is fixed.
    assert!(chi_square < 94.6, "{chi_square}");
    Ok(())
}

#[test]
fn a_flat_row_of_many_tokens_is_drawn_evenly() -> Result<()> {
    // The least of many draws is where their precision shows.
    let logits = vec![0f32; 40_000];
    let counts = counts(&logits, PLAIN, 2_000)?;
    let even: u32 = counts.iter().step_by(2).sum();
    let low: u32 = counts[..20_000].iter().sum();
    // Four standard deviations.
    assert!(even.abs_diff(1000) < 90, "{even}");
    assert!(low.abs_diff(1000) < 90, "{low}");
    assert!(counts.iter().all(|count| *count < 6));
    Ok(())
}

#[test]
fn top_k_leaves_the_most_likely_and_what_equals_the_last() -> Result<()> {
    let logits = [1.0, 4.0, 3.0, 3.0, 2.0, 0.0];
    let chosen = |top_k| -> Result<Vec<usize>> {
        let counts = counts(&logits, SampleRow { top_k, temperature: 3.0, ..PLAIN }, 3000)?;
        Ok((0..logits.len()).filter(|token| counts[*token] > 0).collect())
    };
    assert_eq!(chosen(1)?, [1]);
    assert_eq!(chosen(2)?, [1, 2, 3]);
    assert_eq!(chosen(3)?, [1, 2, 3]);
    assert_eq!(chosen(4)?, [1, 2, 3, 4]);
    assert_eq!(chosen(0)?, [0, 1, 2, 3, 4, 5]);
    assert_eq!(chosen(100)?, [0, 1, 2, 3, 4, 5]);
    Ok(())
}

#[test]
fn top_p_leaves_the_fewest_that_are_likely_enough() -> Result<()> {
    let logits: Vec<f32> = [0.4f32, 0.3, 0.2, 0.05, 0.05].iter().map(|share| share.ln()).collect();
    let chosen = |row| -> Result<Vec<usize>> {
        let counts = counts(&logits, row, 4000)?;
        Ok((0..logits.len()).filter(|token| counts[*token] > 0).collect())
    };
    let row = |top_p| SampleRow { top_p, ..PLAIN };
    assert_eq!(chosen(row(0.01))?, [0]);
    assert_eq!(chosen(row(0.39))?, [0]);
    assert_eq!(chosen(row(0.41))?, [0, 1]);
    assert_eq!(chosen(row(0.89))?, [0, 1, 2]);
    assert_eq!(chosen(row(0.91))?, [0, 1, 2, 3, 4]);
    assert_eq!(chosen(row(1.0))?, [0, 1, 2, 3, 4]);
    // Shares are of what top_k leaves: of 0.7, the first has 0.57.
    assert_eq!(chosen(SampleRow { top_k: 2, top_p: 0.56, ..PLAIN })?, [0]);
    assert_eq!(chosen(SampleRow { top_k: 2, top_p: 0.58, ..PLAIN })?, [0, 1]);
    Ok(())
}

#[test]
fn the_nucleus_is_found_however_far_it_reaches() -> Result<()> {
    // Scores spread over so much that the search must widen, and tokens so unlikely that they have no mass at all.
    let logits: Vec<f32> = (0..2000).map(|token| -(token as f32) * 0.02).collect();
    let weights: Vec<f64> = logits.iter().map(|logit| f64::from(*logit).exp()).collect();
    let all: f64 = weights.iter().sum();
    for top_p in [0.5, 0.99, 0.999_9] {
        let mut sum = 0.0;
        let fewest = weights.iter().position(|weight| {
            sum += weight;
            sum >= all * f64::from(top_p)
        });
        let counts = counts(&logits, SampleRow { top_p, temperature: 1.0, ..PLAIN }, 20_000)?;
        let last = counts.iter().rposition(|count| *count > 0);
        assert!(last <= fewest, "{last:?} {fewest:?}");
        // The tail beyond the first half of the nucleus is drawn from, so it was not cut short.
        assert!(last > fewest.map(|fewest| fewest / 2), "{last:?} {fewest:?}");
    }
    Ok(())
}

#[test]
fn seen_tokens_are_penalised_once() -> Result<()> {
    let logits = Tensor::new(&[[2.0f32, 1.9, -1.0, -1.1]], &Device::Cpu)?;
    let row = |seen| SampleRow { repetition_penalty: 1.1, seen, ..GREEDY };
    assert_eq!(tokens(&logits, &[row(&[])])?, [0]);
    assert_eq!(tokens(&logits, &[row(&[0])])?, [1]);
    assert_eq!(tokens(&logits, &[row(&[0, 1, 0, 77])])?, [0]);
    // Below 0 a penalty multiplies: −1.0 becomes −1.2.
    let below = Tensor::new(&[[-1.0f32, -1.1]], &Device::Cpu)?;
    assert_eq!(tokens(&below, &[SampleRow { repetition_penalty: 1.2, seen: &[0], ..GREEDY }])?, [1]);
    Ok(())
}

#[test]
fn seed_and_position_decide_whatever_the_batch() -> Result<()> {
    let logits = (random(5, &[40, 3000], DType::F32)? * 4.0)?;
    let rows: Vec<SampleRow<'_>> = (0..40)
        .map(|row| SampleRow {
            seed: row / 3,
            position: u64::from(u32::MAX) + row,
            top_k: [0, 50][row as usize % 2],
            top_p: [1.0, 0.9, 0.5][row as usize % 3],
            ..PLAIN
        })
        .collect();
    let together = tokens(&logits, &rows)?;
    for (index, row) in rows.iter().enumerate() {
        assert_eq!(tokens(&logits.narrow(0, index, 1)?, &[*row])?, [together[index]]);
    }
    // Other seeds and positions do change what comes.
    let other: Vec<SampleRow<'_>> =
        rows.iter().map(|row| SampleRow { seed: row.seed + 100, ..*row }).collect();
    assert_ne!(tokens(&logits, &other)?, together);
    let later: Vec<SampleRow<'_>> =
        rows.iter().map(|row| SampleRow { position: row.position + 1, ..*row }).collect();
    assert_ne!(tokens(&logits, &later)?, together);
    Ok(())
}

#[test]
fn rows_without_a_number_have_no_token() -> Result<()> {
    let nothing = f32::NEG_INFINITY;
    let logits = Tensor::new(
        &[
            [nothing, nothing, nothing],
            [f32::NAN, f32::NAN, nothing],
            [nothing, f32::NAN, -3.0],
            [0.0, f32::INFINITY, 0.0],
        ],
        &Device::Cpu,
    )?;
    for row in [PLAIN, GREEDY, SampleRow { top_k: 2, top_p: 0.5, ..PLAIN }] {
        assert_eq!(tokens(&logits, &[row; 4])?, [NO_TOKEN, NO_TOKEN, 2, 1]);
    }
    Ok(())
}

#[test]
fn settings_that_mean_nothing_are_refused() -> Result<()> {
    let logits = random(1, &[1, 10], DType::F32)?;
    for row in [
        SampleRow { temperature: -1.0, ..PLAIN },
        SampleRow { temperature: f32::NAN, ..PLAIN },
        SampleRow { top_p: 0.0, ..PLAIN },
        SampleRow { top_p: 1.1, ..PLAIN },
        SampleRow { repetition_penalty: 0.0, ..PLAIN },
    ] {
        assert!(sample(&logits, &[row]).is_err());
    }
    assert!(sample(&logits, &[]).is_err());
    Ok(())
}
