//! Choosing questions, the same ones each time.
//!
//! A question's place is the SHA-256 of `PURPOSE:SEED:ID`; the first N places are chosen. So a sample depends neither on the order of the file nor on
//! a random generator, a sample of 100 is part of one of 300, and anybody can draw it again.

use std::collections::{BTreeSet, HashSet};

use sha2::{Digest, Sha256};

use super::{Naming, Question};
use crate::eval::input::{InputResult, wrong};

/// Questions whose documents are to be left out, to see whether Raglan says that it has found nothing.
#[derive(Debug, Clone, PartialEq)]
pub struct HoldOut {
    /// The questions that were chosen; they have no answer then.
    pub questions: Vec<Question>,
    /// The names of their relevant documents, which are left out.
    pub documents: BTreeSet<String>,
    /// The questions of which all relevant documents stay.
    pub others: Vec<Question>,
    /// How many questions are passed over, since a document of theirs is left out as well.
    pub passed_over: usize,
}

/// At most `size` of these questions, in their order.
pub fn sample(questions: Vec<Question>, size: usize, seed: u64) -> Vec<Question> {
    let chosen = first(&questions, size, seed, "sample");
    questions.into_iter().filter(|question| chosen.contains(&question.id)).collect()
}

/// Chooses `size` of the questions that have relevant documents, and leaves these documents out.
pub fn hold_out(questions: Vec<Question>, size: usize, seed: u64) -> InputResult<HoldOut> {
    let judged: Vec<Question> = questions.iter().filter(|question| question.is_judged()).cloned().collect();
    if judged.len() < size {
        return Err(wrong!(
            "--hold-out {size}: only {} questions have relevant documents that could be left out",
            judged.len()
        ));
    }
    let chosen = first(&judged, size, seed, "hold-out");
    let (held, rest): (Vec<Question>, Vec<Question>) =
        questions.into_iter().partition(|question| chosen.contains(&question.id));
    let documents: BTreeSet<String> =
        held.iter().flat_map(|question| question.relevant().map(str::to_owned)).collect();
    let before = rest.len();
    let others: Vec<Question> =
        rest.into_iter().filter(|question| !question.relevant().any(|id| documents.contains(id))).collect();
    let passed_over = before - others.len();
    let held = held
        .into_iter()
        .map(|question| Question { judgements: [].into(), unanswerable: true, held_out: true, ..question })
        .collect();
    Ok(HoldOut { questions: held, documents, others, passed_over })
}

impl HoldOut {
    /// Whether the document with this external id is left out.
    pub fn leaves_out(&self, naming: Naming, external_id: &str) -> bool {
        self.documents.contains(external_id)
            || (naming == Naming::PathEnd && self.documents.iter().any(|name| naming.is(name, external_id)))
    }
}

fn first(questions: &[Question], size: usize, seed: u64, purpose: &str) -> HashSet<String> {
    let place = |id: &str| Sha256::digest(format!("{purpose}:{seed}:{id}").as_bytes());
    let mut places: Vec<_> = questions.iter().map(|question| (place(&question.id), &question.id)).collect();
    places.sort();
    places.into_iter().take(size).map(|(_, id)| id.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Question n, with the document n / 5: five questions to a document.
    fn questions() -> Vec<Question> {
        (0..100)
            .map(|n: usize| Question {
                id: format!("q{n}"),
                text: format!("{n}?"),
                judgements: [((n / 5).to_string(), 1), ("never".to_owned(), 0)].into(),
                answers: vec![n.to_string()],
                ..Question::default()
            })
            .collect()
    }

    fn ids(questions: &[Question]) -> Vec<String> {
        questions.iter().map(|question| question.id.clone()).collect()
    }

    #[test]
    fn a_sample_is_the_same_whatever_the_order_and_part_of_a_larger_one() {
        let ten = sample(questions(), 10, 7);
        assert_eq!(ten.len(), 10);
        let mut backwards = questions();
        backwards.reverse();
        let mut again = ids(&sample(backwards, 10, 7));
        again.reverse();
        assert_eq!(again, ids(&ten), "in the order of the file");
        let thirty = ids(&sample(questions(), 30, 7));
        assert!(ids(&ten).iter().all(|id| thirty.contains(id)));
        assert_ne!(ids(&sample(questions(), 10, 8)), ids(&ten));
        assert_eq!(sample(questions(), 1_000, 7), questions());
        // The very questions, so that a change of the method is seen: figures of old would not be comparable.
        assert_eq!(ids(&sample(questions(), 5, 42)), DRAWN);
    }

    /// `sorted(range(100), key=lambda n: hashlib.sha256(f"sample:42:q{n}".encode()).digest())[:5]`, sorted.
    const DRAWN: [&str; 5] = ["q32", "q37", "q50", "q61", "q83"];

    #[test]
    fn held_out_questions_lose_their_documents_and_nobody_elses_question_does() {
        let held = hold_out(questions(), 10, 7).unwrap();
        assert_eq!(held.questions.len(), 10);
        assert!(
            held.questions
                .iter()
                .all(|question| question.unanswerable && question.held_out && !question.is_judged())
        );
        assert!(
            held.questions.iter().all(|question| !question.answers.is_empty()),
            "to see whether it was answered all the same"
        );
        assert!(held.documents.len() <= 10 && !held.documents.contains("never"));
        for question in &held.others {
            assert!(question.relevant().all(|id| !held.documents.contains(id)));
        }
        assert_eq!(held.others.len() + held.questions.len() + held.passed_over, 100);
        assert_eq!(held.others.len(), 100 - 5 * held.documents.len());
        assert_eq!(hold_out(questions(), 10, 7).unwrap(), held);
        let error = hold_out(questions(), 101, 7).unwrap_err().to_string();
        assert!(error.contains("only 100 questions"), "{error}");
        let name = held.documents.first().unwrap();
        assert!(held.leaves_out(Naming::Exact, name) && !held.leaves_out(Naming::Exact, "never"));
        assert!(held.leaves_out(Naming::PathEnd, &format!("docs/{name}")));
        assert!(!held.leaves_out(Naming::Exact, &format!("docs/{name}")));
    }
}
