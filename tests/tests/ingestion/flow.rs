//! What overlaps, and what is bounded.

use std::time::Duration;

use raglan_pipeline::{
    domain::{Collection, JobStatus, Tenant},
    ingestion::IngestionLimits,
    ports::DocumentStore,
};
use tokio::time::timeout;

use crate::{
    parts::{PATIENCE, reached},
    rig::{Rig, long, small},
};

#[tokio::test]
async fn documents_are_embedded_while_the_index_takes_in_those_before_them() {
    let rig = Rig::new().await;
    rig.replica.gate.close();
    let job = rig.begin(&small(0..300)).await;
    // The index stands still over the first documents …
    rig.replica.gate.arrivals(1).await;
    // … and all the others are embedded and written meanwhile.
    reached(&rig.embedder.asked, |asked| *asked == 300).await;
    rig.documents.stages.arrivals(4).await;
    assert_eq!(*rig.documents.published.borrow(), 0, "nothing is shown before searches find it");
    rig.replica.gate.open();
    assert_eq!(job.end().await.unwrap().documents.created, 300);
    rig.check_index().await;
}

#[tokio::test]
async fn documents_are_embedded_while_those_before_them_are_written_and_published() {
    let rig = Rig::new().await;
    rig.documents.stages.close();
    let job = rig.begin(&small(0..300)).await;
    rig.documents.stages.arrivals(1).await;
    reached(&rig.embedder.asked, |asked| *asked == 300).await;
    rig.documents.publishes.close();
    rig.documents.stages.open();
    rig.documents.publishes.arrivals(1).await;
    rig.documents.stages.arrivals(4).await;
    rig.documents.publishes.open();
    assert_eq!(job.end().await.unwrap().documents.created, 300);
}

/// What is being looked up when nobody takes what was prepared comes to its end, and does not keep its turn at the store.
#[tokio::test]
async fn documents_that_wait_to_be_embedded_keep_no_turn_at_the_store() {
    let rig = Rig::new().await;
    // So nearly all that is being prepared stands in line for its look-up.
    *rig.documents.lookup.lock().unwrap() = Duration::from_millis(1);
    rig.embedder.gate.close();
    let job = rig.begin(&small(0..2_000)).await;
    // Everything between reading and embedding is full when no more is read for a while.
    let mut read = 0;
    while read == 0 || *rig.parser.parsed.borrow() > read {
        read = *rig.parser.parsed.borrow();
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert!(read < 2_000, "nothing is full");
    let (tenant, collection) = (Tenant::default(), Collection::default());
    let looked_up = rig.documents.resolve(&tenant, &collection, "of another job");
    timeout(PATIENCE, looked_up).await.expect("its turn does not come").unwrap();
    *rig.documents.lookup.lock().unwrap() = Duration::ZERO;
    rig.embedder.gate.open();
    assert_eq!(job.end().await.unwrap().documents.created, 2_000);
}

#[tokio::test]
async fn the_embedder_has_many_texts_across_documents_and_never_more_than_allowed() {
    let limits = IngestionLimits { embedding_texts: 200, ..IngestionLimits::default() };
    let rig = Rig::with(limits).await;
    rig.embedder.gate.close();
    let one = rig.begin(&small(0..500)).await;
    let other = rig.begin(&[long("long", 500, 1)]).await;
    // Whole calls only: as many as fit.
    reached(&rig.embedder.inside, |(now, _)| *now > 200 - 32).await;
    rig.embedder.gate.open();
    assert_eq!(one.end().await.unwrap().documents.created, 500);
    assert_eq!(other.end().await.unwrap().documents.created, 1);
    let (left, most) = *rig.embedder.inside.borrow();
    assert!(left == 0 && most <= 200, "{left}, at most {most}");
}

#[tokio::test]
async fn jobs_at_once_get_the_embedder_in_turn() {
    let limits = IngestionLimits { embedding_texts: 64, ..IngestionLimits::default() };
    let rig = Rig::with(limits).await;
    rig.embedder.gate.close();
    let great = rig.begin(&[long("great", 6_000, 1)]).await;
    reached(&rig.embedder.inside, |(now, _)| *now > 32).await;
    let little = rig.begin(&small(0..2)).await;
    reached(&rig.parser.parsed, |parsed| *parsed == 3).await;
    // Call by call, until it has ended; the great one has two hundred to go.
    let mut end = std::pin::pin!(little.end());
    let ended = loop {
        tokio::select! {
            ended = &mut end => break ended,
            () = rig.embedder.gate.let_through() => {}
        }
    };
    assert_eq!(ended.unwrap().documents.created, 2);
    assert_eq!(*rig.documents.published.borrow(), 2, "the great one is far from its end");
    rig.embedder.gate.open();
    assert_eq!(great.end().await.unwrap().documents.created, 1);
}

#[tokio::test]
async fn what_is_on_its_way_is_bounded_by_memory() {
    // Room for 16 small documents, since each counts for 64 KiB at least.
    let limits = IngestionLimits { memory_bytes: 1 << 20, ..IngestionLimits::default() };
    let rig = Rig::with(limits).await;
    rig.documents.publishes.close();
    let job = rig.begin(&small(0..100)).await;
    reached(&rig.parser.parsed, |parsed| *parsed == 16).await;
    // All of them came to where they wait, and no other was read for it.
    rig.documents.publishes.arrivals(1).await;
    assert_eq!(*rig.parser.parsed.borrow(), 16);
    rig.documents.publishes.allow(1);
    reached(&rig.documents.published, |published| *published > 0).await;
    rig.documents.publishes.arrivals(2).await;
    let (parsed, published) = (*rig.parser.parsed.borrow(), *rig.documents.published.borrow());
    assert!(parsed <= published + 16, "{parsed} read, {published} published");
    rig.documents.publishes.open();
    assert_eq!(job.end().await.unwrap().documents.created, 100);
}

#[tokio::test]
async fn a_slow_file_holds_up_no_other() {
    let limits = IngestionLimits { readers: 2, ..IngestionLimits::default() };
    let rig = Rig::with(limits).await;
    let mut documents = small(0..50);
    documents.insert(0, ("slow.slow".to_owned(), "It takes its time.".to_owned()));
    rig.parser.hold_name("slow.slow");
    let job = rig.begin(&documents).await;
    reached(&rig.documents.published, |published| *published == 50).await;
    rig.parser.release();
    assert_eq!(job.end().await.unwrap().documents.created, 51);
}

#[tokio::test]
async fn a_document_of_very_many_chunks_is_taken_in_whole() {
    const CHUNKS: usize = 20_000;
    let rig = Rig::new().await;
    let result = rig.ingest(&[long("great", CHUNKS, 1), long("little", 3, 1)]).await;
    assert_eq!(result.documents.created, 2);
    assert!(result.chunks.embedded >= CHUNKS as u64, "{result:?}");
    let (_, most) = *rig.embedder.inside.borrow();
    assert!(most <= IngestionLimits::default().embedding_texts, "{most}");
    rig.check_index().await;
}

#[tokio::test]
async fn progress_tells_documents_chunks_tokens_and_statuses_in_order() {
    let rig = Rig::new().await;
    let id = rig.accept(&small(0..100)).await;
    let job = rig.run(id).await;
    let reports = job.reports.clone();
    let result = job.end().await.unwrap();
    let last = reports.borrow().clone();
    let progress = last.progress.unwrap();
    assert_eq!((progress.done, progress.total, progress.chunks), (100, 100, 100));
    assert_eq!(last.status, Some(JobStatus::Indexing));
    let tokens: u64 =
        rig.embedder.texts.lock().unwrap().keys().map(|text| text.split_whitespace().count() as u64).sum();
    assert!(progress.tokens >= tokens, "{} of {tokens}", progress.tokens);
    assert_eq!(result.tokens, progress.tokens);

    let events = rig.events(id).await;
    let statuses: Vec<&str> = events.iter().map(|event| event["status"].as_str().unwrap()).collect();
    let mut in_order = statuses.clone();
    in_order.dedup();
    assert_eq!(in_order, ["parsing", "embedding", "indexing"]);
    for event in &events {
        assert!(event["eta_ms"].is_null() || event["eta_ms"].is_u64(), "{event}");
        assert_eq!(event["progress"]["total"], 100);
    }
    let done: Vec<u64> = events.iter().map(|event| event["progress"]["done"].as_u64().unwrap()).collect();
    assert!(done.is_sorted() && done.last() == Some(&100), "{done:?}");
}
