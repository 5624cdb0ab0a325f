//! What comes in between, and jobs at the same documents.

use raglan_pipeline::{domain::Tenant, ports::DocumentStore};

use crate::{
    parts::Gate,
    rig::{Rig, long, small},
};

/// While a job stands before a gate, the document that it builds on goes; the job begins that document anew, and no other.
async fn disputed(gate: impl Fn(&Rig) -> &Gate) {
    let rig = Rig::new().await;
    rig.ingest(&[long("disputed", 10, 1)]).await;
    let before = rig.live().await["disputed"].clone();
    // It keeps all chunks of before and has one more.
    let (name, text) = long("disputed", 10, 1);
    let text = format!("{text}And one more comes at the very end of all of it.\n");
    let mut documents = small(0..30);
    documents.push((name.clone(), text.clone()));
    let passed = gate(&rig).arrived();
    gate(&rig).close();
    let job = rig.begin(&documents).await;
    gate(&rig).arrivals(passed + 1).await;
    rig.documents.inner.delete(&Tenant::default(), before.id).await.unwrap().unwrap();
    gate(&rig).open();
    let result = job.end().await.unwrap();
    assert_eq!(result.documents.failed, 0, "{result:?}");
    assert_eq!(rig.live().await.len(), 31);
    assert_eq!(rig.text(&name).await.unwrap().trim(), text.trim());
    rig.check_index().await;
    let texts = rig.embedder.texts.lock().unwrap();
    let boxes: Vec<_> = texts.iter().filter(|(text, _)| text.contains("Box number")).collect();
    assert!(boxes.len() == 30 && boxes.iter().all(|(_, times)| **times == 1), "{boxes:?}");
}

#[tokio::test]
async fn a_document_that_went_before_it_was_written_is_begun_anew_and_no_other() {
    disputed(|rig| &rig.documents.stages).await;
}

#[tokio::test]
async fn a_document_that_went_before_it_was_published_is_begun_anew_and_no_other() {
    disputed(|rig| &rig.documents.publishes).await;
}

#[tokio::test]
async fn two_jobs_with_the_same_documents_leave_each_of_them_once_and_whole() {
    let rig = Rig::new().await;
    let edition = |edition| (0..20).map(|n| long(&format!("doc-{n}"), 10, edition)).collect::<Vec<_>>();
    let (one, other) = (rig.begin(&edition(1)).await, rig.begin(&edition(2)).await);
    let (one, other) = (one.end().await.unwrap(), other.end().await.unwrap());
    for result in [&one, &other] {
        let counts = result.documents;
        assert_eq!(counts.created + counts.updated, 20, "{result:?}");
    }
    assert_eq!(rig.live().await.len(), 20);
    for (name, _) in edition(1) {
        let text = rig.text(&name).await.unwrap();
        let of = |edition: u32| text.contains(&format!("edition {edition}"));
        assert!(of(1) != of(2), "{name} is of two editions");
    }
    rig.check_index().await;
}
