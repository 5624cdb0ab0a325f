//! Judgements: which documents are relevant to which questions.

use std::{collections::BTreeMap, path::Path};

use crate::eval::{
    input::{InputResult, lines, wrong},
    metrics::ranking::Judgements,
};

/// Reads BEIR's `query-id corpus-id score` lines, with or without a header, or TREC's `query 0 document score` lines. Fields are parted by tabs, or else
/// by spaces.
pub(super) fn read(path: &Path) -> InputResult<BTreeMap<String, Judgements>> {
    let mut judgements: BTreeMap<String, Judgements> = BTreeMap::new();
    let mut first = true;
    for line in lines(path)? {
        let line = line?;
        let place = || format!("{}: line {}", path.display(), line.number);
        let tabs: Vec<&str> = line.text.split('\t').map(str::trim).collect();
        let fields = if tabs.len() > 1 { tabs } else { line.text.split_whitespace().collect() };
        let (question, document, score) = match fields.as_slice() {
            [question, document, score] | [question, _, document, score] => (*question, *document, *score),
            _ => {
                return Err(wrong!(
                    "{}: a line has three fields, `query-id corpus-id score`, or TREC's four; this one has {}",
                    place(),
                    fields.len()
                ));
            }
        };
        let is_header =
            std::mem::take(&mut first) && score.parse::<f64>().is_err() && !begins_as_number(score);
        if is_header {
            continue;
        }
        let score: i64 =
            score.parse().map_err(|_| wrong!("{}: the score {score:?} is not a whole number", place()))?;
        // So that the best order can be summed without loss.
        if score.abs() > 1_000_000 {
            return Err(wrong!("{}: the score {score} is out of range", place()));
        }
        let before = judgements.entry(question.to_owned()).or_default().insert(document.to_owned(), score);
        if before.is_some_and(|before| before != score) {
            return Err(wrong!("{}: {document:?} was judged otherwise for {question:?} before", place()));
        }
    }
    if judgements.is_empty() {
        return Err(wrong!("{} has no judgements", path.display()));
    }
    Ok(judgements)
}

fn begins_as_number(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_digit() || c == '-' || c == '+')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from_text(text: &str) -> InputResult<BTreeMap<String, Judgements>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("test.tsv");
        std::fs::write(&path, text).unwrap();
        read(&path)
    }

    #[test]
    fn with_a_header_without_one_and_as_trec_has_them() {
        let expected = BTreeMap::from([
            ("1".to_owned(), Judgements::from([("9".to_owned(), 2), ("a b".to_owned(), 0)])),
            ("q2".to_owned(), Judgements::from([("9".to_owned(), -1)])),
        ]);
        let lines = "1\t9\t2\n1\ta b\t0\nq2\t9\t-1\n";
        assert_eq!(from_text(&format!("query-id\tcorpus-id\tscore\n{lines}")).unwrap(), expected);
        assert_eq!(from_text(lines).unwrap(), expected);
        assert_eq!(from_text("1\t0\t9\t2\n1\t0\ta b\t0\nq2\t0\t9\t-1\n").unwrap(), expected);
        assert_eq!(from_text("1 0 9 2\nq2 0 9 -1\n").unwrap().len(), 2);
    }

    #[test]
    fn a_bad_line_is_named() {
        for (text, expected) in [
            ("query-id\tcorpus-id\tscore\n1\t9\n", "line 2: a line has three fields"),
            ("1\t9\tyes\n1\t8\tno\n", "line 2: the score \"no\""),
            ("1\t9\t0.5\n", "line 1: the score \"0.5\""),
            ("1\t9\t1\n1\t9\t0\n", "line 2: \"9\" was judged otherwise"),
            ("1\t9\t99999999\n", "out of range"),
            ("query-id\tcorpus-id\tscore\n", "has no judgements"),
            ("", "has no judgements"),
        ] {
            let error = from_text(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
