//! Lists of questions for the page: what went wrong, and what changed.

use std::fmt::Write;

use super::{
    System,
    html::{Page, escape},
};
use crate::eval::{dataset::Question, search::SHOWN};

/// So many questions stand in each list of what went wrong.
const LISTED: usize = 25;

/// The longest text of a question, an answer or a title that is shown whole, in characters.
const LONGEST: usize = 600;

/// A text of moderate length, escaped.
fn shown(text: &str) -> String {
    match text.char_indices().nth(LONGEST) {
        Some((at, _)) => format!("{} …", escape(&text[..at])),
        None => escape(text).into_owned(),
    }
}

impl Page<'_> {
    /// The questions on which the first system's ranking is worst.
    pub(super) fn worst(&self) -> String {
        let Some(system) = self.evaluation.systems.first() else { return String::new() };
        let main = self.evaluation.cuts.main();
        let Some(measure) = system.measure(&format!("ndcg@{main}")) else { return String::new() };
        let mut values: Vec<(f64, usize)> =
            measure.values.iter().enumerate().filter_map(|(at, value)| Some(((*value)?, at))).collect();
        values.retain(|(value, _)| *value < 1.0);
        values.sort_by(|(a, a_at), (b, b_at)| a.total_cmp(b).then(a_at.cmp(b_at)));
        if values.is_empty() {
            return "<h2>Worst questions</h2>\n<p>Every question has its relevant documents first.</p>\n"
                .to_owned();
        }
        let mut out = format!(
            "<h2>Worst questions</h2>\n<div class=\"scroll\"><table class=\"questions\"><caption>The {} questions with the lowest nDCG@{main} ({})</caption><thead><tr>\
             <th scope=\"col\">Question</th><th scope=\"col\" class=\"n\">nDCG@{main}</th><th scope=\"col\">Expected</th><th scope=\"col\">Found first</th></tr></thead><tbody>",
            values.len().min(LISTED),
            escape(&system.label)
        );
        for (value, at) in values.into_iter().take(LISTED) {
            let question = &self.evaluation.questions[at];
            let ids = found(system, at);
            let _ = write!(
                out,
                "<tr><th scope=\"row\">{}<br/><span class=\"soft\">{}</span></th><td class=\"n\">{value:.3}</td><td>{}</td><td>{}</td></tr>",
                shown(&question.text),
                shown(&question.id),
                self.expected(question, &ids),
                self.found_first(&ids)
            );
        }
        out.push_str("</tbody></table></div>\n");
        out
    }

    /// The questions on which the two systems' rankings differ most: for the worse, and for the better.
    pub(super) fn changes(&self) -> String {
        let [first, second] = self.evaluation.systems.as_slice() else { return String::new() };
        let main = self.evaluation.cuts.main();
        let key = format!("ndcg@{main}");
        let (Some(before), Some(after)) = (first.measure(&key), second.measure(&key)) else {
            return String::new();
        };
        let both = before.values.iter().zip(&after.values).enumerate();
        let mut changes: Vec<(f64, usize)> =
            both.filter_map(|(at, (before, after))| Some(((*after)? - (*before)?, at))).collect();
        changes.retain(|(change, _)| change.abs() > 1e-9);
        changes.sort_by(|(a, a_at), (b, b_at)| b.abs().total_cmp(&a.abs()).then(a_at.cmp(b_at)));
        if changes.is_empty() {
            return String::new();
        }
        let (a, b) = (escape(&first.label), escape(&second.label));
        let mut out = format!(
            "<h2>Largest changes</h2>\n<div class=\"scroll\"><table class=\"questions\"><caption>The {} questions whose nDCG@{main} differs most, of {} that \
             differ</caption><thead><tr><th scope=\"col\">Question</th><th scope=\"col\" class=\"n\">Change</th><th scope=\"col\">Expected, by {b}</th>\
             <th scope=\"col\">{a} found first</th><th scope=\"col\">{b} found first</th></tr></thead><tbody>",
            changes.len().min(LISTED),
            changes.len()
        );
        for (change, at) in changes.into_iter().take(LISTED) {
            let question = &self.evaluation.questions[at];
            let (before, after) = (found(first, at), found(second, at));
            let kind = if change > 0.0 { "good" } else { "bad" };
            let _ = write!(
                out,
                "<tr><th scope=\"row\">{}<br/><span class=\"soft\">{}</span></th><td class=\"n {kind}\">{change:+.3}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
                shown(&question.text),
                shown(&question.id),
                self.expected(question, &after),
                self.found_first(&before),
                self.found_first(&after)
            );
        }
        out.push_str("</tbody></table></div>\n");
        out
    }

    fn found_first(&self, ids: &[&str]) -> String {
        list(ids.iter().take(SHOWN).map(|id| self.named(id)))
    }

    /// The relevant documents of a question, each with the place where it was found.
    fn expected(&self, question: &Question, found: &[&str]) -> String {
        let relevant: Vec<&str> = question.relevant().collect();
        let more = relevant.len().saturating_sub(5);
        let mut items: Vec<String> = relevant
            .iter()
            .take(5)
            .map(|name| {
                let rank = found.iter().position(|id| self.naming.is(name, id));
                let place = rank.map_or("not found".to_owned(), |at| format!("rank {}", at + 1));
                format!("{} <span class=\"soft\">({place})</span>", self.named(name))
            })
            .collect();
        if more > 0 {
            items.push(format!("and {more} more"));
        }
        list(items)
    }

    fn named(&self, id: &str) -> String {
        match self.evaluation.titles.get(id) {
            Some(title) if !title.is_empty() && title != id => {
                format!("{} <span class=\"soft\">{}</span>", shown(title), shown(id))
            }
            _ => shown(id),
        }
    }

    /// Wrong answers, wrong refusals, and answers to what has none.
    pub(super) fn answers_to_look_at(&self) -> String {
        let Some(system) = self.evaluation.systems.first().filter(|system| !system.answers.is_empty()) else {
            return String::new();
        };
        let zero = |key: &str, at: usize| {
            system.measure(key).is_some_and(|measure| measure.values[at].is_some_and(|value| value <= 0.0))
        };
        let one = |key: &str, at: usize| {
            system.measure(key).is_some_and(|measure| measure.values[at].is_some_and(|value| value > 0.0))
        };
        let mut out = String::new();
        for (title, holds) in [
            ("Not found, though answerable", &(|at| one("wrong_refusal", at)) as &dyn Fn(usize) -> bool),
            ("Answered, without the right answer in it", &|at| {
                zero("answer_contains", at) && zero("wrong_refusal", at)
            }),
            ("Answered, though unanswerable", &|at| {
                zero("unanswerable_not_found", at) || zero("held_out_not_found", at)
            }),
        ] {
            let all: Vec<usize> = (0..self.evaluation.questions.len()).filter(|at| holds(*at)).collect();
            if !all.is_empty() {
                out.push_str(&self.answers(system, title, &all));
            }
        }
        if out.is_empty() { out } else { format!("<h2>Answers to look at</h2>\n{out}") }
    }

    fn answers(&self, system: &System, title: &str, all: &[usize]) -> String {
        let first = if all.len() > LISTED { format!(", the first {LISTED}") } else { String::new() };
        let mut out = format!(
            "<div class=\"scroll\"><table class=\"questions\"><caption>{title}: {} questions{first} ({})</caption><thead><tr><th scope=\"col\">Question</th>\
             <th scope=\"col\">Right answer</th><th scope=\"col\">Answered</th><th scope=\"col\">Sources</th></tr></thead><tbody>",
            all.len(),
            escape(&system.label)
        );
        for at in all.iter().take(LISTED) {
            let question = &self.evaluation.questions[*at];
            let Some(answer) = &system.answers[*at] else { continue };
            let golds = if question.unanswerable && !question.held_out {
                "none".to_owned()
            } else {
                list(question.answers.iter().map(|gold| shown(gold)))
            };
            let said = match &answer.failed {
                Some(reason) => format!("<span class=\"bad\">{}</span>", shown(reason)),
                None => shown(&answer.text),
            };
            let _ = write!(
                out,
                "<tr><th scope=\"row\">{}<br/><span class=\"soft\">{}</span></th><td>{golds}</td><td>{said}</td><td>{}</td></tr>",
                shown(&question.text),
                shown(&question.id),
                list(answer.cited.iter().map(|id| self.named(id)))
            );
        }
        out.push_str("</tbody></table></div>\n");
        out
    }
}

/// The ids of what a system found for a question, the best first.
fn found(system: &System, at: usize) -> Vec<&str> {
    let ranking = system.rankings[at].as_ref();
    ranking.map(|ranking| ranking.documents.iter().map(|(id, _)| id.as_str()).collect()).unwrap_or_default()
}

/// Items that are escaped already, as a list; a dash where there are none.
fn list(items: impl IntoIterator<Item = String>) -> String {
    let items: String = items.into_iter().map(|item| format!("<li>{item}</li>")).collect();
    if items.is_empty() { "–".to_owned() } else { format!("<ul class=\"plain\">{items}</ul>") }
}
