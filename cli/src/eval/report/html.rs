//! A page for people: one file that needs neither network nor script, in light and dark, on paper and for screen readers.

use std::{borrow::Cow, fmt::Write};

use super::{
    Evaluation, System,
    plot::{self, Bar},
    summary::{Comparison, Summary, SystemSummary},
};
use crate::eval::{dataset::Naming, measures::Of};

const STYLE: &str = include_str!("page.css");

/// Text for the page: what HTML reads as markup is written out, and what no document may hold is left out.
pub(super) fn escape(text: &str) -> Cow<'_, str> {
    let special =
        |c: char| matches!(c, '<' | '>' | '&' | '"' | '\'') || (c.is_control() && c != '\n' && c != '\t');
    if !text.contains(special) && !text.contains(['\u{fffe}', '\u{ffff}']) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\n' | '\t' => out.push(c),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => {}
            c => out.push(c),
        }
    }
    Cow::Owned(out)
}

/// The page.
pub fn page(evaluation: &Evaluation, summary: &Summary, naming: Naming) -> String {
    let page = Page { evaluation, summary, naming };
    let title = format!("Evaluation: {}", summary.dataset.name);
    let mut out = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"/><meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\
         <meta name=\"generator\" content=\"raglan {}\"/><title>{}</title><style>\n{STYLE}</style></head><body>\n<main>\n",
        env!("CARGO_PKG_VERSION"),
        escape(&title)
    );
    for section in [
        page.head(),
        page.measures(Of::Ranking, "Ranking", "How well the right documents are found. Bars are means over the questions; lines are 95 % intervals."),
        page.measures(Of::Answers, "Answers", "How the questions were answered, as shares of those that each measure applies to."),
        page.comparison(),
        page.spread(),
        page.latency(),
        page.worst(),
        page.changes(),
        page.answers_to_look_at(),
        page.meaning(),
    ] {
        out.push_str(&section);
    }
    out.push_str("</main>\n</body></html>\n");
    out
}

/// What a page is made of.
pub(super) struct Page<'a> {
    pub(super) evaluation: &'a Evaluation,
    pub(super) summary: &'a Summary,
    pub(super) naming: Naming,
}

impl Page<'_> {
    fn head(&self) -> String {
        let dataset = &self.summary.dataset;
        let mut out = format!(
            "<h1>Evaluation: {}</h1>\n<p class=\"soft\">{} · raglan {}</p>\n",
            escape(&dataset.name),
            self.summary.at.format("%Y-%m-%d %H:%M UTC"),
            env!("CARGO_PKG_VERSION")
        );
        out.push_str("<ul class=\"figures\">");
        for (system, summary) in self.evaluation.systems.iter().zip(&self.summary.systems) {
            for figure in self.headline(system, summary) {
                let _ = write!(out, "<li>{figure}</li>");
            }
        }
        out.push_str("</ul>\n");
        if !self.summary.notes.is_empty() {
            out.push_str("<ul class=\"notes\">");
            for note in &self.summary.notes {
                let _ = write!(out, "<li>{}</li>", escape(note));
            }
            out.push_str("</ul>\n");
        }
        out.push_str(&self.conditions());
        out
    }

    /// The few figures that matter most: a number and what it is.
    fn headline(&self, system: &System, summary: &SystemSummary) -> Vec<String> {
        let of = if self.evaluation.systems.len() > 1 {
            format!(", {}", escape(&system.label))
        } else {
            String::new()
        };
        let main = format!("ndcg@{}", self.evaluation.cuts.main());
        let mut figures: Vec<String> = Vec::new();
        for (key, as_share) in [
            (main.as_str(), false),
            ("answer_contains", true),
            ("wrong_refusal", true),
            ("unanswerable_not_found", true),
            ("held_out_not_found", true),
        ] {
            if let Some(one) = summary.measured().iter().find(|one| one.key == key) {
                let mean = one.estimate.mean;
                let value = if as_share { percent(mean) } else { format!("{mean:.3}") };
                figures.push(format!("<b>{value}</b>{}{of}", escape(&one.title)));
            }
        }
        if let Some(words) = summary.answers.as_ref().and_then(|answers| answers.words_median) {
            figures.push(format!("<b>{words:.0}</b>Words of an answer, median{of}"));
        }
        if let Some(took) = summary.search.as_ref().and_then(|search| search.took) {
            figures.push(format!("<b>{:.1} ms</b>Search, median{of}", took.p50_ms));
        }
        figures
    }

    fn conditions(&self) -> String {
        let dataset = &self.summary.dataset;
        let mut rows = vec![("Questions".to_owned(), dataset.questions.to_string())];
        for (name, count) in [
            ("with relevant documents", dataset.judged),
            ("with right answers", dataset.with_answers),
            ("unanswerable", dataset.unanswerable - dataset.held_out),
            ("held out (their documents were left out)", dataset.held_out),
        ] {
            if count > 0 {
                rows.push((format!("– {name}"), count.to_string()));
            }
        }
        rows.extend(
            dataset
                .documents
                .map(|documents| ("Documents in the collection".to_owned(), documents.to_string())),
        );
        for system in &self.summary.systems {
            let configuration = &system.configuration;
            let parts = [
                ("collection", &configuration.collection),
                ("mode", &configuration.mode),
                ("pipeline", &configuration.pipeline),
                ("run file", &configuration.run_file),
            ];
            let mut words: Vec<String> = parts
                .iter()
                .filter_map(|(name, value)| Some(format!("{name} {}", value.as_ref()?)))
                .collect();
            words.extend(configuration.concurrency.map(|many| format!("{many} at once")));
            if let Some(answers) = &system.answers {
                words.push(format!("answers by {}", answers.models.join(", ")));
            }
            rows.push((format!("System: {}", system.label), words.join(", ")));
        }
        rows.push(("Documents asked for, each search".to_owned(), self.summary.depth.to_string()));
        rows.push(("Seed".to_owned(), self.summary.seed.to_string()));
        let mut out = "<h2>Conditions</h2>\n<div class=\"scroll\"><table><tbody>".to_owned();
        for (name, value) in rows {
            let _ =
                write!(out, "<tr><th scope=\"row\">{}</th><td>{}</td></tr>", escape(&name), escape(&value));
        }
        out.push_str("</tbody></table></div>\n");
        out
    }

    /// Which colour is whose; nothing where there is one system.
    fn legend(&self) -> String {
        if self.evaluation.systems.len() < 2 {
            return String::new();
        }
        let mut out = "<ul class=\"legend\">".to_owned();
        for (at, system) in self.evaluation.systems.iter().enumerate() {
            let _ = write!(
                out,
                "<li><svg viewBox=\"0 0 10 10\" aria-hidden=\"true\"><rect class=\"s{at}\" width=\"10\" height=\"10\"/></svg>{}</li>",
                escape(&system.label)
            );
        }
        out.push_str("</ul>\n");
        out
    }

    fn measures(&self, of: Of, title: &str, caption: &str) -> String {
        let mut groups: Vec<(String, Vec<Option<Bar>>)> = Vec::new();
        let systems = self.summary.systems.len();
        for (at, system) in self.summary.systems.iter().enumerate() {
            for one in system.measured().iter().filter(|one| one.of == of) {
                let bar = Bar { value: one.estimate.mean, low: one.estimate.low, high: one.estimate.high };
                let place = groups.iter().position(|(name, _)| *name == one.title).unwrap_or_else(|| {
                    groups.push((one.title.clone(), vec![None; systems]));
                    groups.len() - 1
                });
                groups[place].1[at] = Some(bar);
            }
        }
        if groups.is_empty() {
            return String::new();
        }
        let mut out = format!(
            "<h2>{title}</h2>\n{}<figure>{}<figcaption>{caption}</figcaption></figure>\n",
            self.legend(),
            plot::bars(
                &format!("{title}: means with 95 % intervals; the table below has the same figures"),
                &groups
            )
        );
        let _ = write!(
            out,
            "<div class=\"scroll\"><table><caption>{title}: means over the questions, with 95 % intervals</caption><thead><tr><th scope=\"col\">Measure</th>\
             <th scope=\"col\">System</th><th scope=\"col\" class=\"n\">Mean</th><th scope=\"col\" class=\"n\">95 % from</th><th scope=\"col\" class=\"n\">to</th>\
             <th scope=\"col\" class=\"n\">Questions</th></tr></thead><tbody>"
        );
        for (name, _) in &groups {
            for system in &self.summary.systems {
                let Some(one) = system.measured().iter().find(|one| one.title == *name) else { continue };
                let estimate = one.estimate;
                let _ = write!(
                    out,
                    "<tr><th scope=\"row\">{}</th><td>{}</td><td class=\"n\">{:.4}</td><td class=\"n\">{:.4}</td><td class=\"n\">{:.4}</td><td class=\"n\">{}</td></tr>",
                    escape(name),
                    escape(&system.label),
                    estimate.mean,
                    estimate.low,
                    estimate.high,
                    estimate.questions
                );
            }
        }
        out.push_str("</tbody></table></div>\n");
        out
    }

    fn comparison(&self) -> String {
        let [first, second] = self.summary.systems.as_slice() else { return String::new() };
        let (a, b) = (escape(&first.label), escape(&second.label));
        let mut out = format!(
            "<h2>Comparison</h2>\n<p>{b} less {a}, question by question. Where the interval leaves out 0, the difference is unlikely to be chance.</p>\n\
             <div class=\"scroll\"><table><caption>Paired differences with 95 % bootstrap intervals</caption><thead><tr><th scope=\"col\">Measure</th>\
             <th scope=\"col\" class=\"n\">{a}</th><th scope=\"col\" class=\"n\">{b}</th><th scope=\"col\" class=\"n\">Difference</th>\
             <th scope=\"col\" class=\"n\">95 % interval</th><th scope=\"col\" class=\"n\">p</th><th scope=\"col\" class=\"n\">Better / equal / worse</th>\
             <th scope=\"col\">Verdict</th></tr></thead><tbody>"
        );
        for row in &self.summary.comparison {
            out.push_str(&comparison_row(row));
        }
        out.push_str("</tbody></table></div>\n");
        out
    }

    /// The values of the main measure, for each system.
    fn main_values(&self) -> Vec<Vec<f64>> {
        let key = format!("ndcg@{}", self.evaluation.cuts.main());
        self.evaluation
            .systems
            .iter()
            .map(|system| system.measure(&key).map(|measure| measure.present()).unwrap_or_default())
            .collect()
    }

    fn spread(&self) -> String {
        let values = self.main_values();
        if values.iter().all(Vec::is_empty) {
            return String::new();
        }
        let main = format!("nDCG@{}", self.evaluation.cuts.main());
        let zero = values[0].iter().filter(|value| **value <= 0.0).count();
        let plot = plot::histogram(
            &format!("How many questions have which {main}"),
            &format!("{main} of a question"),
            &plot::share_columns(&values),
        );
        format!(
            "<h2>Spread over the questions</h2>\n{}<figure>{plot}<figcaption>Number of questions by their {main}. {zero} of {} have 0: no relevant \
             document is among the first {}.</figcaption></figure>\n",
            self.legend(),
            values[0].len(),
            self.evaluation.cuts.main()
        )
    }

    fn latency(&self) -> String {
        let mut out = String::new();
        let searches: Vec<Vec<f64>> = self.evaluation.systems.iter().map(System::search_times).collect();
        let answers: Vec<Vec<f64>> = self.evaluation.systems.iter().map(System::answer_times).collect();
        for (what, times) in [("search", searches), ("answer", answers)] {
            if times.iter().all(Vec::is_empty) {
                continue;
            }
            let title = format!("How long it took to {what}");
            let plot = plot::histogram(&title, "milliseconds", &plot::time_columns(&times));
            let _ = writeln!(
                out,
                "{}<figure>{plot}<figcaption>{title}, as the client saw it: number of questions by milliseconds (columns grow by equal factors).{}</figcaption></figure>",
                self.legend(),
                self.times_in_words(what)
            );
        }
        if out.is_empty() { out } else { format!("<h2>Latency</h2>\n{out}") }
    }

    fn times_in_words(&self, what: &str) -> String {
        let mut out = String::new();
        for system in &self.summary.systems {
            let took = match what {
                "search" => system.search.as_ref().and_then(|search| search.took),
                _ => system.answers.as_ref().and_then(|answers| answers.took),
            };
            if let Some(took) = took {
                let _ = write!(
                    out,
                    " {}: p50 {:.1} ms, p90 {:.1} ms, p99 {:.1} ms.",
                    escape(&system.label),
                    took.p50_ms,
                    took.p90_ms,
                    took.p99_ms
                );
            }
        }
        out
    }

    fn meaning(&self) -> String {
        let mut rows = Vec::new();
        if self.summary.systems.iter().any(|system| system.search.is_some()) {
            rows.extend([
                ("nDCG@k", "How much of the gain of the best possible order the first k documents have, where a document counts less the further down it stands."),
                ("Recall@k", "The share of the relevant documents that is among the first k."),
                ("Precision@k", "The share of the first k places that has a relevant document."),
                ("Hit rate@k", "The share of questions with a relevant document among the first k."),
                ("MRR@10", "1 divided by the rank of the first relevant document; 0 beyond rank 10."),
                ("MAP", "The precision at the rank of each relevant document, averaged over all relevant documents."),
            ]);
        }
        if self.summary.systems.iter().any(|system| system.answers.is_some()) {
            rows.extend([
                ("Right answer in it", "A right answer stands in the answer, word for word but for case, punctuation and articles."),
                ("Exact match", "The answer is a right answer and nothing else. Answers in sentences never are."),
                ("F1 of words", "How far the words of the answer and of the right answer are the same."),
                ("Cites a relevant document", "Of the answers given, those with a relevant document among their sources."),
                ("Not found, though answerable", "Refusals of questions that the documents answer: lower is better."),
                ("Not found, and unanswerable", "Refusals of questions that the documents do not answer: higher is better."),
            ]);
        }
        let mut out = "<h2>What the measures mean</h2>\n<div class=\"scroll\"><table><tbody>".to_owned();
        for (name, text) in rows {
            let _ = write!(out, "<tr><th scope=\"row\">{}</th><td>{}</td></tr>", escape(name), escape(text));
        }
        out.push_str(
            "</tbody></table></div>\n<p class=\"soft\">Intervals come from 10,000 bootstrap resamples of the questions. They tell how much the figure would change with other \
             questions of the same kind; they tell nothing about other documents or other kinds of questions.</p>\n",
        );
        out
    }
}

fn comparison_row(row: &Comparison) -> String {
    let difference = &row.difference;
    let (better, worse) = if row.lower_is_better {
        (difference.lower, difference.higher)
    } else {
        (difference.higher, difference.lower)
    };
    let verdict = match row.clear() {
        Some(true) => "<span class=\"good\">better</span>",
        Some(false) => "<span class=\"bad\">worse</span>",
        None => "no clear difference",
    };
    format!(
        "<tr><th scope=\"row\">{}</th><td class=\"n\">{:.4}</td><td class=\"n\">{:.4}</td><td class=\"n\">{:+.4}</td><td class=\"n\">{:+.4} to {:+.4}</td>\
         <td class=\"n\">{:.4}</td><td class=\"n\">{better} / {} / {worse}</td><td>{verdict}</td></tr>",
        escape(&row.title),
        row.first,
        row.second,
        difference.mean,
        difference.low,
        difference.high,
        difference.p,
        difference.equal
    )
}

fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use quick_xml::{Reader, events::Event};

    use super::*;
    use crate::eval::report::tests::example;

    /// Reads a page as XML: the names of its elements and its text. Fails where it is not well-formed.
    fn parse(page: &str) -> (Vec<String>, String) {
        let mut reader = Reader::from_str(page);
        reader.config_mut().check_end_names = true;
        let (mut names, mut text, mut depth) = (Vec::new(), String::new(), 0i32);
        loop {
            match reader.read_event().unwrap() {
                Event::Start(tag) => {
                    depth += 1;
                    names.push(String::from_utf8_lossy(tag.name().as_ref()).into_owned());
                    tag.attributes().for_each(|attribute| {
                        assert!(attribute.unwrap().value.iter().all(|byte| *byte != b'<'))
                    });
                }
                Event::Empty(tag) => {
                    names.push(String::from_utf8_lossy(tag.name().as_ref()).into_owned());
                    tag.attributes().for_each(|attribute| drop(attribute.unwrap()));
                }
                Event::End(_) => depth -= 1,
                Event::Text(piece) => text.push_str(&piece.decode().unwrap()),
                Event::GeneralRef(name) => text.push_str(match name.decode().unwrap().as_ref() {
                    "lt" => "<",
                    "gt" => ">",
                    "amp" => "&",
                    "quot" => "\"",
                    "#39" => "'",
                    other => panic!("an entity that the page does not use: {other}"),
                }),
                Event::Eof => break,
                _ => {}
            }
        }
        assert_eq!(depth, 0);
        (names, text)
    }

    fn rendered() -> String {
        let example = example();
        page(&example, &Summary::of(&example), Naming::Exact)
    }

    #[test]
    fn the_page_is_well_formed_and_all_of_it_is_here() {
        let page = rendered();
        let (names, text) = parse(&page);
        for name in ["script", "link", "img", "iframe", "object"] {
            assert!(!names.iter().any(|other| other == name), "{name}");
        }
        assert_eq!(names.iter().filter(|name| *name == "h1").count(), 1);
        assert!(names.iter().filter(|name| *name == "svg").count() >= 5, "{names:?}");
        // The only address is the name space of its plots.
        assert_eq!(
            page.matches("http").count(),
            page.matches("xmlns=\"http://www.w3.org/2000/svg\"").count()
        );
        assert!(!page.contains("url(") && !page.contains("@import"));
        for expected in [
            "Evaluation: set <&> one",
            "Who is <b>Ann</b> & \"Bob\"?",
            "It is green.",
            "First & <best>",
            "one note & <another>",
            "(rank 3)",
            "nDCG@10",
            "no clear difference",
            "Largest changes",
            "prefers-color-scheme: dark",
        ] {
            assert!(text.contains(expected), "{expected:?} is not in\n{text}");
        }
    }

    #[test]
    fn every_plot_and_table_has_words_for_who_cannot_see_it() {
        let page = rendered();
        let plots = page.matches("role=\"img\"").count();
        assert_eq!(plots, page.matches("<title>").count() - 1, "each plot has a title, and so has the page");
        assert_eq!(page.matches("<svg").count(), plots + page.matches("aria-hidden=\"true\"").count());
        assert!(
            page.contains("<html lang=\"en\">")
                && page.contains("scope=\"col\"")
                && page.contains("scope=\"row\"")
        );
    }

    #[test]
    fn one_system_without_answers_makes_a_page_too() {
        let mut one = example();
        one.systems.truncate(1);
        one.systems[0].answers.clear();
        one.systems[0].measures.retain(|measure| measure.of == Of::Ranking);
        let page = page(&one, &Summary::of(&one), Naming::Exact);
        let (_, text) = parse(&page);
        assert!(
            !text.contains("Comparison")
                && !text.contains("Answers to look at")
                && text.contains("Worst questions")
        );
    }

    proptest! {
        #[test]
        fn any_text_stands_in_the_page_as_it_is(given in any::<String>()) {
            let (names, text) = parse(&format!("<p>{}</p>", escape(&given)));
            prop_assert_eq!(names, ["p"]);
            let kept: String = given
                .chars()
                .filter(|c| (!c.is_control() || matches!(c, '\n' | '\t')) && !matches!(c, '\u{fffe}' | '\u{ffff}'))
                .collect();
            prop_assert_eq!(text, kept);
        }
    }
}
