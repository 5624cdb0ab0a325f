//! Runs in TREC's format: `question Q0 document rank score tag`, one found document a line.
//!
//! As trec_eval does, a reader goes by the score (higher is better; of equal scores, the document whose id sorts last comes first) and not by the
//! rank. Fields are parted by spaces; in a file where an id has a space, by tabs.

use std::{
    collections::{BTreeMap, HashSet},
    io::Write,
    path::Path,
};

use super::input::{InputResult, lines, wrong};

/// The best documents of a question, with their scores, the best first.
pub type Found = Vec<(String, f32)>;

/// What a system found, by question.
pub type Run = BTreeMap<String, Found>;

/// Reads a run; packed with gzip or not.
pub fn read(path: &Path) -> InputResult<Run> {
    let mut run = Run::new();
    let mut seen = HashSet::new();
    for line in lines(path)? {
        let line = line?;
        let place = || format!("{}: line {}", path.display(), line.number);
        let tabs: Vec<&str> = line.text.split('\t').collect();
        let spaces: Vec<&str> = line.text.split_whitespace().collect();
        let (question, document, score) = match (tabs.as_slice(), spaces.as_slice()) {
            ([question, _, document, _, score, _], _) | (_, [question, _, document, _, score, _]) => {
                (question.trim(), document.trim(), score.trim())
            }
            _ => {
                return Err(wrong!(
                    "{}: a line of a run has six fields, `question Q0 document rank score tag`; this one has {}",
                    place(),
                    spaces.len()
                ));
            }
        };
        let score: f32 = match score.parse() {
            Ok(score) if !f32::is_nan(score) => score,
            _ => return Err(wrong!("{}: the score {score:?} is not a number", place())),
        };
        if !seen.insert((question.to_owned(), document.to_owned())) {
            return Err(wrong!("{}: {document:?} was found for {question:?} before", place()));
        }
        run.entry(question.to_owned()).or_default().push((document.to_owned(), score));
    }
    if run.is_empty() {
        return Err(wrong!("{} has no lines", path.display()));
    }
    for found in run.values_mut() {
        found.sort_by(|(a, a_score), (b, b_score)| b_score.total_cmp(a_score).then_with(|| b.cmp(a)));
    }
    Ok(run)
}

/// Writes a run. Each question's documents must be in order; where scores do not fall, they are lowered to the next number there is, so that a
/// reader sees the same order.
pub fn write<'a>(
    path: &Path,
    tag: &str,
    questions: impl Iterator<Item = (&'a str, &'a [(String, f32)])>,
) -> anyhow::Result<()> {
    let questions: Vec<(&str, &[(String, f32)])> = questions.collect();
    let ids =
        || questions.iter().flat_map(|(id, found)| found.iter().map(|(id, _)| id.as_str()).chain([*id]));
    if let Some(id) = ids().find(|id| id.contains(['\t', '\n', '\r'])) {
        return Err(wrong!("no run can be written: the id {id:?} has a tab or a line break").into());
    }
    let between = if ids().any(|id| id.contains(char::is_whitespace)) { '\t' } else { ' ' };
    let mut text = Vec::new();
    for (question, found) in questions {
        let mut last = f32::INFINITY;
        for (rank, (document, score)) in (1..).zip(found) {
            let score = if *score < last { *score } else { last.next_down() };
            last = score;
            let fields = [question, "Q0", document, &rank.to_string(), &score.to_string(), tag];
            writeln!(text, "{}", fields.join(&between.to_string()))?;
        }
    }
    std::fs::write(path, text).map_err(|error| wrong!("{} cannot be written: {error}", path.display()))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn found(list: &[(&str, f32)]) -> Found {
        list.iter().map(|(id, score)| ((*id).to_owned(), *score)).collect()
    }

    fn from_text(text: &str) -> InputResult<Run> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.txt");
        std::fs::write(&path, text).unwrap();
        read(&path)
    }

    fn round_trip(run: &Run) -> (String, Run) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.txt");
        write(&path, "t", run.iter().map(|(id, found)| (id.as_str(), found.as_slice()))).unwrap();
        (std::fs::read_to_string(&path).unwrap(), read(&path).unwrap())
    }

    #[test]
    fn a_run_is_ordered_by_score_and_ties_as_trec_eval_does() {
        let run =
            from_text("q1 Q0 b 1 0.5 x\nq1\tQ0\ta\t2\t0.5\tx\n\nq1 Q0 c 3 7e-1 x\nq2 Q0 a 1 -1 x\n").unwrap();
        assert_eq!(run["q1"], found(&[("c", 0.7), ("b", 0.5), ("a", 0.5)]));
        assert_eq!(run["q2"], found(&[("a", -1.0)]));
    }

    #[test]
    fn a_bad_line_is_named() {
        for (text, expected) in [
            ("q Q0 a 1 0.5 t\nq Q0 b\n", "line 2: a line of a run has six fields"),
            ("q Q0 a 1 high t\n", "line 1: the score \"high\""),
            ("q Q0 a 1 NaN t\n", "line 1: the score"),
            ("q Q0 a 1 2 t\nq Q0 a 2 1 t\n", "line 2: \"a\" was found for \"q\" before"),
            ("", "has no lines"),
        ] {
            let error = from_text(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn equal_scores_keep_their_order_in_a_file() {
        let run = Run::from([("q".to_owned(), found(&[("a", 0.5), ("c", 0.5), ("b", 0.5)]))]);
        let (text, back) = round_trip(&run);
        assert!(text.starts_with("q Q0 a 1 0.5 t\nq Q0 c 2 0.49999997 t\n"), "{text}");
        let order: Vec<&str> = back["q"].iter().map(|(id, _)| id.as_str()).collect();
        assert_eq!(order, ["a", "c", "b"]);
    }

    #[test]
    fn ids_with_spaces_are_parted_by_tabs_and_such_with_line_breaks_refused() {
        let run = Run::from([("q 1".to_owned(), found(&[("my docs/a b.md", 0.5), ("c", 0.25)]))]);
        let (text, back) = round_trip(&run);
        assert!(text.starts_with("q 1\tQ0\tmy docs/a b.md\t1\t0.5\tt\n"), "{text}");
        assert_eq!(back, run);
        let bad = found(&[("a\nb", 0.5)]);
        let path = tempfile::tempdir().unwrap().path().join("x");
        assert!(write(&path, "t", [("q", bad.as_slice())].into_iter()).is_err());
    }

    proptest! {
        #[test]
        fn the_order_of_lines_does_not_matter(mut scores in prop::collection::vec(0u8..6, 1..30).prop_shuffle(), seed in any::<u64>()) {
            let line = |(id, score): (usize, &u8)| format!("q Q0 d{id} 1 {score} t\n");
            let straight: String = scores.iter().enumerate().map(line).collect();
            let mut lines: Vec<String> = scores.iter().enumerate().map(line).collect();
            let at = usize::try_from(seed % lines.len() as u64).unwrap();
            lines.rotate_left(at);
            lines.reverse();
            prop_assert_eq!(from_text(&straight).unwrap(), from_text(&lines.concat()).unwrap());
            scores.clear();
        }

        #[test]
        fn what_is_written_is_read_again_in_its_order(scores in prop::collection::vec(-10.0f32..10.0, 1..30)) {
            let ids: Found = scores.iter().enumerate().map(|(id, score)| (format!("d{id}"), *score)).collect();
            let (_, back) = round_trip(&Run::from([("q".to_owned(), ids.clone())]));
            let order = |found: &Found| found.iter().map(|(id, _)| id.clone()).collect::<Vec<_>>();
            prop_assert_eq!(order(&back["q"]), order(&ids));
        }
    }
}
