//! Cancels, failures and what comes after them.

use std::sync::atomic::Ordering;

use raglan_pipeline::stage::StageError;

use crate::{
    parts::reached,
    rig::{Rig, long, small},
};

/// Brings a job to where it waits, cancels it, and looks that it leaves at once and can be begun again.
async fn cancelled_at(close: impl Fn(&Rig), waits: impl AsyncFn(&Rig), open: impl Fn(&Rig)) {
    let rig = Rig::new().await;
    close(&rig);
    let id = rig.accept(&small(0..40)).await;
    let job = rig.run(id).await;
    waits(&rig).await;
    job.cancel.cancel();
    // The gate is still closed: nothing that it waits for has come.
    assert!(matches!(job.end().await, Err(StageError::Cancelled)));
    open(&rig);
    let result = rig.run(id).await.end().await.unwrap();
    assert_eq!(result.documents.created, 40, "{result:?}");
    assert_eq!(rig.live().await.len(), 40);
    rig.check_index().await;
}

#[tokio::test]
async fn a_cancel_is_noticed_while_files_are_read() {
    let read = async |rig: &Rig| reached(&rig.parser.parsed, |parsed| *parsed > 0).await;
    cancelled_at(|rig| rig.parser.hold(), read, |rig| rig.parser.release()).await;
}

#[tokio::test]
async fn a_cancel_is_noticed_while_texts_are_embedded() {
    let asked = async |rig: &Rig| rig.embedder.gate.arrivals(1).await;
    cancelled_at(|rig| rig.embedder.gate.close(), asked, |rig| rig.embedder.gate.open()).await;
}

#[tokio::test]
async fn a_cancel_is_noticed_while_documents_are_written() {
    let written = async |rig: &Rig| rig.documents.stages.arrivals(1).await;
    cancelled_at(|rig| rig.documents.stages.close(), written, |rig| rig.documents.stages.open()).await;
}

#[tokio::test]
async fn a_cancel_is_noticed_while_the_index_catches_up() {
    let applied = async |rig: &Rig| rig.replica.gate.arrivals(1).await;
    cancelled_at(|rig| rig.replica.gate.close(), applied, |rig| rig.replica.gate.open()).await;
}

#[tokio::test]
async fn a_cancel_is_noticed_while_documents_are_published() {
    let published = async |rig: &Rig| rig.documents.publishes.arrivals(1).await;
    cancelled_at(|rig| rig.documents.publishes.close(), published, |rig| rig.documents.publishes.open())
        .await;
}

#[tokio::test]
async fn what_was_published_before_the_embedder_failed_is_not_done_again() {
    let rig = Rig::new().await;
    let id = rig.accept(&small(0..400)).await;
    rig.embedder.gate.close();
    rig.embedder.gate.allow(5);
    let job = rig.run(id).await;
    reached(&rig.documents.published, |published| *published > 0).await;
    rig.embedder.fails_after.store(0, Ordering::SeqCst);
    rig.embedder.gate.open();
    let error = job.end().await.unwrap_err();
    assert!(matches!(&error, StageError::Retry { .. }), "{error:?}");
    let embedded = rig.embedder.texts.lock().unwrap().len() as u64;
    let before = rig.live().await.len() as u64;
    assert!(before > 0);
    rig.embedder.fails_after.store(u64::MAX, Ordering::SeqCst);
    let result = rig.run(id).await.end().await.unwrap();
    assert_eq!((result.documents.created, result.chunks.embedded), (400, 400), "{result:?}");
    let texts = rig.embedder.texts.lock().unwrap().clone();
    assert_eq!(texts.len(), 400);
    let again: u64 = texts.values().map(|times| u64::from(*times) - 1).sum();
    assert!(
        again <= embedded - before,
        "{again} of {embedded} texts were embedded again, {before} were done"
    );
    rig.check_index().await;
}

#[tokio::test]
async fn a_job_that_is_begun_again_skips_what_is_done_and_counts_it_once() {
    let rig = Rig::new().await;
    rig.ingest(&[long("old", 20, 1)]).await;
    let mut documents = small(0..130);
    documents.push(long("old", 20, 2));
    let id = rig.accept(&documents).await;
    rig.documents.publishes.close();
    rig.documents.publishes.allow(1);
    let job = rig.run(id).await;
    rig.documents.publishes.arrivals(3).await;
    job.cancel.cancel();
    assert!(job.end().await.is_err());
    rig.documents.publishes.open();
    let done = rig.live().await.values().filter(|document| document.external_id != "old").count();
    assert!(done > 0);
    let result = rig.run(id).await.end().await.unwrap();
    let counts = result.documents;
    assert_eq!(
        (counts.created, counts.updated, counts.unchanged, counts.failed),
        (130, 1, 0, 0),
        "{result:?}"
    );
    assert_eq!(rig.live().await.len(), 131);
    rig.check_index().await;
}

#[tokio::test]
async fn a_retried_job_counts_as_unchanged_what_others_wrote() {
    let rig = Rig::new().await;
    let id = rig.accept(&small(0..10)).await;
    // Accepted before, begun after.
    rig.ingest(&small(0..4)).await;
    rig.embedder.gate.close();
    let job = rig.run(id).await;
    rig.embedder.gate.arrivals(rig.embedder.gate.arrived() + 1).await;
    job.cancel.cancel();
    assert!(job.end().await.is_err());
    rig.embedder.gate.open();
    let result = rig.run(id).await.end().await.unwrap();
    assert_eq!((result.documents.created, result.documents.unchanged), (6, 4), "{result:?}");
    assert_eq!((result.chunks.embedded, result.chunks.unchanged), (6, 4), "{result:?}");
}

#[tokio::test]
async fn a_retried_update_is_counted_as_it_was_done() {
    let rig = Rig::new().await;
    rig.ingest(&[long("one", 10, 1)]).await;
    let old = rig.live().await["one"].chunks;
    // One paragraph more; the others stay.
    let (name, text) = long("one", 10, 1);
    let id = rig
        .accept(&[
            (name, format!("{text}And this comes as the last of all of them.\n")),
            ("b".into(), "Blocks.".into()),
        ])
        .await;
    rig.parser.hold_name("b");
    let job = rig.run(id).await;
    reached(&rig.documents.published, |published| *published == 2).await;
    job.cancel.cancel();
    assert!(job.end().await.is_err());
    rig.parser.release();
    let result = rig.run(id).await.end().await.unwrap();
    assert_eq!((result.documents.updated, result.documents.created), (1, 1), "{result:?}");
    let live = &rig.live().await["one"];
    assert_eq!(result.chunks.embedded + result.chunks.unchanged, live.chunks + 1, "{result:?}");
    assert!(result.chunks.unchanged > 0 && result.chunks.unchanged <= old, "{result:?}");
    assert!(result.chunks.embedded >= 2, "{result:?}");
}

#[tokio::test]
async fn files_that_cannot_be_read_are_told_in_their_order_and_the_others_go_on() {
    let rig = Rig::new().await;
    let mut documents = small(0..20);
    for n in [3, 9, 15] {
        documents[n].1 = " ".to_owned();
    }
    let result = rig.ingest(&documents).await;
    assert_eq!((result.documents.created, result.documents.failed), (17, 3));
    let failed: Vec<&str> = result.failures.iter().map(|failure| failure.external_id.as_str()).collect();
    assert_eq!(failed, ["doc-3", "doc-9", "doc-15"]);
    assert!(result.failures.iter().all(|failure| failure.code == "empty"), "{result:?}");
}
