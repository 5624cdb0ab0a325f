//! Finding the files of a set.

use std::{
    collections::{BTreeMap, HashSet},
    path::{Path, PathBuf},
};

use super::{Dataset, Documents, Naming, Question, qrels, questions};
use crate::eval::{
    input::{InputResult, packed_or_plain, wrong},
    metrics::ranking::Judgements,
};

/// So many examples of what is odd are named.
const EXAMPLES: usize = 5;

/// Reads a set: a folder in one of the two layouts, or a file with questions alone. `split` names the judgements, `qrels/SPLIT.tsv`.
pub fn load(path: &Path, split: &str) -> InputResult<Dataset> {
    let absolute = path
        .canonicalize()
        .map_err(|error| wrong!("the data set {} cannot be read: {error}", path.display()))?;
    let name = if absolute.is_dir() { absolute.file_name() } else { absolute.file_stem() };
    let name = name.map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let name = name.strip_suffix(".jsonl").map(str::to_owned).unwrap_or(name);
    let mut dataset = if absolute.is_file() {
        let read = questions::read(path)?;
        with_named_documents(read, None)
    } else if let Some(file) = packed_or_plain(path, "queries.jsonl") {
        beir(path, &file, split)?
    } else if let Some(file) = packed_or_plain(path, "questions.jsonl") {
        let folder =
            ["docs", "documents"].map(|name| path.join(name)).into_iter().find(|folder| folder.is_dir());
        let documents =
            folder.map(Documents::Folder).or(packed_or_plain(path, "corpus.jsonl").map(Documents::Corpus));
        with_named_documents(questions::read(&file)?, documents)
    } else {
        return Err(wrong!(
            "{} is no data set: it has neither queries.jsonl (BEIR's layout: corpus.jsonl, queries.jsonl, qrels/{split}.tsv) nor questions.jsonl \
             (with your files in docs); each may be packed as .gz",
            path.display()
        ));
    };
    dataset
        .questions
        .retain(|question| question.unanswerable || question.is_judged() || !question.answers.is_empty());
    if dataset.questions.is_empty() {
        return Err(wrong!(
            "{}: nothing is known of any question: give relevant documents (qrels/{split}.tsv, or `document` beside the question), or the \
             answer (`metadata.answers`, or `answers`)",
            path.display()
        ));
    }
    Ok(Dataset { name, path: path.to_owned(), ..dataset })
}

fn with_named_documents(read: questions::Read, documents: Option<Documents>) -> Dataset {
    let naming = if read.name_documents { Naming::PathEnd } else { Naming::Exact };
    let mut questions = read.questions;
    for question in &mut questions {
        question.unanswerable &= !question.is_judged();
    }
    Dataset { name: String::new(), path: PathBuf::new(), questions, documents, naming, notes: Vec::new() }
}

fn beir(folder: &Path, queries: &Path, split: &str) -> InputResult<Dataset> {
    let documents = packed_or_plain(folder, "corpus.jsonl").map(Documents::Corpus);
    let dataset = with_named_documents(questions::read(queries)?, documents);
    let Some(path) = qrels_file(folder, split)? else { return Ok(dataset) };
    let mut judged = qrels::read(&path)?;
    let mut notes = Vec::new();
    let known: HashSet<&str> = dataset.questions.iter().map(|question| question.id.as_str()).collect();
    let unknown: Vec<&str> = judged.keys().map(String::as_str).filter(|id| !known.contains(id)).collect();
    if unknown.len() == judged.len() {
        return Err(wrong!(
            "{} judges none of the questions of {}: it names {}",
            path.display(),
            queries.display(),
            examples(&unknown)
        ));
    }
    if !unknown.is_empty() {
        notes.push(format!(
            "{} judges {} question(s) that are not in {}: {}",
            path.display(),
            unknown.len(),
            queries.display(),
            examples(&unknown)
        ));
    }
    // Questions that this split does not judge belong to another one, those aside that are said to have no answer.
    let questions =
        dataset.questions.into_iter().filter_map(|question| judge(question, &mut judged)).collect();
    Ok(Dataset { questions, naming: Naming::Exact, notes, ..dataset })
}

fn judge(mut question: Question, judged: &mut BTreeMap<String, Judgements>) -> Option<Question> {
    question.judgements = judged.remove(&question.id).unwrap_or_default();
    question.unanswerable &= !question.is_judged();
    (question.unanswerable || question.is_judged()).then_some(question)
}

/// The judgements of a split; none where the set has no judgements at all.
fn qrels_file(folder: &Path, split: &str) -> InputResult<Option<PathBuf>> {
    let qrels = folder.join("qrels");
    if !qrels.is_dir() {
        return Ok(packed_or_plain(folder, "qrels.tsv"));
    }
    if let Some(path) = packed_or_plain(&qrels, &format!("{split}.tsv")) {
        return Ok(Some(path));
    }
    let mut splits: Vec<String> = std::fs::read_dir(&qrels)
        .map_err(|error| wrong!("{} cannot be read: {error}", qrels.display()))?
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter_map(|name| Some(name.strip_suffix(".gz").unwrap_or(&name).strip_suffix(".tsv")?.to_owned()))
        .collect();
    splits.sort();
    let there = if splits.is_empty() {
        "it has none".to_owned()
    } else {
        format!("--split can be: {}", splits.join(", "))
    };
    Err(wrong!("{} has no {split}.tsv; {there}", qrels.display()))
}

/// The first few, in words.
pub fn examples(names: &[&str]) -> String {
    let more = names.len().saturating_sub(EXAMPLES);
    let first = names.iter().take(EXAMPLES).map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ");
    if more > 0 { format!("{first} and {more} more") } else { first }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const QUERIES: &str = r#"{"_id": "q1", "text": "A?"}
{"_id": "q2", "text": "B?", "metadata": {"answers": ["b"]}}
{"_id": "q3", "text": "C?", "metadata": {"answers": []}}
{"_id": "q4", "text": "D?", "metadata": {"answers": []}}
{"_id": "q5", "text": "E?"}
"#;

    fn write(folder: &Path, files: &[(&str, &str)]) {
        for (name, text) in files {
            let path = folder.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
    }

    fn ids(dataset: &Dataset) -> Vec<&str> {
        dataset.questions.iter().map(|question| question.id.as_str()).collect()
    }

    #[test]
    fn a_folder_in_the_layout_of_beir() {
        let folder = tempfile::tempdir().unwrap();
        let qrels = "query-id\tcorpus-id\tscore\nq1\td1\t1\nq3\td2\t1\nq5\td1\t0\nq9\td1\t1\n";
        write(
            folder.path(),
            &[("queries.jsonl", QUERIES), ("qrels/test.tsv", qrels), ("qrels/dev.tsv", "q2\td1\t1\n")],
        );
        let dataset = load(folder.path(), "test").unwrap();
        // q2 is of another split, q5 has no relevant document; q4 is said to have no answer, and q3's document says that it has.
        assert_eq!(ids(&dataset), ["q1", "q3", "q4"]);
        assert!(!dataset.questions[1].unanswerable && dataset.questions[2].unanswerable);
        assert_eq!(dataset.documents, None);
        assert_eq!(dataset.notes.len(), 1);
        assert!(
            dataset.notes[0].contains("1 question(s)") && dataset.notes[0].contains("\"q9\""),
            "{:?}",
            dataset.notes
        );
        assert_eq!(dataset.naming, Naming::Exact);
        assert_eq!(ids(&load(folder.path(), "dev").unwrap()), ["q2", "q3", "q4"]);
        let error = load(folder.path(), "train").unwrap_err().to_string();
        assert!(error.contains("has no train.tsv; --split can be: dev, test"), "{error}");
        write(folder.path(), &[("corpus.jsonl", "")]);
        let corpus = folder.path().join("corpus.jsonl");
        assert_eq!(load(folder.path(), "test").unwrap().documents, Some(Documents::Corpus(corpus)));
    }

    #[test]
    fn without_judgements_the_answers_are_what_is_known() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &[("queries.jsonl", QUERIES)]);
        assert_eq!(ids(&load(folder.path(), "test").unwrap()), ["q2", "q3", "q4"]);
        let file = load(&folder.path().join("queries.jsonl"), "test").unwrap();
        assert_eq!((file.name.as_str(), file.questions.len()), ("queries", 3));
    }

    #[test]
    fn a_folder_as_people_make_it() {
        let folder = tempfile::tempdir().unwrap();
        let questions = "{\"question\": \"A?\", \"document\": \"a.md\", \"contains\": \"x\"}\n{\"question\": \"B?\", \"unanswerable\": true}\n";
        write(folder.path(), &[("handbook/questions.jsonl", questions), ("handbook/docs/a.md", "x")]);
        let dataset = load(&folder.path().join("handbook"), "test").unwrap();
        assert_eq!(dataset.name, "handbook");
        assert_eq!(ids(&dataset), ["1", "2"]);
        assert_eq!(dataset.naming, Naming::PathEnd);
        assert_eq!(dataset.documents, Some(Documents::Folder(folder.path().join("handbook/docs"))));
    }

    #[test]
    fn what_is_missing_is_told_with_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        for (files, expected) in [
            (&[][..], "has neither queries.jsonl"),
            (
                &[("queries.jsonl", "{\"_id\": \"q1\", \"text\": \"A?\"}\n")][..],
                "nothing is known of any question",
            ),
            (&[("qrels/test.tsv", "x\td1\t1\n")][..], "judges none of the questions"),
            (&[("qrels/test.tsv", "q1\td1\t0\n")][..], "nothing is known of any question"),
        ] {
            write(folder.path(), files);
            let error = load(folder.path(), "test").unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        let error = load(&folder.path().join("nowhere"), "test").unwrap_err().to_string();
        assert!(error.contains("nowhere cannot be read"), "{error}");
    }

    #[test]
    fn the_repositorys_own_questions_are_a_set() {
        let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
        let dataset = load(&examples, "test").unwrap();
        assert!(
            dataset.questions.len() > 20 && dataset.questions.iter().any(|question| question.unanswerable)
        );
        assert_eq!(dataset.documents, Some(Documents::Folder(examples.join("docs"))));
    }
}
