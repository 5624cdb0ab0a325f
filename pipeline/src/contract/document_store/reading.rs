//! What readers see: passages, lists, collections.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use futures::future::join_all;

use super::{
    Store,
    fixtures::{Draft, texts},
};
use crate::{
    domain::{ChunkId, Collection, Document, DocumentId, MetadataFilter, Tenant},
    ports::DocumentFilter,
};

async fn ids(store: &Store, id: DocumentId) -> Vec<ChunkId> {
    store.chunk_ids(id).await.unwrap().into_iter().map(|(id, _)| id).collect()
}

pub async fn passages_are_live_and_come_in_the_order_asked(store: Store) {
    let a = Draft::new("a", &["a0", "a1", "a2"]).publish(&*store).await;
    let b = Draft::new("b", &["b0", "b1"]).publish(&*store).await;
    let elsewhere = Draft::new("c", &["c0"]).within("other").publish(&*store).await;
    let (a, b, elsewhere) = (ids(&store, a).await, ids(&store, b).await, ids(&store, elsewhere).await);
    Draft::new("a", &["a0", "a2"]).publish(&*store).await;
    let staged = Draft::new("b", &["b0", "b2"]).build(&*store).await;
    let unpublished = staged.new_chunks[0].id;
    store.stage(vec![staged]).await.unwrap();

    let unknown = ChunkId(uuid::Uuid::new_v4());
    let asked = [b[1], a[1], a[2], elsewhere[0], unknown, unpublished, a[0], b[0]];
    let (tenant, collection) = (Tenant::default(), Collection::default());
    let found = store.passages(&tenant, &collection, &asked).await.unwrap();
    assert_eq!(
        found.iter().map(|passage| passage.text.as_str()).collect::<Vec<_>>(),
        ["b1", "a2", "a0", "b0"]
    );
    assert!(store.passages(&tenant, &collection, &[]).await.unwrap().is_empty());
    let other = Collection::new("other").unwrap();
    let found = store.passages(&tenant, &other, &asked).await.unwrap();
    assert_eq!(found.iter().map(|passage| passage.text.as_str()).collect::<Vec<_>>(), ["c0"]);

    // As many as a deep search asks for.
    let many: Vec<_> = (0..600).map(|i| format!("piece {i}")).collect();
    let pieces: Vec<_> = many.iter().map(String::as_str).collect();
    let large = Draft::new("large", &pieces).publish(&*store).await;
    let mut asked = ids(&store, large).await;
    asked.reverse();
    let found = store.passages(&tenant, &collection, &asked).await.unwrap();
    assert_eq!(found.iter().map(|passage| passage.chunk_id).collect::<Vec<_>>(), asked);
}

pub async fn tenants_do_not_see_each_other(store: Store) {
    let mine = Draft::new("a", &["mine"]).publish(&*store).await;
    let theirs = Draft::new("a", &["theirs"]).of("other").publish(&*store).await;
    let (me, them) = (Tenant::default(), Tenant::new("other").unwrap());
    for (tenant, own, foreign) in [(&me, mine, theirs), (&them, theirs, mine)] {
        assert!(store.get(tenant, own).await.unwrap().is_some());
        assert_eq!(store.get(tenant, foreign).await.unwrap(), None);
        assert_eq!(store.text(tenant, foreign).await.unwrap(), None);
        let both = [ids(&store, own).await, ids(&store, foreign).await].concat();
        let found = store.passages(tenant, &Collection::default(), &both).await.unwrap();
        assert_eq!(found.iter().map(|passage| passage.document_id).collect::<Vec<_>>(), [own]);
        let listed =
            store.list(tenant, &DocumentFilter { limit: 9, ..DocumentFilter::default() }).await.unwrap();
        assert_eq!(listed.iter().map(|document| document.id).collect::<Vec<_>>(), [own]);
        assert_eq!(store.collections(tenant).await.unwrap()[0].documents, 1);
    }
    store.delete_collection(&them, &Collection::default()).await.unwrap().expect("it was there");
    assert_eq!(texts(&*store, mine).await, ["mine"]);
}

pub async fn a_reader_sees_the_old_version_or_the_new_one(store: Store) {
    let pieces = |side: &str| (0..20).map(|i| format!("{side} {i}")).collect::<Vec<_>>();
    let draft = |side: &str| Draft { pieces: pieces(side), ..Draft::new("a", &[]) };
    let id = draft("left").publish(&*store).await;
    let sides = ["left", "right"];
    let all: Vec<_> = sides.iter().flat_map(|side| draft(side).chunks(id)).map(|chunk| chunk.id).collect();
    let over = Arc::new(AtomicBool::new(false));
    let readers = (0..4).map(|_| {
        let (store, over, all) = (Arc::clone(&store), Arc::clone(&over), all.clone());
        let sides = sides.map(pieces);
        tokio::spawn(async move {
            let mut seen = HashSet::new();
            loop {
                let last = over.load(Ordering::SeqCst);
                let found = store.passages(&Tenant::default(), &Collection::default(), &all).await.unwrap();
                let found: Vec<_> = found.into_iter().map(|passage| passage.text).collect();
                let side = sides.iter().position(|side| *side == found);
                seen.insert(side.unwrap_or_else(|| panic!("half of the old and half of the new: {found:?}")));
                let text = store.text(&Tenant::default(), id).await.unwrap().expect("it is always there");
                assert!(sides.iter().any(|side| side.join(" ") == text));
                if last {
                    return seen;
                }
            }
        })
    });
    let readers: Vec<_> = readers.collect();
    for round in 1..=30 {
        draft(sides[round % 2]).publish(&*store).await;
    }
    over.store(true, Ordering::SeqCst);
    for reader in join_all(readers).await {
        assert!(!reader.unwrap().is_empty());
    }
    assert_eq!(texts(&*store, id).await, pieces(sides[0]));
}

fn metadata(json: serde_json::Value) -> MetadataFilter {
    serde_json::from_value(json).unwrap()
}

async fn listed(store: &Store, filter: DocumentFilter) -> Vec<String> {
    let documents = store.list(&Tenant::default(), &filter).await.unwrap();
    documents.into_iter().map(|document| document.external_id).collect()
}

pub async fn documents_are_listed_by_id_and_filtered(store: Store) {
    let drafts = [
        Draft::new("docs/a.md", &["x"]).with("lang", "de").with("year", 2026),
        Draft::new("docs/b.md", &["x"]).with("lang", vec!["en", "fr"]),
        Draft::new("docs_%/c.md", &["x"]).within("other").with("lang", "de"),
        Draft::new("Docs/d.md", &["x"]),
    ];
    let mut published = Vec::new();
    for draft in &drafts {
        published.push(draft.publish(&*store).await);
    }
    published.sort_unstable();
    let all = || DocumentFilter { limit: 10, ..DocumentFilter::default() };
    let documents = store.list(&Tenant::default(), &all()).await.unwrap();
    assert_eq!(documents.iter().map(|document| document.id).collect::<Vec<_>>(), published);
    for document in &documents {
        assert_eq!(store.get(&Tenant::default(), document.id).await.unwrap().as_ref(), Some(document));
    }
    let other = Some(Collection::new("other").unwrap());
    assert_eq!(listed(&store, DocumentFilter { collection: other, ..all() }).await, ["docs_%/c.md"]);
    for (prefix, expected) in [
        ("docs/", vec!["docs/a.md", "docs/b.md"]),
        ("docs_%", vec!["docs_%/c.md"]),
        ("docs/a.md", vec!["docs/a.md"]),
        ("nothing", vec![]),
    ] {
        let filter = DocumentFilter { external_id_prefix: Some(prefix.into()), ..all() };
        assert_eq!(listed(&store, filter).await, expected, "{prefix}");
    }
    for (filter, expected) in [
        (serde_json::json!({"lang": "de"}), vec!["docs/a.md", "docs_%/c.md"]),
        (serde_json::json!({"lang": ["fr", "xx"]}), vec!["docs/b.md"]),
        (serde_json::json!({"lang": "de", "year": 2026}), vec!["docs/a.md"]),
        (serde_json::json!({"year": "2026"}), vec![]),
    ] {
        let filter = DocumentFilter { metadata: metadata(filter), ..all() };
        assert_eq!(listed(&store, filter).await, expected);
    }
}

pub async fn pages_are_filled_and_stable_while_documents_come_in(store: Store) {
    let mut expected = Vec::new();
    for i in 0..40 {
        let parity = if i % 4 == 0 { "rare" } else { "common" };
        let id = Draft::new(&format!("d{i}"), &["x"]).with("kind", parity).publish(&*store).await;
        if parity == "rare" {
            expected.push(id);
        }
    }
    let (mut seen, mut after, mut page_sizes) = (Vec::<Document>::new(), None, Vec::new());
    loop {
        let filter = DocumentFilter {
            metadata: metadata(serde_json::json!({"kind": "rare"})),
            after,
            limit: 3,
            ..DocumentFilter::default()
        };
        let page = store.list(&Tenant::default(), &filter).await.unwrap();
        let Some(last) = page.last() else { break };
        after = Some(last.id);
        page_sizes.push(page.len());
        seen.extend(page);
        let came = format!("came {}", seen.len());
        Draft::new(&came, &["x"]).with("kind", "common").publish(&*store).await;
    }
    assert_eq!(seen.iter().map(|document| document.id).collect::<Vec<_>>(), expected);
    assert_eq!(page_sizes, [3, 3, 3, 1], "a page is filled where there is enough");
    assert!(listed(&store, DocumentFilter::default()).await.is_empty(), "a limit of none is none");
}

pub async fn collections_are_described_and_counted(store: Store) {
    let (tenant, name) = (Tenant::default(), Collection::new("manuals").unwrap());
    assert_eq!(store.collection(&tenant, &name).await.unwrap(), None);
    assert!(store.put_collection(&tenant, &name, "what we print").await.unwrap());
    let made = store.collection(&tenant, &name).await.unwrap().expect("it was made");
    assert_eq!((&made.name, made.description.as_str()), (&name, "what we print"));
    assert_eq!((made.documents, made.chunks), (0, 0));
    assert!(!store.put_collection(&tenant, &name, "what we printed").await.unwrap());

    let draft = Draft::new("a", &["one", "two"]).within("manuals");
    draft.publish(&*store).await;
    Draft::new("b", &["one"]).within("manuals").publish(&*store).await;
    Draft::new("c", &["staged"]).within("manuals").stage(&*store).await;
    Draft::new("d", &["one"]).within("another").publish(&*store).await;
    let counted = store.collection(&tenant, &name).await.unwrap().unwrap();
    assert_eq!((counted.description.as_str(), counted.created_at), ("what we printed", made.created_at));
    assert_eq!((counted.documents, counted.chunks), (2, 3));
    let all = store.collections(&tenant).await.unwrap();
    assert_eq!(all.iter().map(|info| info.name.as_str()).collect::<Vec<_>>(), ["another", "manuals"]);
    assert_eq!(all[1], counted);
    assert!(store.collections(&Tenant::new("other").unwrap()).await.unwrap().is_empty());
}

pub async fn a_collection_goes_with_all_its_documents(store: Store) {
    let (tenant, name) = (Tenant::default(), Collection::new("old").unwrap());
    let gone = Draft::new("a", &["one"]).within("old").publish(&*store).await;
    let staged = Draft::new("b", &["two"]).within("old").stage(&*store).await;
    let kept = Draft::new("a", &["kept"]).publish(&*store).await;
    let position = store.delete_collection(&tenant, &name).await.unwrap().expect("it was there");
    assert_eq!(position, store.head().await.unwrap());
    assert_eq!(store.collection(&tenant, &name).await.unwrap(), None);
    assert_eq!(store.get(&tenant, gone).await.unwrap(), None);
    assert!(store.publish(&[staged]).await.is_err());
    assert_eq!(texts(&*store, kept).await, ["kept"]);
    assert_eq!(super::Replica::fed_from(&*store).await.texts(), ["kept"]);
    assert_eq!(store.delete_collection(&tenant, &name).await.unwrap(), None);
    // One with many documents, in calls at once, and an empty one.
    let mut many = Vec::new();
    for i in 0..450 {
        many.push(Draft::new(&format!("d{i}"), &["one of many"]).within("old").build(&*store).await);
    }
    let staged = store.stage(many).await.unwrap();
    store.publish(&staged).await.unwrap();
    let (one, two) =
        tokio::join!(store.delete_collection(&tenant, &name), store.delete_collection(&tenant, &name));
    assert!(one.unwrap().max(two.unwrap()).is_some());
    assert_eq!(store.collection(&tenant, &name).await.unwrap(), None);
    assert_eq!(super::Replica::fed_from(&*store).await.texts(), ["kept"]);
    store.put_collection(&tenant, &name, "").await.unwrap();
    assert!(store.delete_collection(&tenant, &name).await.unwrap().is_some());
}
