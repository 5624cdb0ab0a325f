//! Resolve, stage, publish, delete, clean.

use std::{collections::HashSet, sync::Arc, time::Duration};

use futures::future::join_all;

use super::{
    Store,
    fixtures::{Draft, passages, publish, texts},
};
use crate::{
    domain::{ChunkCounts, Collection, DocumentId, JobId, Receipt, StagedDocument, Tenant, now},
    ports::{DocumentFilter, ErrorKind, Staged},
};

const HOUR: Duration = Duration::from_secs(3_600);

pub async fn an_external_id_resolves_to_one_id(store: Store) {
    let drafts = [
        Draft::new("a", &[]),
        Draft::new("A", &[]),
        Draft::new("a", &[]).of("other"),
        Draft::new("a", &[]).within("other"),
        Draft::new("ordner/Über uns?.md#1 %2F '\"", &[]),
    ];
    let mut ids = HashSet::new();
    for draft in &drafts {
        let id = draft.resolve(&*store).await;
        assert_eq!(draft.resolve(&*store).await, id);
        ids.insert(id);
    }
    assert_eq!(ids.len(), drafts.len(), "each has its own");
    let id = drafts[0].resolve(&*store).await;
    assert_eq!(store.get(&Tenant::default(), id).await.unwrap(), None, "it was never published");
    assert_eq!(store.delete(&Tenant::default(), id).await.unwrap(), None);
    assert_eq!(drafts[0].resolve(&*store).await, id);
}

pub async fn of_twenty_resolves_at_once_all_get_one_id(store: Store) {
    let resolves = (0..20).map(|_| {
        let store = Arc::clone(&store);
        tokio::spawn(async move { Draft::new("a", &[]).resolve(&*store).await })
    });
    let ids: HashSet<_> = join_all(resolves).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(ids.len(), 1);
}

pub async fn staging_shows_nothing(store: Store) {
    let draft = Draft::new("a", &["one", "two"]);
    let before = store.head().await.unwrap();
    let staged = draft.stage(&*store).await;
    let (tenant, id) = (Tenant::default(), staged.document_id);
    assert_eq!(staged.position, store.head().await.unwrap());
    assert!(staged.position > before);
    assert_eq!(store.get(&tenant, id).await.unwrap(), None);
    assert_eq!(store.text(&tenant, id).await.unwrap(), None);
    assert!(store.chunk_ids(id).await.unwrap().is_empty());
    let all = DocumentFilter { limit: 10, ..DocumentFilter::default() };
    assert!(store.list(&tenant, &all).await.unwrap().is_empty());
    let ids: Vec<_> = draft.chunks(id).iter().map(|chunk| chunk.id).collect();
    assert!(store.passages(&tenant, &draft.collection, &ids).await.unwrap().is_empty());
    let collection = store.collection(&tenant, &draft.collection).await.unwrap().expect("staging makes it");
    assert_eq!((collection.documents, collection.chunks), (0, 0));

    // Beside a live version it changes nothing of that.
    publish(&*store, staged).await;
    let live = store.get(&tenant, id).await.unwrap();
    Draft { title: "Other".into(), ..Draft::new("a", &["two", "three"]) }.stage(&*store).await;
    assert_eq!(store.get(&tenant, id).await.unwrap(), live);
    assert_eq!(store.text(&tenant, id).await.unwrap().as_deref(), Some("one two"));
    assert_eq!(texts(&*store, id).await, ["one", "two"]);
}

pub async fn publishing_shows_the_document_as_it_was_given(store: Store) {
    let before = now();
    let draft =
        Draft::new("a", &["Größe in Metern", "多语言", "🦀 end"]).with("lang", "de").with("n", vec![1, 2]);
    let built = draft.build(&*store).await;
    let staged = store.stage(vec![built.clone()]).await.unwrap()[0];
    let published = publish(&*store, staged).await;
    assert_eq!((published.deleted_chunks, published.superseded), (0, false));
    assert!(published.position >= staged.position);

    let document = store.get(&draft.tenant, staged.document_id).await.unwrap().expect("it is live");
    assert_eq!((document.version, document.chunks), (staged.version, 3));
    assert!(document.created_at >= before && document.updated_at <= now());
    let mut given = built.document;
    (given.version, given.chunks) = (document.version, document.chunks);
    (given.created_at, given.updated_at) = (document.created_at, document.updated_at);
    assert_eq!(document, given);

    let text = store.text(&draft.tenant, document.id).await.unwrap().expect("it has a text");
    assert_eq!(text, draft.text());
    let characters: Vec<char> = text.chars().collect();
    let found = passages(&*store, document.id).await;
    assert_eq!(found.len(), 3);
    for (passage, chunk) in found.iter().zip(draft.chunks(document.id)) {
        assert_eq!((passage.chunk_id, passage.document_id), (chunk.id, document.id));
        assert_eq!((&passage.text, &passage.heading_path), (&chunk.text, &chunk.heading_path));
        assert_eq!((passage.ordinal, passage.start, passage.end), {
            let place = chunk.place;
            (place.ordinal, place.start, place.end)
        });
        assert_eq!(characters[passage.start..passage.end].iter().collect::<String>(), passage.text);
        assert_eq!((&passage.external_id, &passage.title), (&document.external_id, &document.title));
        assert_eq!((&passage.uri, &passage.metadata), (&document.uri, &document.metadata));
    }
    let models: Vec<_> =
        store.chunk_ids(document.id).await.unwrap().into_iter().map(|(_, model)| model).collect();
    assert_eq!(models, vec![Some("m1".to_owned()); 3]);
}

pub async fn an_update_keeps_what_did_not_change(store: Store) {
    let id = Draft::new("a", &["one", "two", "two", "three"]).publish(&*store).await;
    let before = store.get(&Tenant::default(), id).await.unwrap().unwrap();
    let ids: Vec<_> = store.chunk_ids(id).await.unwrap();

    let update = Draft::new("a", &["zero", "three", "two", "one"]);
    let built = update.build(&*store).await;
    assert_eq!((built.new_chunks.len(), built.kept_chunks.len()), (1, 3));
    let staged = store.stage(vec![built]).await.unwrap()[0];
    let published = publish(&*store, staged).await;
    assert_eq!((published.deleted_chunks, published.superseded), (1, false), "the second `two` went");

    let after = store.get(&Tenant::default(), id).await.unwrap().unwrap();
    assert_eq!(after.version, staged.version);
    assert!(after.version > before.version);
    assert_eq!((after.created_at, after.chunks), (before.created_at, 4));
    assert!(after.updated_at >= before.updated_at);
    let found = passages(&*store, id).await;
    let seen: Vec<_> = found.iter().map(|p| (p.text.as_str(), p.ordinal, p.start, p.end)).collect();
    assert_eq!(seen, [("zero", 0, 0, 4), ("three", 1, 5, 10), ("two", 2, 11, 14), ("one", 3, 15, 18)]);
    assert_eq!(found[3].chunk_id, ids[0].0, "an unchanged chunk keeps its id");
    assert_eq!(found[2].chunk_id, ids[1].0);

    // A document may become empty, and full again.
    Draft::new("a", &[]).publish(&*store).await;
    assert_eq!(store.get(&Tenant::default(), id).await.unwrap().unwrap().chunks, 0);
    assert_eq!(store.text(&Tenant::default(), id).await.unwrap().as_deref(), Some(""));
    Draft::new("a", &["one"]).publish(&*store).await;
    assert_eq!(texts(&*store, id).await, ["one"]);
}

pub async fn publishing_twice_is_publishing_once(store: Store) {
    Draft::new("a", &["one"]).publish(&*store).await;
    let staged = Draft::new("a", &["two"]).stage(&*store).await;
    assert_eq!(publish(&*store, staged).await.deleted_chunks, 1);
    let document = store.get(&Tenant::default(), staged.document_id).await.unwrap();
    let head = store.head().await.unwrap();
    // As a worker does that died before it could note the first.
    let again = publish(&*store, staged).await;
    assert_eq!((again.deleted_chunks, again.superseded, again.position), (0, false, head));
    assert_eq!(store.get(&Tenant::default(), staged.document_id).await.unwrap(), document);
    assert_eq!(store.head().await.unwrap(), head);
}

pub async fn an_older_version_is_superseded_and_leaves_nothing(store: Store) {
    let id = Draft::new("a", &["base"]).publish(&*store).await;
    let older = Draft::new("a", &["base", "older"]).stage(&*store).await;
    let newer = Draft::new("a", &["base", "newer"]).stage(&*store).await;
    assert!(older.version < newer.version);
    assert!(!publish(&*store, newer).await.superseded);
    let published = publish(&*store, older).await;
    assert_eq!((published.superseded, published.deleted_chunks), (true, 0));
    assert_eq!(texts(&*store, id).await, ["base", "newer"]);
    let held: HashSet<_> = super::Replica::fed_from(&*store).await.texts().into_iter().collect();
    assert_eq!(held, HashSet::from(["base".to_owned(), "newer".to_owned()]), "no chunk of `older` is left");
}

pub async fn many_documents_are_staged_and_published_together(store: Store) {
    let drafts: Vec<_> =
        (0..30).map(|i| Draft::new(&format!("d{i}"), &["same", &format!("own {i}")])).collect();
    let mut built = Vec::new();
    for draft in &drafts {
        built.push(draft.build(&*store).await);
    }
    let staged = store.stage(built).await.unwrap();
    let published = store.publish(&staged).await.unwrap();
    assert_eq!((staged.len(), published.len()), (30, 30));
    for (draft, staged) in drafts.iter().zip(&staged) {
        assert_eq!(
            staged.document_id,
            draft.resolve(&*store).await,
            "the answers come in the order of the questions"
        );
        assert_eq!(texts(&*store, staged.document_id).await, draft.pieces);
    }
    assert!(staged.iter().chain([&staged[29]]).all(|staged| staged.position <= published[29].position));
    assert!(store.stage(Vec::new()).await.unwrap().is_empty());
    assert!(store.publish(&[]).await.unwrap().is_empty());
}

pub async fn a_batch_is_published_whole_or_not_at_all(store: Store) {
    let good = Draft::new("good", &["good"]).stage(&*store).await;
    let missing = Staged { document_id: DocumentId::generate(), ..good };
    assert_eq!(store.publish(&[good, missing]).await.unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(store.get(&Tenant::default(), good.document_id).await.unwrap(), None);
    publish(&*store, good).await;
    assert_eq!(texts(&*store, good.document_id).await, ["good"]);

    // The same for staging: the second of these keeps a chunk that there never was.
    let mut bad = Draft::new("bad", &["bad"]).build(&*store).await;
    let chunk = bad.new_chunks.pop().unwrap();
    bad.kept_chunks.push((chunk.id, chunk.place));
    let fine = Draft::new("fine", &["fine"]).build(&*store).await;
    let head = store.head().await.unwrap();
    assert_eq!(store.stage(vec![fine, bad]).await.unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(store.head().await.unwrap(), head, "nothing was written");
}

/// Two jobs take the same document in: one reads what is there, the other publishes in between.
pub async fn keeping_a_chunk_that_has_gone_is_a_conflict(store: Store) {
    let id = Draft::new("a", &["keep", "drop"]).publish(&*store).await;
    let planned = Draft::new("a", &["keep", "drop", "mine"]).build(&*store).await;
    assert_eq!(planned.kept_chunks.len(), 2);
    Draft::new("a", &["keep", "theirs"]).publish(&*store).await;
    let head = store.head().await.unwrap();
    let error = store.stage(vec![planned]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert_eq!(store.head().await.unwrap(), head, "nothing was written");
    assert_eq!(texts(&*store, id).await, ["keep", "theirs"]);
    // Made anew, it goes in.
    Draft::new("a", &["keep", "drop", "mine"]).publish(&*store).await;
    assert_eq!(texts(&*store, id).await, ["keep", "drop", "mine"]);
}

pub async fn what_a_staged_version_keeps_cannot_be_taken_from_it(store: Store) {
    let id = Draft::new("a", &["keep", "drop"]).publish(&*store).await;
    let theirs = Draft::new("a", &["keep", "theirs"]).stage(&*store).await;
    let mine = Draft::new("a", &["drop", "mine"]).stage(&*store).await;
    assert_eq!(publish(&*store, theirs).await.deleted_chunks, 0, "the other staged version has it yet");
    assert_eq!(texts(&*store, id).await, ["keep", "theirs"]);
    let published = publish(&*store, mine).await;
    assert_eq!((published.superseded, published.deleted_chunks), (false, 2));
    assert_eq!(texts(&*store, id).await, ["drop", "mine"]);
}

pub async fn publishing_what_was_deleted_is_a_conflict(store: Store) {
    let id = Draft::new("a", &["one"]).publish(&*store).await;
    let planned = Draft::new("a", &["two"]).build(&*store).await;
    let staged = Draft::new("a", &["one", "two"]).stage(&*store).await;
    store.delete(&Tenant::default(), id).await.unwrap().expect("it was there");
    assert_eq!(store.publish(&[staged]).await.unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(store.get(&Tenant::default(), id).await.unwrap(), None);
    // One that was only planned is a new document now. What was staged before the delete is not taken for it.
    let anew = store.stage(vec![planned]).await.unwrap()[0];
    assert_eq!(store.publish(&[staged]).await.unwrap_err().kind(), ErrorKind::Conflict);
    publish(&*store, anew).await;
    assert_eq!(texts(&*store, anew.document_id).await, ["two"]);
}

pub async fn what_a_job_did_is_kept_with_the_live_version(store: Store) {
    let (first, second) = (JobId::generate(), JobId::generate());
    let stage = async |draft: &Draft, job: Option<JobId>, tokens: u64| {
        let built = StagedDocument { job, tokens, ..draft.build(&*store).await };
        store.stage(vec![built]).await.unwrap()[0]
    };
    let staged = stage(&Draft::new("a", &["one", "two", "three"]), Some(first), 30).await;
    let id = staged.document_id;
    assert_eq!(store.receipt(id).await.unwrap(), None, "it is not live");
    assert!(publish(&*store, staged).await.created);
    let chunks = ChunkCounts { embedded: 3, unchanged: 0, deleted: 0 };
    let receipt = Receipt { job: first, created: true, chunks, tokens: 30 };
    assert_eq!(store.receipt(id).await.unwrap(), Some(receipt));

    let update = Draft::new("a", &["one", "four"]);
    let staged = stage(&update, Some(second), 10).await;
    assert_eq!(store.receipt(id).await.unwrap(), Some(receipt), "still the first one's");
    let published = publish(&*store, staged).await;
    assert!(!published.created);
    let chunks = ChunkCounts { embedded: 1, unchanged: 1, deleted: 2 };
    let updated = Receipt { job: second, created: false, chunks, tokens: 10 };
    assert_eq!(store.receipt(id).await.unwrap(), Some(updated));
    publish(&*store, staged).await;
    assert_eq!(store.receipt(id).await.unwrap(), Some(updated), "published twice");

    // Two that were staged before either was live: only one of them made the document.
    let (one, other) = (Draft::new("b", &["one"]), Draft::new("b", &["other"]));
    let (one, other) = (stage(&one, Some(first), 1).await, stage(&other, Some(second), 1).await);
    assert!(publish(&*store, one).await.created && !publish(&*store, other).await.created);
    assert!(!store.receipt(other.document_id).await.unwrap().unwrap().created);

    let nobody = stage(&Draft::new("a", &["five"]), None, 0).await;
    publish(&*store, nobody).await;
    assert_eq!(store.receipt(id).await.unwrap(), None);
    store.delete(&Tenant::default(), id).await.unwrap();
    assert_eq!(store.receipt(id).await.unwrap(), None);
}

pub async fn a_version_of_an_earlier_job_does_not_replace_that_of_a_later_one(store: Store) {
    let (earlier, later) = (JobId::generate(), JobId::generate());
    let stage = async |pieces: &[&str], job: JobId| {
        let built = StagedDocument { job: Some(job), ..Draft::new("a", pieces).build(&*store).await };
        store.stage(vec![built]).await.unwrap()[0]
    };
    let staged = stage(&["one", "new"], later).await;
    let id = staged.document_id;
    assert!(!publish(&*store, staged).await.superseded);
    // The earlier job was slower.
    let staged = stage(&["one", "old"], earlier).await;
    let published = publish(&*store, staged).await;
    assert!(published.superseded && !published.created);
    assert_eq!(texts(&*store, id).await, ["one", "new"]);
    assert_eq!(store.receipt(id).await.unwrap().map(|receipt| receipt.job), Some(later));
    assert_eq!(store.clean(Duration::ZERO).await.unwrap(), 0, "nothing of it is left");
    // The same job again, and one that nobody named, replace it as ever.
    let again = stage(&["one", "newer"], later).await;
    assert!(!publish(&*store, again).await.superseded);
    let draft = Draft::new("a", &["two"]);
    draft.publish(&*store).await;
    assert_eq!(texts(&*store, id).await, ["two"]);
}

pub async fn a_document_that_names_a_chunk_twice_is_refused(store: Store) {
    let mut twice = Draft::new("a", &["one"]).build(&*store).await;
    twice.new_chunks.push(twice.new_chunks[0].clone());
    assert_eq!(store.stage(vec![twice]).await.unwrap_err().kind(), ErrorKind::Invalid);
    assert!(store.changes(0, 10).await.unwrap().is_empty());
}

pub async fn a_deleted_document_is_gone_for_all_readers(store: Store) {
    let draft = Draft::new("a", &["one", "two"]);
    let id = draft.publish(&*store).await;
    let kept = Draft::new("b", &["one"]).publish(&*store).await;
    let tenant = Tenant::default();
    let ids: Vec<_> = draft.chunks(id).iter().map(|chunk| chunk.id).collect();
    assert_eq!(store.delete(&Tenant::new("other").unwrap(), id).await.unwrap(), None, "not theirs");
    assert_eq!(texts(&*store, id).await.len(), 2);

    let position = store.delete(&tenant, id).await.unwrap().expect("it was there");
    assert_eq!(position, store.head().await.unwrap());
    assert_eq!(store.get(&tenant, id).await.unwrap(), None);
    assert_eq!(store.text(&tenant, id).await.unwrap(), None);
    assert!(store.chunk_ids(id).await.unwrap().is_empty());
    assert!(store.passages(&tenant, &draft.collection, &ids).await.unwrap().is_empty());
    let listed =
        store.list(&tenant, &DocumentFilter { limit: 10, ..DocumentFilter::default() }).await.unwrap();
    assert_eq!(listed.iter().map(|document| document.id).collect::<Vec<_>>(), [kept]);
    assert_eq!(store.delete(&tenant, id).await.unwrap(), None);
    assert_eq!(store.delete(&tenant, DocumentId::generate()).await.unwrap(), None);

    let again = draft.publish(&*store).await;
    assert_eq!(texts(&*store, again).await, ["one", "two"]);
}

pub async fn of_two_jobs_at_once_on_one_document_one_stays_whole(store: Store) {
    for round in 0..10 {
        let jobs = ["left", "right"].map(|side| {
            let store = Arc::clone(&store);
            let own = format!("{side} {round}");
            tokio::spawn(async move {
                let draft = Draft::new("a", &["shared", &own, &format!("{own} too")]);
                // As ingestion does: a conflict means to begin anew.
                loop {
                    let built = draft.build(&*store).await;
                    let tried = match store.stage(vec![built]).await {
                        Ok(staged) => store.publish(&staged).await.map(|published| (staged[0], published[0])),
                        Err(error) => Err(error),
                    };
                    match tried {
                        Ok((staged, published)) => return (draft, staged, published),
                        Err(error) => assert_eq!(error.kind(), ErrorKind::Conflict, "{error}"),
                    }
                }
            })
        });
        let done: Vec<_> = join_all(jobs).await.into_iter().map(Result::unwrap).collect();
        let (winner, staged, _) = done
            .iter()
            .filter(|(_, _, published)| !published.superseded)
            .max_by_key(|(_, staged, _)| staged.version)
            .expect("one is live");
        assert_eq!(texts(&*store, staged.document_id).await, winner.pieces);
        let mut held = super::Replica::fed_from(&*store).await.texts();
        let mut expected = winner.pieces.clone();
        held.sort();
        expected.sort();
        assert_eq!(held, expected, "the loser left nothing");
    }
}

pub async fn staged_versions_nobody_published_are_cleaned_away(store: Store) {
    let live = Draft::new("live", &["kept"]).publish(&*store).await;
    let left = Draft::new("live", &["kept", "left"]).stage(&*store).await;
    let never = Draft::new("never", &["orphan"]).stage(&*store).await;
    assert_eq!(store.clean(HOUR).await.unwrap(), 0, "they may yet be published");
    assert_eq!(store.clean(Duration::ZERO).await.unwrap(), 2);
    assert_eq!(store.clean(Duration::ZERO).await.unwrap(), 0);
    for gone in [left, never] {
        assert_eq!(store.publish(&[gone]).await.unwrap_err().kind(), ErrorKind::Conflict);
    }
    assert_eq!(texts(&*store, live).await, ["kept"]);
    assert_eq!(super::Replica::fed_from(&*store).await.texts(), ["kept"]);
    // The way is free for what comes next.
    let again = Draft::new("never", &["orphan"]).publish(&*store).await;
    assert_eq!(texts(&*store, again).await, ["orphan"]);
    let collection = store.collection(&Tenant::default(), &Collection::default()).await.unwrap().unwrap();
    assert_eq!((collection.documents, collection.chunks), (2, 2));
}
