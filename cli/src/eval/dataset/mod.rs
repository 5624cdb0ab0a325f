//! Sets of questions, with what is known of their answers: which documents are relevant, what the answer is, or that there is none.
//!
//! Two layouts are read: BEIR's (`corpus.jsonl`, `queries.jsonl`, `qrels/SPLIT.tsv`), and one for people: `questions.jsonl` beside a folder
//! `docs` with files. `docs/evaluation.md` describes both.

pub mod corpus;
mod layout;
mod qrels;
mod questions;
pub mod sample;

use std::path::PathBuf;

pub use self::layout::{examples, load};
use super::metrics::ranking::Judgements;

/// A question, with what is known of its answer.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Question {
    /// Its id, unique in its set.
    pub id: String,
    /// Its words.
    pub text: String,
    /// Documents with their judgements; empty where none is known.
    pub judgements: Judgements,
    /// The right answers; any of them will do. Empty where none is known.
    pub answers: Vec<String>,
    /// Whether the documents hold no answer to it.
    pub unanswerable: bool,
    /// Whether that is so because they were left out on purpose (see [`sample::hold_out`]).
    pub held_out: bool,
}

impl Question {
    /// The ids of the documents that are relevant.
    pub fn relevant(&self) -> impl Iterator<Item = &str> {
        self.judgements.iter().filter(|(_, gain)| **gain > 0).map(|(id, _)| id.as_str())
    }

    /// Whether a ranking of documents can be judged.
    pub fn is_judged(&self) -> bool {
        self.relevant().next().is_some()
    }
}

/// Where a set's documents lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Documents {
    /// In a file with one JSON document a line.
    Corpus(PathBuf),
    /// As files of a folder.
    Folder(PathBuf),
}

/// How a set names its documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Naming {
    /// By their external ids.
    Exact,
    /// By their external ids, or by the end of a path: `webhooks.md` is `docs/webhooks.md`.
    PathEnd,
}

impl Naming {
    /// Whether the set's `name` is the document with this external id.
    pub fn is(self, name: &str, external_id: &str) -> bool {
        match self {
            Self::Exact => name == external_id,
            Self::PathEnd => external_id
                .strip_suffix(name)
                .is_some_and(|before| before.is_empty() || before.ends_with('/')),
        }
    }

    /// The name by which judgements know the document with this external id; the id itself where they do not.
    pub fn judged_name<'a>(self, judgements: &'a Judgements, external_id: &'a str) -> &'a str {
        if self == Self::Exact || judgements.contains_key(external_id) {
            return external_id;
        }
        judgements.keys().find(|name| self.is(name, external_id)).map_or(external_id, String::as_str)
    }
}

/// A set of questions.
#[derive(Debug, Clone, PartialEq)]
pub struct Dataset {
    /// The name of its folder or file.
    pub name: String,
    /// Where it lies.
    pub path: PathBuf,
    /// Its questions in the order of their file; only those of which something is known.
    pub questions: Vec<Question>,
    /// Its documents, where it has any.
    pub documents: Option<Documents>,
    /// How it names them.
    pub naming: Naming,
    /// What is odd about it, in words.
    pub notes: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_may_be_named_by_the_end_of_its_path() {
        for (name, id, same) in [
            ("webhooks.md", "webhooks.md", true),
            ("webhooks.md", "docs/webhooks.md", true),
            ("docs/webhooks.md", "my/docs/webhooks.md", true),
            ("hooks.md", "docs/webhooks.md", false),
            ("docs/webhooks.md", "webhooks.md", false),
        ] {
            assert_eq!(Naming::PathEnd.is(name, id), same, "{name} {id}");
            assert_eq!(Naming::Exact.is(name, id), name == id);
        }
        let judgements = Judgements::from([("a.md".to_owned(), 1)]);
        assert_eq!(Naming::PathEnd.judged_name(&judgements, "docs/a.md"), "a.md");
        assert_eq!(Naming::PathEnd.judged_name(&judgements, "docs/b.md"), "docs/b.md");
        assert_eq!(Naming::Exact.judged_name(&judgements, "docs/a.md"), "docs/a.md");
    }
}
