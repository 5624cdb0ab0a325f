//! A table for a terminal: plain text, aligned.

use std::fmt::Write;

use super::summary::{AnswersSummary, Comparison, SearchSummary, Summary, SystemSummary, Times};
use crate::eval::measures::{Cuts, FAMILIES, Of};

/// The figures as lines of text.
pub fn table(summary: &Summary, cuts: &Cuts) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "{}", heading(summary));
    for system in &summary.systems {
        let _ = write!(out, "\n{}", system_table(system, cuts));
    }
    if let [first, second] = summary.systems.as_slice() {
        let _ = write!(out, "\n{}", comparison(&first.label, &second.label, &summary.comparison));
    }
    for note in &summary.notes {
        let _ = writeln!(out, "\nNote: {note}");
    }
    out
}

fn heading(summary: &Summary) -> String {
    let dataset = &summary.dataset;
    let mut text = format!("{}: {} questions", dataset.name, dataset.questions);
    if let Some(documents) = dataset.documents {
        let _ = write!(text, " over {documents} documents");
    }
    let parts = [
        (dataset.judged, "with relevant documents"),
        (dataset.with_answers, "with right answers"),
        (dataset.unanswerable - dataset.held_out, "unanswerable"),
        (dataset.held_out, "held out"),
    ];
    let parts: Vec<String> =
        parts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect();
    let _ = write!(text, " ({})", parts.join(", "));
    text
}

fn system_table(system: &SystemSummary, cuts: &Cuts) -> String {
    let mut out = format!("{}\n", system.label);
    if system.measured().iter().any(|one| one.of == Of::Ranking) {
        let _ = write!(out, "  {:<12}", "");
        for at in &cuts.at {
            let _ = write!(out, "{:>9}", format!("@{at}"));
        }
        out.push('\n');
        for family in &FAMILIES {
            let _ = write!(out, "  {:<12}", family.title);
            for at in &cuts.at {
                let mean = system.measures.get(&format!("{}@{at}", family.key)).map(|estimate| estimate.mean);
                let _ = write!(out, "{:>9}", mean.map(|mean| format!("{mean:.4}")).unwrap_or_default());
            }
            out.push('\n');
        }
        // The families are above; of the other measures and of the main one, the interval is told as well.
        let in_families =
            |key: &str| FAMILIES.iter().any(|family| key.starts_with(&format!("{}@", family.key)));
        let main = format!("ndcg@{}", cuts.main());
        for one in system.measured().iter().filter(|one| one.of == Of::Ranking) {
            if !in_families(&one.key) || one.key == main {
                let estimate = &one.estimate;
                let (low, high) = (estimate.low, estimate.high);
                let _ =
                    writeln!(out, "  {:<12}{:>9.4}  95 % {low:.4} to {high:.4}", one.title, estimate.mean);
            }
        }
    }
    if let Some(search) = &system.search {
        let _ = writeln!(out, "{}", search_line(search));
    }
    if let Some(answers) = &system.answers {
        for one in system.measured().iter().filter(|one| one.of == Of::Answers) {
            let estimate = &one.estimate;
            let _ = writeln!(
                out,
                "  {:<28}{:>8}  95 % {} to {}  {} questions",
                one.title,
                percent(estimate.mean),
                percent(estimate.low),
                percent(estimate.high),
                estimate.questions
            );
        }
        out.push_str(&answers_lines(answers));
    }
    out
}

fn search_line(search: &SearchSummary) -> String {
    let mut text = format!("  {:<12}", "searches");
    match &search.took {
        Some(took) => text.push_str(&times(took)),
        None => text.push_str("read from a file"),
    }
    let _ = write!(
        text,
        "; {} questions, {:.0} documents found in the median",
        search.searches, search.documents_found
    );
    text
}

fn answers_lines(answers: &AnswersSummary) -> String {
    let mut out = format!("  {:<12}", "answers");
    if let Some(took) = &answers.took {
        out.push_str(&times(took));
    }
    let _ = write!(out, "; {} asked, {} found", answers.asked, answers.found);
    if let (Some(median), Some(p90)) = (answers.words_median, answers.words_p90) {
        let _ = write!(out, "; {median:.0} words in the median, {p90:.0} at p90");
    }
    let _ = writeln!(out, "; written by {}", answers.models.join(", "));
    out
}

fn times(times: &Times) -> String {
    format!("p50 {:.1} ms, p90 {:.1} ms, p99 {:.1} ms", times.p50_ms, times.p90_ms, times.p99_ms)
}

fn comparison(first: &str, second: &str, rows: &[Comparison]) -> String {
    let width = rows.iter().map(|row| row.title.chars().count()).max().unwrap_or_default() + 2;
    let mut out = format!("{second} less {first}\n");
    let _ = writeln!(
        out,
        "  {:<width$}{:>9}{:>9}{:>12}  {:<20}{:>8}  better/equal/worse",
        "", "first", "second", "difference", "95 % interval", "p"
    );
    for row in rows {
        let difference = &row.difference;
        let (better, worse) = if row.lower_is_better {
            (difference.lower, difference.higher)
        } else {
            (difference.higher, difference.lower)
        };
        let verdict = match row.clear() {
            Some(true) => "  better",
            Some(false) => "  worse",
            None => "",
        };
        let _ = writeln!(
            out,
            "  {:<width$}{:>9.4}{:>9.4}{:>+12.4}  {:<20}{:>8.4}  {better}/{}/{worse}{verdict}",
            row.title,
            row.first,
            row.second,
            difference.mean,
            format!("{:+.4} to {:+.4}", difference.low, difference.high),
            difference.p,
            difference.equal,
        );
    }
    out
}

fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::report::tests::example;

    #[test]
    fn the_table_says_what_was_measured() {
        let example = example();
        let text = table(&Summary::of(&example), &example.cuts);
        for expected in [
            "set <&> one: 3 questions over 5 documents (2 with relevant documents, 2 with right answers, 1 unanswerable)\n",
            "               @1      @10\n",
            "  Recall         0.7500   1.0000\n",
            "  MRR@10         1.0000  95 % 1.0000 to 1.0000\n",
            "  searches    p50 3.0 ms, p90 5.0 ms, p99 5.0 ms; 2 questions, 2 documents found in the median\n",
            "  Right answer in it            50.0 %",
            "; 3 asked, 2 found; 3 words in the median, 3 at p90; written by extractive\n",
            "keyword less hybrid\n",
            "0/0/2  worse\n",
            "Note: one note & <another>\n",
        ] {
            assert!(text.contains(expected), "{expected:?} is not in\n{text}");
        }
        assert!(text.lines().all(|line| !line.ends_with(' ')), "{text}");
    }
}
