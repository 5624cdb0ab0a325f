use std::{fs, path::PathBuf};

use raglan_pipeline::{
    contract::index::{
        corpus::{self, DIMENSION, Log, MODEL},
        vector,
    },
    domain::ChunkId,
};
use serde_json::json;
use tempfile::TempDir;

use super::*;

/// Indexes in folders of their own.
struct Folders {
    root: TempDir,
    /// Open indexes by address, with their folder.
    open: Mutex<Vec<(usize, PathBuf, String, usize)>>,
}

fn address(index: &Arc<dyn VectorIndex>) -> usize {
    Arc::as_ptr(index).cast::<()>() as usize
}

impl Folders {
    fn open(&self, dir: PathBuf, model: &str, dimension: usize) -> Arc<dyn VectorIndex> {
        let index: Arc<dyn VectorIndex> =
            Arc::new(UsearchIndex::open(&dir, model.to_owned(), dimension).unwrap());
        self.open.lock().unwrap().push((address(&index), dir, model.to_owned(), dimension));
        index
    }
}

#[async_trait]
impl vector::Factory for Folders {
    async fn fresh(&self, model: &str, dimension: usize) -> Arc<dyn VectorIndex> {
        self.open(self.root.path().join(Uuid::new_v4().to_string()), model, dimension)
    }

    async fn reopen(&self, index: Arc<dyn VectorIndex>) -> Arc<dyn VectorIndex> {
        let (dir, model, dimension) = {
            let mut open = self.open.lock().unwrap();
            let place = open.iter().rposition(|held| held.0 == address(&index)).unwrap();
            let (_, dir, model, dimension) = open.remove(place);
            (dir, model, dimension)
        };
        drop(index);
        self.open(dir, &model, dimension)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keeps_the_contract() {
    let folders = Folders { root: TempDir::new().unwrap(), open: Mutex::default() };
    vector::run_all(Arc::new(folders)).await;
}

fn open(dir: &Path) -> UsearchIndex {
    UsearchIndex::open(dir, MODEL.to_owned(), DIMENSION).unwrap()
}

async fn all(index: &UsearchIndex, topic: u32) -> Vec<ChunkId> {
    let hits = index.search(&corpus::direction(topic), &corpus::everywhere(100)).await.unwrap();
    hits.into_iter().map(|hit| hit.chunk_id).collect()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// A saved index with a collection of 20 chunks and one of 3.
async fn saved(dir: &Path) -> (Vec<ChunkId>, LogPosition) {
    let log = Log::default();
    let index = open(dir);
    index.reset(Uuid::new_v4()).await.unwrap();
    let first = corpus::document("a", json!({"k": 1}));
    let mut second = corpus::document("b", json!({}));
    second.collection = raglan_pipeline::domain::Collection::new("second").unwrap();
    let topics: Vec<u32> = (0..20).collect();
    index.apply(vec![log.put_topics(&first, &topics), log.put_topics(&second, &[1, 2, 3])]).await.unwrap();
    index.save().await.unwrap();
    (all(&index, 1).await, index.position())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_index_is_empty_or_whole_and_never_wrong() {
    let root = TempDir::new().unwrap();
    let whole = root.path().join("whole");
    let (chunks, position) = saved(&whole).await;
    let names: Vec<_> = fs::read_dir(&whole).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 5, "a manifest, two graphs and two tables: {names:?}");
    let mut empty = 0;
    for (number, name) in names.iter().enumerate() {
        let bytes = fs::read(whole.join(name)).unwrap();
        let middle = bytes.len() / 2;
        let mut damages: Vec<Option<Vec<u8>>> = vec![None, Some(Vec::new()), Some(bytes[..middle].to_vec())];
        damages.push(Some(bytes[..bytes.len() - 1].to_vec()));
        damages.push(Some([&bytes[..], b"x"].concat()));
        for place in [0, 8, 9, middle, bytes.len() - 2, bytes.len() - 1] {
            let mut flipped = bytes.clone();
            flipped[place] ^= 1;
            damages.push(Some(flipped));
        }
        for (damage, content) in damages.into_iter().enumerate() {
            let dir = root.path().join(format!("{number}-{damage}"));
            copy(&whole, &dir);
            match content {
                Some(content) => fs::write(dir.join(name), content).unwrap(),
                None => fs::remove_file(dir.join(name)).unwrap(),
            }
            let index = open(&dir);
            if index.position() == position {
                assert_eq!(all(&index, 1).await, chunks, "{name:?}, damage {damage}");
            } else {
                empty += 1;
                assert_eq!((index.position(), index.history()), (0, None), "{name:?}, damage {damage}");
                assert_eq!(index.count().await.unwrap(), 0);
                assert!(all(&index, 1).await.is_empty());
                assert_eq!(fs::read_dir(&dir).unwrap().count(), 0, "what cannot be used is removed");
            }
            // It is as good as new.
            let document = corpus::document("c", json!({}));
            index.apply(vec![Log::after(position).put_topics(&document, &[77])]).await.unwrap();
            index.save().await.unwrap();
            drop(index);
            assert_eq!(all(&open(&dir), 77).await[0], corpus::chunk(&document, 77, 0).id);
            fs::remove_dir_all(&dir).unwrap();
        }
    }
    assert_eq!(empty, 5 * 11, "every damage is found");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_save_that_was_cut_short_leaves_the_one_before() {
    let root = TempDir::new().unwrap();
    let (chunks, position) = saved(root.path()).await;
    let names = || -> Vec<String> {
        let names =
            fs::read_dir(root.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    };
    let before = names();
    fs::write(root.path().join("000000000099-0.graph"), b"half").unwrap();
    fs::write(root.path().join(".tmp123"), b"half a manifest").unwrap();
    let index = open(root.path());
    assert_eq!((index.position(), all(&index, 1).await), (position, chunks));
    assert_eq!(names(), before, "and its remains are removed");

    // What did not change is not written again.
    let document = corpus::document("c", json!({}));
    index.apply(vec![Log::after(position).put_topics(&document, &[77])]).await.unwrap();
    index.save().await.unwrap();
    let after = names();
    assert_eq!(after.len(), before.len());
    assert_eq!(after.iter().filter(|name| before.contains(name)).count(), 3, "{before:?} and {after:?}");
}

#[tokio::test]
async fn another_model_or_dimension_starts_empty() {
    for (model, dimension) in [("another", DIMENSION), (MODEL, DIMENSION * 2)] {
        let root = TempDir::new().unwrap();
        let (_, position) = saved(root.path()).await;
        assert_eq!(open(root.path()).position(), position);
        let index = UsearchIndex::open(root.path(), model.to_owned(), dimension).unwrap();
        assert_eq!((index.position(), index.history(), index.count().await.unwrap()), (0, None, 0));
    }
}

#[test]
fn a_folder_that_cannot_be_used_is_an_error() {
    let root = TempDir::new().unwrap();
    let file = root.path().join("file");
    fs::write(&file, b"").unwrap();
    let error = UsearchIndex::open(&file.join("index"), MODEL.to_owned(), 3).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert_eq!(
        UsearchIndex::open(root.path(), MODEL.to_owned(), 0).err().unwrap().kind(),
        ErrorKind::Invalid
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_half_way_asks_for_a_reset_and_is_forgotten_after_it() {
    let root = TempDir::new().unwrap();
    let index = open(root.path());
    let inner = index.inner.clone();
    let panicked = std::thread::spawn(move || {
        let _state = inner.state.write().unwrap();
        panic!("a panic that the test wants");
    });
    assert!(panicked.join().is_err());
    let log = Log::default();
    let document = corpus::document("c", json!({}));
    let change = log.put_topics(&document, &[7]);
    assert_eq!(index.apply(vec![change.clone()]).await.unwrap_err().kind(), ErrorKind::Corrupt);
    index.reset(Uuid::new_v4()).await.unwrap();
    index.apply(vec![change]).await.unwrap();
    assert_eq!(all(&index, 7).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worn_graph_is_built_anew_and_saved_so() {
    let root = TempDir::new().unwrap();
    let log = Log::default();
    let (kept, passing) = (corpus::document("kept", json!({"k": 1})), corpus::document("passing", json!({})));
    let index = open(root.path());
    index.apply(vec![log.put_topics(&passing, &topics(1000, 2500))]).await.unwrap();
    index.apply(vec![log.put_topics(&kept, &topics(0, 500))]).await.unwrap();
    let vectors = |index: &UsearchIndex| -> usize {
        index.inner.state.read().unwrap().shards.values().map(|shard| shard.graph.len()).sum()
    };
    assert_eq!(vectors(&index), 2000);
    index.save().await.unwrap();
    index.apply(vec![log.delete_document(&passing)]).await.unwrap();
    compaction::wait(&index.inner);
    assert_eq!(vectors(&index), 500, "the dead are gone");
    index.apply(vec![log.put_topics(&passing, &[1001])]).await.unwrap();
    index.save().await.unwrap();
    drop(index);
    let index = open(root.path());
    assert_eq!((index.count().await.unwrap(), vectors(&index)), (501, 501));
    for topic in [0, 77, 499] {
        assert_eq!(all(&index, topic).await[0], corpus::chunk(&kept, topic, 0).id);
    }
    assert_eq!(all(&index, 1001).await[0], corpus::chunk(&passing, 1001, 0).id);
}

/// A change that puts chunks about these topics.
fn topics(from: u32, to: u32) -> Vec<u32> {
    (from..to).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_and_searches_go_on_while_a_graph_is_built_anew() {
    let root = TempDir::new().unwrap();
    let log = Log::default();
    let (kept, passing) = (corpus::document("kept", json!({"k": 1})), corpus::document("passing", json!({})));
    let index = Arc::new(open(root.path()));
    index.apply(vec![log.put_topics(&passing, &topics(10_000, 16_000))]).await.unwrap();
    index.apply(vec![log.put_topics(&kept, &topics(0, 4_000))]).await.unwrap();
    let numbering = || index.inner.read().unwrap().shards.values().next().unwrap().numbering;
    let before = numbering();
    index.apply(vec![log.delete_document(&passing)]).await.unwrap();
    // The compaction runs. Some of what it copies goes, some is replaced, something comes, and one gets other metadata.
    let gone: Vec<ChunkId> = topics(0, 100).iter().map(|topic| corpus::chunk(&kept, *topic, 0).id).collect();
    index.apply(vec![log.delete_chunks(&kept, gone)]).await.unwrap();
    let late = corpus::document("late", json!({"k": 2}));
    index
        .apply(vec![log.put_topics(&late, &topics(20_000, 21_500)), log.put_topics(&kept, &[200])])
        .await
        .unwrap();
    let mut changed = kept.clone();
    changed.metadata = corpus::object(json!({"k": 3}));
    index.apply(vec![log.put_document(&changed)]).await.unwrap();
    for topic in (100..4_000).step_by(131) {
        assert_eq!(all(&index, topic).await[0], corpus::chunk(&kept, topic, 0).id);
    }
    compaction::wait(&index.inner);
    assert_ne!(numbering(), before, "it was built anew");
    assert_eq!(index.count().await.unwrap(), 3_900 + 1_500);
    {
        let state = index.inner.read().unwrap();
        let shard = state.shards.values().next().unwrap();
        // Chunk 200 was put again, which leaves one dead where it was copied before.
        assert!(
            shard.graph.len() - shard.table.len() <= 101,
            "{} of {}",
            shard.graph.len(),
            shard.table.len()
        );
        assert_eq!(shard.rows.len(), shard.graph.len());
    }
    let found = |filter, topic| {
        let index = index.clone();
        async move {
            let hits = index.search(&corpus::direction(topic), &corpus::filtered(filter, 5)).await.unwrap();
            hits.into_iter().map(|hit| hit.chunk_id).collect::<Vec<_>>()
        }
    };
    for topic in [0, 99] {
        assert!(!all(&index, topic).await.contains(&corpus::chunk(&kept, topic, 0).id), "{topic} stays away");
    }
    for topic in (100..4_000).step_by(131).chain([200]) {
        assert_eq!(found(json!({"k": 3}), topic).await[0], corpus::chunk(&kept, topic, 0).id);
        assert!(found(json!({"k": 1}), topic).await.is_empty());
    }
    for topic in [20_000, 21_499] {
        assert_eq!(found(json!({"k": [2, 3]}), topic).await[0], corpus::chunk(&late, topic, 0).id);
    }
    // What was built anew is saved as what it is.
    let expected = all(&index, 777).await;
    index.save().await.unwrap();
    drop(index);
    assert_eq!(all(&open(root.path()), 777).await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_ends_what_is_being_built() {
    let root = TempDir::new().unwrap();
    let log = Log::default();
    let (kept, passing) = (corpus::document("kept", json!({})), corpus::document("passing", json!({})));
    let index = open(root.path());
    index.apply(vec![log.put_topics(&passing, &topics(10_000, 14_000))]).await.unwrap();
    index.apply(vec![log.put_topics(&kept, &topics(0, 2_000))]).await.unwrap();
    index.apply(vec![log.delete_document(&passing)]).await.unwrap();
    index.reset(Uuid::new_v4()).await.unwrap();
    compaction::wait(&index.inner);
    assert_eq!(index.count().await.unwrap(), 0);
    assert!(all(&index, 7).await.is_empty());
}

/// All ways lead to the same, where there are enough candidates, and scores are the same to the last bit.
#[tokio::test(flavor = "multi_thread")]
async fn a_walk_and_a_scan_agree() {
    let root = TempDir::new().unwrap();
    let log = Log::default();
    let index = open(root.path());
    for n in 0..10 {
        let document = corpus::document("d", json!({"n": n, "even": n % 2 == 0}));
        index.apply(vec![log.put_topics(&document, &topics(n * 300, n * 300 + 300))]).await.unwrap();
    }
    for filter in [json!({}), json!({"even": true}), json!({"n": [1, 2, 3], "even": false}), json!({"n": 77})]
    {
        let scope = corpus::filtered(filter.clone(), 10);
        let (mut same, mut wanted) = (0, 0);
        for topic in (0..3_000).step_by(97) {
            let question = corpus::direction(topic);
            let scanned = index.search_by(&question, &scope, Way::Scan).await.unwrap();
            let walked = index.search_by(&question, &scope, Way::Walk).await.unwrap();
            let chosen = index.search_by(&question, &scope, Way::Cheaper).await.unwrap();
            assert_eq!(chosen, scanned, "so few are scanned");
            assert_eq!(walked.len(), scanned.len());
            same += walked.iter().filter(|hit| scanned.contains(hit)).count();
            wanted += scanned.len();
        }
        assert!(same * 100 >= wanted * 97, "{same} of {wanted} with {filter}");
    }
}

/// A filter that leaves only what is far from the question would have a walk pass through everything that is near first.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_filter_leaves_is_found_however_far_it_is() {
    let root = TempDir::new().unwrap();
    let log = Log::default();
    let settings = UsearchSettings { expansion_search: 16, ..UsearchSettings::default() };
    let index = UsearchIndex::open_with(root.path(), MODEL.to_owned(), DIMENSION, settings).unwrap();
    let near_or_far = |topic: u32, sign: f32| -> Vec<f32> {
        let (towards, own) = (corpus::direction(1), corpus::direction(topic));
        corpus::unit(towards.iter().zip(own).map(|(x, y)| sign * 3.0 * x + y).collect())
    };
    let put = |document: &Document, sign: f32, topics: Vec<u32>| {
        let chunks = topics.into_iter().map(|topic| {
            let vector = near_or_far(topic, sign);
            let embedding = raglan_pipeline::domain::StoredEmbedding { model: MODEL.to_owned(), vector };
            IndexChunk { embedding: Some(embedding), ..corpus::chunk(document, topic, 0) }
        });
        log.put(document, chunks.collect())
    };
    let (near, far) =
        (corpus::document("n", json!({"far": false})), corpus::document("f", json!({"far": true})));
    index
        .apply(vec![put(&near, 1.0, topics(100, 6_100)), put(&far, -1.0, topics(10_000, 15_000))])
        .await
        .unwrap();
    let scope = corpus::filtered(json!({"far": true}), 10);
    let case = super::super::plan::Case { all: 11_000, allowed: 5_000, limit: 10 };
    assert!(!case.scan_is_cheaper(&settings), "it looks as if a walk were cheaper");
    let scanned = index.search_by(&corpus::direction(1), &scope, Way::Scan).await.unwrap();
    assert_eq!(scanned.len(), 10);
    assert_eq!(index.search(&corpus::direction(1), &scope).await.unwrap(), scanned);
}

#[tokio::test(flavor = "multi_thread")]
async fn much_is_not_written_again_for_little() {
    let root = TempDir::new().unwrap();
    let log = Log::default();
    let document = corpus::document("d", json!({}));
    let index = open(root.path());
    let history = Uuid::new_v4();
    index.reset(history).await.unwrap();
    let hour = std::time::Duration::from_secs(3600);
    index.inner.files().thrift = super::super::files::Thrift { few: 100, share: 50, at_most: hour };
    index.apply(vec![log.put_topics(&document, &topics(0, 1_000))]).await.unwrap();
    index.save().await.unwrap();
    let saved = index.position();
    index.apply(vec![log.put_topics(&document, &[5_000])]).await.unwrap();
    index.save().await.unwrap();
    drop(index);
    let index = open(root.path());
    assert_eq!(
        (index.position(), index.history()),
        (saved, Some(history)),
        "a change in a thousand is in the log"
    );
    // Applied again, it is there.
    index.inner.files().thrift = super::super::files::Thrift { few: 100, share: 50, at_most: hour };
    index.apply(vec![Log::after(saved).put_topics(&document, &topics(5_000, 5_030))]).await.unwrap();
    index.save().await.unwrap();
    drop(index);
    let index = open(root.path());
    assert!(index.position() > saved, "thirty in a thousand are not little");
    index.inner.files().thrift =
        super::super::files::Thrift { few: 100, share: 50, at_most: std::time::Duration::ZERO };
    let before = index.position();
    index.apply(vec![Log::after(before).put_topics(&document, &[6_000])]).await.unwrap();
    index.save().await.unwrap();
    drop(index);
    assert!(open(root.path()).position() > before, "too long ago");
}

/// Searches that run while vectors are added find what was there before, and nothing that is not. A walk is approximate at all times, and more so while links
/// are rewritten under it: it must find what it should in 98 of 100 searches, and what it returns must be there with its true score. A scan is exact.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn searches_are_right_while_it_grows() {
    let root = TempDir::new().unwrap();
    let log = Log::default();
    let document = corpus::document("d", json!({"k": "v"}));
    let index = Arc::new(open(root.path()));
    index.apply(vec![log.put_topics(&document, &topics(0, 500))]).await.unwrap();
    let done = Arc::new(AtomicBool::new(false));
    let all: Arc<HashMap<_, _>> =
        Arc::new(topics(0, 6_000).into_iter().map(|n| (corpus::chunk(&document, n, 0).id, n)).collect());
    let searchers: Vec<_> = (0..4u32)
        .map(|searcher| {
            let (index, done, document, all) = (index.clone(), done.clone(), document.clone(), all.clone());
            tokio::spawn(async move {
                let (mut searches, mut found) = (0u32, 0);
                while !done.load(Ordering::Relaxed) || searches < 50 {
                    let topic = (searches * 7 + searcher * 31) % 500;
                    let wanted = corpus::chunk(&document, topic, 0).id;
                    let question = corpus::direction(topic);
                    let scope = corpus::filtered(json!({"k": "v"}), 5);
                    let scanned = index.search_by(&question, &scope, Way::Scan).await.unwrap();
                    assert_eq!(scanned[0].chunk_id, wanted);
                    let walked = index.search_by(&question, &scope, Way::Walk).await.unwrap();
                    for hit in scanned.iter().chain(&walked) {
                        let direction = corpus::direction(all[&hit.chunk_id]);
                        let cosine: f32 = question.iter().zip(direction).map(|(x, y)| x * y).sum();
                        assert!((hit.score - cosine).abs() < 0.01, "{} is not {cosine}", hit.score);
                    }
                    found += u32::from(walked.first().is_some_and(|hit| hit.chunk_id == wanted));
                    searches += 1;
                }
                (searches, found)
            })
        })
        .collect();
    for n in 1..12 {
        index.apply(vec![log.put_topics(&document, &topics(n * 500, n * 500 + 500))]).await.unwrap();
    }
    done.store(true, Ordering::Relaxed);
    let (mut searches, mut found) = (0, 0);
    for searcher in searchers {
        let of_one = searcher.await.unwrap();
        (searches, found) = (searches + of_one.0, found + of_one.1);
    }
    assert!(found * 100 >= searches * 98, "walks found {found} of {searches}");
}

/// usearch is compiled with its kernels, and picks one by what the processor has.
#[tokio::test(flavor = "multi_thread")]
async fn distances_are_computed_by_vector_instructions() {
    let root = TempDir::new().unwrap();
    let index = open(root.path());
    index
        .apply(vec![Log::default().put_topics(&corpus::document("d", json!({})), &topics(0, 10))])
        .await
        .unwrap();
    let stats = index.stats().unwrap();
    assert_eq!((stats.live, stats.dead), (10, 0));
    assert!(stats.graph_bytes > 10 * 2 * DIMENSION && stats.row_bytes >= 10 * DIMENSION);
    #[cfg(target_arch = "x86_64")]
    let vectors = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("f16c");
    #[cfg(target_arch = "aarch64")]
    let vectors = true;
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let vectors = false;
    assert!(!vectors || stats.instructions.as_deref() != Some("serial"), "{stats:?}");
}

const CHILD: &str = "RAGLAN_TEST_SAVING_CHILD";

/// Not a test of its own: what the process does that [`a_process_killed_while_saving_leaves_a_whole_state`] starts and kills.
#[test]
fn saving_child() {
    let Some(dir) = std::env::var_os(CHILD) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async move {
        let index = open(Path::new(&dir));
        if index.history().is_none() {
            index.reset(Uuid::new_v4()).await.unwrap();
        }
        let document = saved_by_children();
        loop {
            let position = index.position();
            let topic = u32::try_from(position / 3).unwrap();
            index
                .apply(vec![Log::after(position).put_topics(&document, &topics(topic * 50, topic * 50 + 50))])
                .await
                .unwrap();
            index.save().await.unwrap();
        }
    });
}

/// The same in every process.
fn saved_by_children() -> Document {
    Document { id: DocumentId(Uuid::from_u128(7)), ..corpus::document("d", json!({"k": 1})) }
}

/// Every change of the child's puts fifty chunks, so the position says what must be there.
#[cfg(unix)]
#[test]
fn a_process_killed_while_saving_leaves_a_whole_state() {
    use rand::{Rng, SeedableRng};
    let root = TempDir::new().unwrap();
    let mut rng = rand::rngs::StdRng::seed_from_u64(11);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (mut last, mut torn) = (0, 0);
    for _ in 0..6 {
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "vector_index::usearch::tests::saving_child", "--nocapture"])
            .env(CHILD, root.path())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        // Until it has saved once more; then at some moment of what follows.
        let manifest = root.path().join("manifest");
        let written = || fs::metadata(&manifest).and_then(|m| m.modified()).ok();
        let before = written();
        while written() == before {
            assert!(child.try_wait().unwrap().is_none(), "the child saves until it is killed");
            std::thread::yield_now();
        }
        for _ in 0..rng.random_range(0..20_000) {
            std::thread::yield_now();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        torn += usize::from(fs::read_dir(root.path()).unwrap().count() != 3);
        let index = open(root.path());
        assert!(index.position() > last, "it goes on from what was saved");
        last = index.position();
        let expected = last / 3 * 50;
        assert_eq!(runtime.block_on(index.count()).unwrap(), expected);
        for topic in [0, u32::try_from(expected - 1).unwrap()] {
            let hits = runtime.block_on(all(&index, topic));
            assert_eq!(hits[0], corpus::chunk(&saved_by_children(), topic, 0).id);
        }
    }
    // Some kills come while files are being written; how many depends on the machine.
    println!("{torn} of 6 kills left unfinished files behind");
}
