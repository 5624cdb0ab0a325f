//! Measures of a ranking.

use std::collections::HashMap;

/// Normalised discounted cumulative gain of the first `k` (Järvelin and Kekäläinen 2002), with gains as graded.
pub fn ndcg(ranking: &[String], relevant: &HashMap<String, u32>, k: usize) -> f64 {
    let gain = |grade: u32, place: usize| f64::from(grade) / (2.0 + place as f64).log2();
    let got: f64 = ranking
        .iter()
        .take(k)
        .enumerate()
        .map(|(place, id)| gain(relevant.get(id).copied().unwrap_or_default(), place))
        .sum();
    let mut best: Vec<u32> = relevant.values().copied().collect();
    best.sort_unstable_by(|a, b| b.cmp(a));
    let ideal: f64 = best.into_iter().take(k).enumerate().map(|(place, grade)| gain(grade, place)).sum();
    if ideal > 0.0 { got / ideal } else { 0.0 }
}

/// Share of the relevant documents among the first `k`.
pub fn recall(ranking: &[String], relevant: &HashMap<String, u32>, k: usize) -> f64 {
    let found = ranking.iter().take(k).filter(|id| relevant.contains_key(*id)).count();
    found as f64 / relevant.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranking(ids: &[&str]) -> Vec<String> {
        ids.iter().map(|id| (*id).to_owned()).collect()
    }

    #[test]
    fn against_values_worked_out_by_hand() {
        let relevant = HashMap::from([("a".to_owned(), 1), ("b".to_owned(), 1)]);
        let got = ranking(&["x", "a", "y", "b"]);
        // (1/log2(3) + 1/log2(5)) / (1 + 1/log2(3))
        assert!((ndcg(&got, &relevant, 10) - 0.650_921).abs() < 1e-5);
        assert!((ndcg(&ranking(&["b", "a"]), &relevant, 10) - 1.0).abs() < 1e-12);
        assert!(ndcg(&got, &relevant, 1).abs() < 1e-12);
        assert!((recall(&got, &relevant, 2) - 0.5).abs() < 1e-12);
        assert!((recall(&got, &relevant, 5) - 1.0).abs() < 1e-12);
    }
}
