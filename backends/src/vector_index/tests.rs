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
    let topics = |from: u32, to: u32| (from..to).collect::<Vec<_>>();
    index.apply(vec![log.put_topics(&passing, &topics(1000, 2500))]).await.unwrap();
    index.apply(vec![log.put_topics(&kept, &topics(0, 500))]).await.unwrap();
    let vectors = |index: &UsearchIndex| -> usize {
        index.inner.state.read().unwrap().shards.values().map(|shard| shard.graph.len()).sum()
    };
    assert_eq!(vectors(&index), 2000);
    index.save().await.unwrap();
    index.apply(vec![log.delete_document(&passing)]).await.unwrap();
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
