//! The right answers, by comparing everything.

use std::cmp::Ordering;

/// The numbers of the `limit` vectors nearest to each question, among those that `allowed` names; best first. Vectors and questions are of unit length, and lie one
/// after the other.
pub fn nearest(
    vectors: &[f32],
    questions: &[f32],
    dimension: usize,
    limit: usize,
    allowed: impl Fn(usize) -> bool + Sync,
) -> Vec<Vec<u32>> {
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let share = (questions.len() / dimension).div_ceil(threads).max(1) * dimension;
    std::thread::scope(|scope| {
        let allowed = &allowed;
        let shares: Vec<_> = questions
            .chunks(share)
            .map(|questions| {
                scope.spawn(move || {
                    questions
                        .chunks_exact(dimension)
                        .map(|question| one(vectors, question, limit, allowed))
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        shares.into_iter().flat_map(|share| share.join().unwrap_or_default()).collect()
    })
}

fn one(vectors: &[f32], question: &[f32], limit: usize, allowed: &impl Fn(usize) -> bool) -> Vec<u32> {
    let mut best: Vec<(f32, u32)> = Vec::with_capacity(limit + 1);
    for (number, vector) in (0u32..).zip(vectors.chunks_exact(question.len())) {
        if !allowed(number as usize) {
            continue;
        }
        let cosine = dot(question, vector);
        let full = best.len() == limit;
        if full && best.last().is_none_or(|(worst, _)| cosine <= *worst) {
            continue;
        }
        let place = best.partition_point(|(held, _)| held.total_cmp(&cosine) != Ordering::Less);
        best.insert(place, (cosine, number));
        best.truncate(limit);
    }
    best.into_iter().map(|(_, number)| number).collect()
}

/// In lanes, which the compiler makes vector instructions of.
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    const LANES: usize = 16;
    let mut sums = [0.0f32; LANES];
    let (a_whole, a_rest) = a.as_chunks::<LANES>();
    let (b_whole, b_rest) = b.as_chunks::<LANES>();
    for (a, b) in a_whole.iter().zip(b_whole) {
        for lane in 0..LANES {
            sums[lane] += a[lane] * b[lane];
        }
    }
    sums.iter().sum::<f32>() + a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum::<f32>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_come_first_and_only_what_is_allowed() {
        let vectors = [1.0, 0.0, 0.0, 1.0, 0.6, 0.8, 0.8, 0.6];
        let questions = [1.0, 0.0, 0.0, 1.0];
        assert_eq!(nearest(&vectors, &questions, 2, 3, |_| true), [[0, 3, 2], [1, 2, 3]]);
        assert_eq!(nearest(&vectors, &questions, 2, 2, |n| n != 0), [[3, 2], [1, 2]]);
        assert_eq!(nearest(&vectors, &questions, 2, 9, |n| n == 1), [[1], [1]]);
    }
}
