//! What came back as numbers: for each measure one number a question, where it applies.

use serde::Serialize;

use super::{
    ask::Answer,
    dataset::{Naming, Question},
    metrics::{ranking::Judged, text},
    search::Ranking,
};

/// Beyond this rank a first relevant document counts nothing for MRR.
const MRR_AT: usize = 10;

/// What a measure is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Of {
    /// The order of documents.
    Ranking,
    /// The text of answers, and whether there is one.
    Answers,
}

/// A measure over all questions.
#[derive(Debug, Clone, PartialEq)]
pub struct Measure {
    /// Stable, for programs: `ndcg@10`.
    pub key: String,
    /// For people: `nDCG@10`.
    pub title: String,
    /// What it is of.
    pub of: Of,
    /// Whether a lower value is the better one.
    pub lower_is_better: bool,
    /// For each question, in order; none where it does not apply.
    pub values: Vec<Option<f64>>,
}

impl Measure {
    /// The values of the questions that it applies to.
    pub fn present(&self) -> Vec<f64> {
        self.values.iter().flatten().copied().collect()
    }
}

/// Where rankings are cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cuts {
    /// Ranks for nDCG, recall, precision and hit rate, ascending.
    pub at: Vec<usize>,
    /// How deep the rankings are; MAP goes so far.
    pub depth: usize,
}

impl Cuts {
    /// The cut whose nDCG stands for the whole: 10 where it is one of them, else the one below it, else the first.
    pub fn main(&self) -> usize {
        self.at.iter().rev().find(|at| **at <= 10).or(self.at.first()).copied().unwrap_or(10)
    }
}

/// A family of measures that are taken at several cuts.
pub struct Family {
    /// For programs.
    pub key: &'static str,
    /// For people.
    pub title: &'static str,
    value: fn(&Judged, usize) -> f64,
}

/// The families, in the order in which they are shown.
pub const FAMILIES: [Family; 4] = [
    Family { key: "ndcg", title: "nDCG", value: Judged::ndcg },
    Family { key: "recall", title: "Recall", value: Judged::recall },
    Family { key: "precision", title: "Precision", value: Judged::precision },
    Family { key: "hit_rate", title: "Hit rate", value: Judged::hit },
];

/// The measures of rankings.
pub fn of_rankings(
    questions: &[Question],
    naming: Naming,
    rankings: &[Option<Ranking>],
    cuts: &Cuts,
) -> Vec<Measure> {
    let judged: Vec<Option<Judged>> = questions
        .iter()
        .zip(rankings)
        .map(|(question, ranking)| ranking.as_ref().map(|ranking| judge(question, naming, ranking)))
        .collect();
    let measure = |key: String, title: String, value: &dyn Fn(&Judged) -> f64| Measure {
        key,
        title,
        of: Of::Ranking,
        lower_is_better: false,
        values: judged.iter().map(|judged| judged.as_ref().map(value)).collect(),
    };
    let mut measures = Vec::new();
    for family in &FAMILIES {
        for at in &cuts.at {
            let (key, title) = (format!("{}@{at}", family.key), format!("{}@{at}", family.title));
            measures.push(measure(key, title, &|judged| (family.value)(judged, *at)));
        }
    }
    measures.push(measure(format!("mrr@{MRR_AT}"), format!("MRR@{MRR_AT}"), &|judged| {
        judged.reciprocal_rank(MRR_AT)
    }));
    let depth = cuts.depth;
    measures.push(measure(format!("map@{depth}"), format!("MAP@{depth}"), &|judged| {
        judged.average_precision(depth)
    }));
    measures
}

fn judge(question: &Question, naming: Naming, ranking: &Ranking) -> Judged {
    let mut seen = std::collections::HashSet::new();
    let ids = ranking.documents.iter().map(|(id, _)| naming.judged_name(&question.judgements, id));
    // Two documents may end with the path that a judgement names; the second is as any other.
    let once = ids.map(|id| if seen.insert(id) { id } else { "" });
    Judged::new(once, &question.judgements)
}

/// The measures of answers.
pub fn of_answers(questions: &[Question], naming: Naming, answers: &[Option<Answer>]) -> Vec<Measure> {
    let measure =
        |key: &str, title: &str, lower_is_better, value: &dyn Fn(&Question, &Answer) -> Option<f64>| {
            let both = questions.iter().zip(answers);
            Measure {
                key: key.to_owned(),
                title: title.to_owned(),
                of: Of::Answers,
                lower_is_better,
                values: both.map(|(question, answer)| value(question, answer.as_ref()?)).collect(),
            }
        };
    // A question that has a right answer, and what was answered: nothing where nothing was found.
    let gold = |question: &Question, answer: &Answer, value: &dyn Fn(&str, &[String]) -> f64| {
        let applies = !question.unanswerable && !question.answers.is_empty();
        applies.then(|| if answer.found { value(&answer.text, &question.answers) } else { 0.0 })
    };
    let all = [
        measure("answer_contains", "Right answer in it", false, &|question, answer| {
            gold(question, answer, &|text, golds| one_if(text::contains(text, golds)))
        }),
        measure("answer_exact_match", "Exact match", false, &|question, answer| {
            gold(question, answer, &|text, golds| one_if(text::exact_match(text, golds)))
        }),
        measure("answer_f1", "F1 of words", false, &|question, answer| gold(question, answer, &text::f1)),
        measure("cited_relevant", "Cites a relevant document", false, &|question, answer| {
            (question.is_judged() && answer.found).then(|| one_if(cites_relevant(question, naming, answer)))
        }),
        measure("wrong_refusal", "Not found, though answerable", true, &|question, answer| {
            (!question.unanswerable).then_some(one_if(!answer.found))
        }),
        measure("unanswerable_not_found", "Not found, and unanswerable", false, &|question, answer| {
            (question.unanswerable && !question.held_out).then_some(one_if(!answer.found))
        }),
        measure("held_out_not_found", "Not found, and held out", false, &|question, answer| {
            question.held_out.then_some(one_if(!answer.found))
        }),
    ];
    all.into_iter().filter(|measure| measure.values.iter().any(Option::is_some)).collect()
}

/// Whether one of an answer's sources is a relevant document.
fn cites_relevant(question: &Question, naming: Naming, answer: &Answer) -> bool {
    answer.cited.iter().any(|id| {
        let name = naming.judged_name(&question.judgements, id);
        question.judgements.get(name).is_some_and(|gain| *gain > 0)
    })
}

fn one_if(holds: bool) -> f64 {
    if holds { 1.0 } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(relevant: &[&str], golds: &[&str], unanswerable: bool) -> Question {
        Question {
            judgements: relevant.iter().map(|id| ((*id).to_owned(), 1)).collect(),
            answers: golds.iter().map(|gold| (*gold).to_owned()).collect(),
            unanswerable,
            ..Question::default()
        }
    }

    fn answer(text: &str, found: bool, cited: &[&str]) -> Answer {
        Answer {
            text: text.to_owned(),
            found,
            cited: cited.iter().map(|id| (*id).to_owned()).collect(),
            ..Answer::default()
        }
    }

    fn values(measures: &[Measure], key: &str) -> Vec<Option<f64>> {
        measures
            .iter()
            .find(|measure| measure.key == key)
            .unwrap_or_else(|| panic!("no {key}"))
            .values
            .clone()
    }

    #[test]
    fn rankings_are_measured_where_they_can_be_judged() {
        let questions =
            [question(&["a"], &[], false), question(&[], &[], true), question(&["docs.md"], &[], false)];
        let ranking = |ids: &[&str]| {
            let documents = ids.iter().map(|id| ((*id).to_owned(), 1.0)).collect();
            Some(Ranking { documents, ..Ranking::default() })
        };
        let rankings = [ranking(&["x", "a"]), None, ranking(&["in/docs.md", "also/docs.md"])];
        let cuts = Cuts { at: vec![1, 10], depth: 100 };
        let measures = of_rankings(&questions, Naming::PathEnd, &rankings, &cuts);
        let keys: Vec<&str> = measures.iter().map(|measure| measure.key.as_str()).collect();
        assert_eq!(
            keys,
            [
                "ndcg@1",
                "ndcg@10",
                "recall@1",
                "recall@10",
                "precision@1",
                "precision@10",
                "hit_rate@1",
                "hit_rate@10",
                "mrr@10",
                "map@100"
            ]
        );
        assert_eq!(values(&measures, "recall@1"), [Some(0.0), None, Some(1.0)]);
        assert_eq!(values(&measures, "mrr@10"), [Some(0.5), None, Some(1.0)]);
        assert_eq!(
            values(&measures, "precision@10"),
            [Some(0.1), None, Some(0.1)],
            "the second of a name counts no more"
        );
        assert_eq!(values(&measures, "map@100"), [Some(0.5), None, Some(1.0)]);
        assert_eq!(cuts.main(), 10);
        assert_eq!(Cuts { at: vec![20, 50], depth: 100 }.main(), 20);
        assert_eq!(Cuts { at: vec![1, 5, 100], depth: 100 }.main(), 5);
    }

    #[test]
    fn answers_are_measured_by_what_is_known_of_the_question() {
        let mut held = question(&[], &["blue"], true);
        held.held_out = true;
        let questions = [
            question(&["a"], &["blue"], false),
            question(&["a"], &["blue"], false),
            question(&["a"], &[], false),
            question(&[], &[], true),
            held,
        ];
        let answers = [
            Some(answer("It is blue", true, &["b", "a"])),
            Some(answer("Nothing was found, not even blue", false, &[])),
            Some(answer("Red", true, &["b"])),
            Some(answer("Red", true, &["b"])),
            Some(answer("Nothing", false, &[])),
        ];
        let measures = of_answers(&questions, Naming::Exact, &answers);
        assert_eq!(values(&measures, "answer_contains"), [Some(1.0), Some(0.0), None, None, None]);
        assert_eq!(values(&measures, "answer_exact_match"), [Some(0.0), Some(0.0), None, None, None]);
        // 1 of 3 words right, all of 1 there.
        assert_eq!(values(&measures, "answer_f1"), [Some(0.5), Some(0.0), None, None, None]);
        assert_eq!(values(&measures, "cited_relevant"), [Some(1.0), None, Some(0.0), None, None]);
        assert_eq!(values(&measures, "wrong_refusal"), [Some(0.0), Some(1.0), Some(0.0), None, None]);
        assert_eq!(values(&measures, "unanswerable_not_found"), [None, None, None, Some(0.0), None]);
        assert_eq!(values(&measures, "held_out_not_found"), [None, None, None, None, Some(1.0)]);
        // What applies to no question is not there.
        assert!(
            of_answers(&questions[2..3], Naming::Exact, &answers[2..3])
                .iter()
                .all(|one| one.key != "answer_f1")
        );
    }
}
