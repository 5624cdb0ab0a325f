//! Before the questions: are their documents where they are looked for?

use std::collections::BTreeMap;

use anyhow::Context;

use super::{Eval, Looked, Plan};
use crate::eval::{
    collection::{Collection, Held},
    dataset::{Question, examples},
    input::{InputResult, wrong},
};

/// Beyond so many documents a collection is not listed to see whether the relevant ones are in it.
const LISTED: u64 = 200_000;

/// Takes documents in where that is wanted, and sees whether the collection has what the questions need.
pub(super) async fn prepare(
    eval: &Eval,
    plan: &Plan,
    collection: Collection<'_>,
    looked: &mut Looked,
) -> anyhow::Result<()> {
    let name = collection.name;
    if eval.ingest {
        let documents = plan.dataset.documents.as_ref().ok_or_else(|| {
            wrong!(
                "--ingest: {} has no documents (corpus.jsonl, or files in docs)",
                plan.dataset.path.display()
            )
        })?;
        let taken = collection.ingest(documents, plan.dataset.naming, plan.hold_out.as_ref()).await?;
        if taken.failed > 0 {
            looked.notes.push(format!("{} documents could not be taken in.", taken.failed));
        }
    }
    let count = collection.documents().await?;
    let can_ingest = plan.dataset.documents.is_some();
    let advice = match (&plan.hold_out, can_ingest) {
        (Some(_), _) => "--ingest makes it",
        (None, true) => "--ingest makes it of the set's documents; --collection names another one",
        (None, false) => "--collection names the one that the questions are about",
    };
    let Some(count) = count.filter(|count| *count > 0) else {
        return Err(wrong!("the collection {name:?} is not there or is empty; {advice}").into());
    };
    if count > LISTED {
        looked.documents.get_or_insert(count);
        looked.notes.push(format!(
            "{name} has {count} documents: it was not looked whether all relevant ones are there."
        ));
        return Ok(());
    }
    let mut held = collection.held().await?;
    if let Some(held_out) = &plan.hold_out {
        let wrongly: Vec<String> =
            held.keys().filter(|id| held_out.leaves_out(plan.dataset.naming, id)).cloned().collect();
        if !wrongly.is_empty() && !eval.ingest {
            return Err(wrong!(
                "{} documents that are to be held out are in {name:?}; --ingest removes them",
                wrongly.len()
            )
            .into());
        }
        for id in wrongly {
            if let Some(document) = held.remove(&id) {
                collection.remove(&document).await.with_context(|| format!("{id:?} could not be removed"))?;
            }
        }
    }
    looked.documents.get_or_insert(held.len() as u64);
    check_relevant(plan, name, &held, looked)?;
    Ok(())
}

/// Whether the documents that the judgements name are in the collection: a name that is written otherwise would count as never found.
fn check_relevant(
    plan: &Plan,
    name: &str,
    held: &BTreeMap<String, Held>,
    looked: &mut Looked,
) -> InputResult<()> {
    let naming = plan.dataset.naming;
    let find = |wanted: &str| {
        held.get_key_value(wanted).or_else(|| held.iter().find(|(id, _)| naming.is(wanted, id)))
    };
    let mut missing = Vec::new();
    let mut relevant: Vec<&str> = plan.questions.iter().flat_map(Question::relevant).collect();
    relevant.sort_unstable();
    relevant.dedup();
    for wanted in &relevant {
        match find(wanted) {
            Some((_, document)) if !document.title.is_empty() => {
                looked.titles.insert((*wanted).to_owned(), document.title.clone());
            }
            Some(_) => {}
            None => missing.push(*wanted),
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    if missing.len() == relevant.len() {
        return Err(wrong!(
            "none of the relevant documents is in the collection {name:?}: the set names {}, the collection has {}",
            examples(&missing),
            examples(&held.keys().map(String::as_str).collect::<Vec<_>>())
        ));
    }
    looked.notes.push(format!(
        "{} of {} relevant documents are not in the collection {name} and cannot be found: {}",
        missing.len(),
        relevant.len(),
        examples(&missing)
    ));
    Ok(())
}
