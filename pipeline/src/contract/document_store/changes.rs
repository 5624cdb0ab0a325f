//! The change log, and that replaying it gives what the store holds.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};

use super::{
    Store,
    fixtures::{Draft, cosine, embedding, publish, texts},
};
use crate::{
    domain::{
        Change, ChangeKind, ChunkId, Collection, DocumentId, LogPosition, Metadata, StagedDocument, Tenant,
    },
    ports::{DocumentFilter, DocumentStore, ErrorKind, Staged},
};

/// A replica as simple as can be: what an index that follows the log must hold.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Replica {
    position: LogPosition,
    chunks: BTreeMap<ChunkId, Held>,
}

#[derive(Debug, Clone, PartialEq)]
struct Held {
    document_id: DocumentId,
    tenant: Tenant,
    collection: Collection,
    title: String,
    uri: Option<String>,
    metadata: Metadata,
    text: String,
    model: Option<String>,
}

impl Replica {
    /// One that has read the whole log.
    pub async fn fed_from(store: &dyn DocumentStore) -> Self {
        let mut replica = Self::default();
        replica.follow(store, 1_000).await;
        replica
    }

    /// The texts it holds.
    #[must_use]
    pub fn texts(&self) -> Vec<String> {
        self.chunks.values().map(|held| held.text.clone()).collect()
    }

    /// Reads on, in pages of about `limit`, up to the head.
    pub async fn follow(&mut self, store: &dyn DocumentStore, limit: usize) {
        if self.position != 0 && self.position < store.horizon().await.unwrap() {
            *self = Self::default();
        }
        loop {
            let page = store.changes(self.position, limit).await.unwrap();
            if page.is_empty() {
                break;
            }
            for change in page {
                self.apply(change);
            }
        }
        assert_eq!(self.position, store.head().await.unwrap(), "who follows the log arrives at its head");
    }

    fn apply(&mut self, change: Change) {
        assert!(change.position > self.position, "positions only grow");
        self.position = change.position;
        match change.kind {
            ChangeKind::PutChunks { document, chunks } => {
                assert!(!chunks.is_empty());
                for chunk in chunks {
                    let held = Held {
                        document_id: document.id,
                        tenant: document.tenant.clone(),
                        collection: document.collection.clone(),
                        title: document.title.clone(),
                        uri: document.uri.clone(),
                        metadata: document.metadata.clone(),
                        text: chunk.text.clone(),
                        model: chunk.embedding.as_ref().map(|embedding| embedding.model.clone()),
                    };
                    assert_eq!(chunk.heading_path, ["Part".to_owned(), format!("About {}", chunk.text)]);
                    if let Some(stored) = chunk.embedding {
                        let expected = embedding(&stored.model, &chunk.text);
                        assert!(
                            cosine(&stored.vector, &expected.vector) > 0.999,
                            "the vector of {}",
                            chunk.text
                        );
                    }
                    self.chunks.insert(chunk.id, held);
                }
            }
            ChangeKind::PutDocument { document } => {
                for held in self.chunks.values_mut().filter(|held| held.document_id == document.id) {
                    held.title = document.title.clone();
                    held.uri = document.uri.clone();
                    held.metadata = document.metadata.clone();
                }
            }
            ChangeKind::DeleteChunks { document_id, chunk_ids } => {
                for id in chunk_ids {
                    let held = self.chunks.remove(&id);
                    assert!(held.is_none_or(|held| held.document_id == document_id));
                }
            }
            ChangeKind::DeleteDocument { document_id } => {
                self.chunks.retain(|_, held| held.document_id != document_id);
            }
        }
    }

    /// What a store shows to readers, in the same form.
    async fn of_live(store: &dyn DocumentStore, tenants: &[Tenant]) -> BTreeMap<ChunkId, Held> {
        let mut live = BTreeMap::new();
        for tenant in tenants {
            let all = DocumentFilter { limit: 10_000, ..DocumentFilter::default() };
            for document in store.list(tenant, &all).await.unwrap() {
                let models: HashMap<_, _> = store.chunk_ids(document.id).await.unwrap().into_iter().collect();
                let ids: Vec<_> = models.keys().copied().collect();
                let found = store.passages(tenant, &document.collection, &ids).await.unwrap();
                assert_eq!((found.len() as u64, ids.len()), (document.chunks, found.len()));
                for passage in found {
                    let held = Held {
                        document_id: document.id,
                        tenant: tenant.clone(),
                        collection: document.collection.clone(),
                        title: passage.title,
                        uri: passage.uri,
                        metadata: passage.metadata,
                        text: passage.text,
                        model: models[&passage.chunk_id].clone(),
                    };
                    live.insert(passage.chunk_id, held);
                }
            }
        }
        live
    }
}

fn tenant() -> [Tenant; 1] {
    [Tenant::default()]
}

/// A change in one word, for comparing.
fn kinds(changes: &[Change]) -> Vec<String> {
    changes
        .iter()
        .map(|change| match &change.kind {
            ChangeKind::PutChunks { chunks, .. } => {
                let texts: Vec<_> = chunks.iter().map(|chunk| chunk.text.as_str()).collect();
                format!("put {}", texts.join("+"))
            }
            ChangeKind::PutDocument { document } => format!("document {}", document.external_id),
            ChangeKind::DeleteChunks { chunk_ids, .. } => format!("delete {}", chunk_ids.len()),
            ChangeKind::DeleteDocument { .. } => "delete document".into(),
        })
        .collect()
}

pub async fn a_new_store_has_an_empty_log_and_one_history(store: Store) {
    assert_eq!((store.head().await.unwrap(), store.horizon().await.unwrap()), (0, 0));
    assert!(store.changes(0, 10).await.unwrap().is_empty());
    let history = store.history().await.unwrap();
    Draft::new("a", &["one"]).publish(&*store).await;
    store.clean(Duration::ZERO).await.unwrap();
    assert_eq!(store.history().await.unwrap(), history);
}

pub async fn an_update_logs_only_what_changed(store: Store) {
    Draft::new("a", &["one", "two", "three"]).publish(&*store).await;
    let head = store.head().await.unwrap();
    assert_eq!(kinds(&store.changes(0, 10).await.unwrap()), ["put one+two+three"]);
    Draft::new("a", &["zero", "three", "one"]).publish(&*store).await;
    assert_eq!(kinds(&store.changes(head, 10).await.unwrap()), ["put zero", "delete 1"]);
    // The first put is filled from the record: what has gone is not in it.
    assert_eq!(kinds(&store.changes(0, 10).await.unwrap()), ["put one+three", "put zero", "delete 1"]);
    let head = store.head().await.unwrap();
    Draft::new("a", &["one", "zero", "three"]).publish(&*store).await;
    assert_eq!(store.head().await.unwrap(), head, "a new order changes no index");
}

pub async fn a_change_of_metadata_reaches_chunks_that_stay(store: Store) {
    let id = Draft::new("a", &["one", "two"]).with("lang", "de").publish(&*store).await;
    let mut replica = Replica::fed_from(&*store).await;
    let head = store.head().await.unwrap();
    let staged = Draft::new("a", &["one", "three"]).with("lang", "en").stage(&*store).await;
    let published = publish(&*store, staged).await;
    let changes = store.changes(head, 100).await.unwrap();
    assert!(kinds(&changes).contains(&"document a".to_owned()), "{:?}", kinds(&changes));
    assert_eq!(published.position, changes.last().unwrap().position, "who is there knows it all");
    replica.follow(&*store, 1).await;
    assert!(replica.chunks.values().all(|held| held.metadata["lang"] == "en"));
    assert_eq!(replica.chunks, Replica::of_live(&*store, &tenant()).await);

    // Where no chunk stays there is nothing more to say.
    let head = store.head().await.unwrap();
    Draft::new("a", &["four"]).with("lang", "fr").publish(&*store).await;
    assert_eq!(kinds(&store.changes(head, 100).await.unwrap()), ["put four", "delete 2"]);
    assert_eq!(texts(&*store, id).await, ["four"]);
}

pub async fn a_new_model_replaces_the_vector(store: Store) {
    let without = Draft { model: None, ..Draft::new("a", &["one", "two"]) };
    let id = without.publish(&*store).await;
    let first = Draft::new("a", &["one", "two"]);
    let second = Draft { model: Some("m2"), ..Draft::new("a", &["one", "two"]) };
    for draft in [first, second] {
        let head = store.head().await.unwrap();
        draft.publish(&*store).await;
        assert_eq!(
            kinds(&store.changes(head, 10).await.unwrap()),
            ["put one+two"],
            "the ids stay, nothing goes"
        );
        let models: Vec<_> = store.chunk_ids(id).await.unwrap().into_iter().map(|(_, model)| model).collect();
        assert_eq!(models, vec![draft.model.map(str::to_owned); 2]);
        assert_eq!(Replica::fed_from(&*store).await.chunks, Replica::of_live(&*store, &tenant()).await);
    }
    assert_eq!(store.changes(0, 10).await.unwrap().len(), 1, "the puts before no longer matter");
}

pub async fn pages_of_changes_are_bounded_and_never_empty_before_the_end(store: Store) {
    let pieces: Vec<_> = (0..1_000).map(|i| format!("piece {i}")).collect();
    Draft { pieces, ..Draft::new("large", &[]) }.publish(&*store).await;
    // Two hundred puts whose chunks are all gone, and then one that counts.
    for i in 0..200 {
        Draft::new("small", &[&format!("version {i}")]).publish(&*store).await;
    }
    let mut position = 0;
    let mut pages = 0;
    loop {
        let page = store.changes(position, 10).await.unwrap();
        let Some(last) = page.last() else { break };
        position = last.position;
        pages += 1;
        let chunks: usize = page
            .iter()
            .map(|change| match &change.kind {
                ChangeKind::PutChunks { chunks, .. } => chunks.len(),
                _ => 1,
            })
            .sum();
        assert!(chunks <= 10 + 512, "a page of {chunks} chunks");
        assert!(page.len() == 1 || chunks <= 10 + 512);
    }
    assert!(pages > 4);
    assert_eq!(position, store.head().await.unwrap());
    assert!(!store.changes(0, 0).await.unwrap().is_empty(), "at least one change, where there is one");
    assert!(store.changes(u64::MAX, 10).await.unwrap().is_empty());
}

pub async fn a_follower_arrives_at_the_head_although_changes_are_left_out(store: Store) {
    Draft::new("a", &["one"]).publish(&*store).await;
    let mut behind = Replica::fed_from(&*store).await;
    // Staged, and gone before anybody read of it: the put is left out, the delete is not.
    Draft::new("b", &["two"]).stage(&*store).await;
    assert_eq!(store.clean(Duration::ZERO).await.unwrap(), 1);
    for _ in 0..3 {
        behind.follow(&*store, 1).await;
        assert_eq!(behind.texts(), ["one"]);
        store.clean(Duration::ZERO).await.unwrap();
        Replica::fed_from(&*store).await;
    }
}

pub async fn old_deletes_leave_the_log_and_move_the_horizon(store: Store) {
    let id = Draft::new("a", &["one", "two"]).publish(&*store).await;
    let asleep = Replica::fed_from(&*store).await;
    let deleted = store.delete(&Tenant::default(), id).await.unwrap().unwrap();
    Draft::new("b", &["three"]).publish(&*store).await;
    store.clean(Duration::from_secs(3_600)).await.unwrap();
    assert_eq!(store.horizon().await.unwrap(), 0, "the delete is young");
    let awake = Replica::fed_from(&*store).await;

    store.clean(Duration::ZERO).await.unwrap();
    assert_eq!(store.horizon().await.unwrap(), deleted);
    assert_eq!(kinds(&store.changes(0, 10).await.unwrap()), ["put three"]);
    for mut replica in [asleep, awake, Replica::default()] {
        replica.follow(&*store, 10).await;
        assert_eq!(replica.texts(), ["three"], "one that stood before the horizon began anew");
    }
    // What is last in the log stays, however old.
    let id = Draft::new("b", &["three"]).resolve(&*store).await;
    let last = store.delete(&Tenant::default(), id).await.unwrap().unwrap();
    store.clean(Duration::ZERO).await.unwrap();
    assert_eq!(Replica::fed_from(&*store).await, Replica { position: last, chunks: BTreeMap::new() });
}

/// Random changes; replicas that follow at random times, and one that starts anew, hold what readers see.
pub async fn replay(store: Store, seed: u64, steps: usize) {
    let mut world = World::new(store, seed);
    for _ in 0..steps {
        world.step().await;
    }
    world.check().await;
    // With nothing staged, all that a replica holds is live.
    world.store.clean(Duration::ZERO).await.unwrap();
    let live = Replica::of_live(&*world.store, &world.tenants).await;
    assert_eq!(Replica::fed_from(&*world.store).await.chunks, live, "seed {seed}");
    for mut replica in world.replicas {
        replica.follow(&*world.store, 3).await;
        assert_eq!(replica.chunks, live, "seed {seed}");
    }
}

struct World {
    store: Store,
    random: StdRng,
    seed: u64,
    tenants: [Tenant; 2],
    planned: Vec<(Draft, StagedDocument)>,
    staged: Vec<(Draft, Staged)>,
    live: HashMap<DocumentId, Draft>,
    replicas: Vec<Replica>,
}

impl World {
    fn new(store: Store, seed: u64) -> Self {
        Self {
            store,
            random: StdRng::seed_from_u64(seed),
            seed,
            tenants: [Tenant::default(), Tenant::new("other").unwrap()],
            planned: Vec::new(),
            staged: Vec::new(),
            live: HashMap::new(),
            replicas: vec![Replica::default(); 3],
        }
    }

    async fn step(&mut self) {
        match self.random.random_range(0..100) {
            0..30 => self.plan().await,
            30..55 => self.stage().await,
            55..80 => self.publish().await,
            80..85 => self.delete().await,
            85..87 => self.delete_collection().await,
            87..90 => {
                let age = if self.random.random_bool(0.5) { 0 } else { 3_600 };
                self.store.clean(Duration::from_secs(age)).await.unwrap();
            }
            90..98 => {
                let limit = self.random.random_range(1..20);
                let one = self.random.random_range(0..self.replicas.len());
                self.replicas[one].follow(&*self.store, limit).await;
            }
            _ => self.check().await,
        }
    }

    async fn plan(&mut self) {
        let random = &mut self.random;
        let pieces = ["ant", "bee", "cat", "dog", "eel", "fox", "gnu"];
        let count = random.random_range(0..6);
        let external_id = format!("d{}", random.random_range(0..4));
        let draft = Draft {
            tenant: self.tenants.choose(random).unwrap().clone(),
            collection: Collection::new(*["left", "right"].choose(random).unwrap()).unwrap(),
            title: (*["Title", "Another title"].choose(random).unwrap()).into(),
            model: *[Some("m1"), Some("m1"), Some("m2"), None].choose(random).unwrap(),
            pieces: (0..count).map(|_| (*pieces.choose(random).unwrap()).into()).collect(),
            ..Draft::new(&external_id, &[])
        }
        .with("lang", *["de", "en"].choose(random).unwrap());
        let built = draft.build(&*self.store).await;
        self.planned.push((draft, built));
    }

    async fn stage(&mut self) {
        if self.planned.is_empty() {
            return;
        }
        let (draft, built) = self.planned.swap_remove(self.random.random_range(0..self.planned.len()));
        match self.store.stage(vec![built]).await {
            Ok(staged) => self.staged.push((draft, staged[0])),
            // What it would keep has gone, or its external id belongs to another document by now.
            Err(error) => assert_eq!(error.kind(), ErrorKind::Conflict, "{error}"),
        }
    }

    async fn publish(&mut self) {
        if self.staged.is_empty() {
            return;
        }
        let (draft, staged) = self.staged.swap_remove(self.random.random_range(0..self.staged.len()));
        match self.store.publish(&[staged]).await {
            Ok(published) if published[0].superseded => {}
            Ok(_) => drop(self.live.insert(staged.document_id, draft)),
            Err(error) => assert_eq!(error.kind(), ErrorKind::Conflict, "{error}"),
        }
    }

    async fn delete(&mut self) {
        let mut ids: Vec<_> = self.live.keys().copied().collect();
        ids.sort_unstable();
        if let Some(id) = ids.choose(&mut self.random) {
            let draft = self.live.remove(id).unwrap();
            assert!(self.store.delete(&draft.tenant, *id).await.unwrap().is_some());
        }
    }

    async fn delete_collection(&mut self) {
        let tenant = self.tenants.choose(&mut self.random).unwrap().clone();
        let name = Collection::new(*["left", "right"].choose(&mut self.random).unwrap()).unwrap();
        self.store.delete_collection(&tenant, &name).await.unwrap();
        self.live.retain(|_, draft| draft.tenant != tenant || draft.collection != name);
    }

    /// Readers see what was published, and whoever follows the log holds that (and perhaps what is staged).
    async fn check(&mut self) {
        let live = Replica::of_live(&*self.store, &self.tenants).await;
        let mut seen = HashMap::<DocumentId, usize>::new();
        for held in live.values() {
            *seen.entry(held.document_id).or_default() += 1;
        }
        for (id, draft) in &self.live {
            assert_eq!(seen.remove(id).unwrap_or(0), draft.pieces.len(), "seed {}: {draft:?}", self.seed);
            let text = self.store.text(&draft.tenant, *id).await.unwrap();
            assert_eq!(text, Some(draft.text()), "seed {}", self.seed);
        }
        assert!(seen.is_empty(), "seed {}: documents nobody published", self.seed);
        let mut fresh = Replica::default();
        for replica in self.replicas.iter_mut().chain([&mut fresh]) {
            replica.follow(&*self.store, 7).await;
            for (id, held) in &live {
                assert_eq!(replica.chunks.get(id), Some(held), "seed {}", self.seed);
            }
        }
    }
}
