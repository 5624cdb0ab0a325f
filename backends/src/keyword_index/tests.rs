use std::fs;

use raglan_pipeline::{
    contract::index::{
        corpus::{self, Log},
        keyword,
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
    open: Mutex<Vec<(usize, PathBuf)>>,
}

fn address(index: &Arc<dyn KeywordIndex>) -> usize {
    Arc::as_ptr(index).cast::<()>() as usize
}

impl Folders {
    fn open(&self, dir: PathBuf) -> Arc<dyn KeywordIndex> {
        let index: Arc<dyn KeywordIndex> = Arc::new(TantivyIndex::open(&dir).unwrap());
        self.open.lock().unwrap().push((address(&index), dir));
        index
    }
}

#[async_trait]
impl keyword::Factory for Folders {
    async fn fresh(&self) -> Arc<dyn KeywordIndex> {
        self.open(self.root.path().join(Uuid::new_v4().to_string()))
    }

    async fn reopen(&self, index: Arc<dyn KeywordIndex>) -> Arc<dyn KeywordIndex> {
        let dir = {
            let mut open = self.open.lock().unwrap();
            let place = open.iter().rposition(|held| held.0 == address(&index)).unwrap();
            open.remove(place).1
        };
        drop(index);
        self.open(dir)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keeps_the_contract() {
    let folders = Folders { root: TempDir::new().unwrap(), open: Mutex::default() };
    keyword::run_all(Arc::new(folders)).await;
}

async fn all(index: &TantivyIndex, text: &str) -> Vec<ChunkId> {
    let hits = index.search(text, &corpus::everywhere(100)).await.unwrap();
    hits.into_iter().map(|hit| hit.chunk_id).collect()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_index_is_empty_or_whole_and_never_wrong() {
    let root = TempDir::new().unwrap();
    let whole = root.path().join("whole");
    let log = Log::default();
    let document = corpus::document("a", json!({"k": 1}));
    let (chunks, position) = {
        let index = TantivyIndex::open(&whole).unwrap();
        index.reset(Uuid::new_v4()).await.unwrap();
        let topics: Vec<u32> = (0..20).collect();
        index.apply(vec![log.put_topics(&document, &topics)]).await.unwrap();
        // Deletes are in a file of their own, and must not be lost.
        index
            .apply(vec![log.delete_chunks(&document, vec![corpus::chunk(&document, 3, 0).id])])
            .await
            .unwrap();
        (all(&index, "paragraph").await, index.position())
    };
    assert_eq!(chunks.len(), 19);
    let mut empty = 0;
    for entry in fs::read_dir(&whole).unwrap() {
        let name = entry.unwrap().file_name();
        let bytes = fs::read(whole.join(&name)).unwrap();
        if bytes.is_empty() {
            continue;
        }
        let middle = bytes.len() / 2;
        let mut damages: Vec<Option<Vec<u8>>> = vec![None, Some(Vec::new()), Some(bytes[..middle].to_vec())];
        damages.push(Some(bytes[..bytes.len() - 1].to_vec()));
        for place in [0, middle, bytes.len() * 3 / 4, bytes.len() - 9, bytes.len() - 5, bytes.len() - 1] {
            let mut flipped = bytes.clone();
            flipped[place] ^= 1;
            damages.push(Some(flipped));
        }
        for (damage, content) in damages.into_iter().enumerate() {
            let dir = root.path().join("damaged");
            copy(&whole, &dir);
            match content {
                Some(content) => fs::write(dir.join(&name), content).unwrap(),
                None => fs::remove_file(dir.join(&name)).unwrap(),
            }
            let index = TantivyIndex::open(&dir).unwrap();
            if index.position() == position {
                assert_eq!(all(&index, "paragraph").await, chunks, "{name:?}, damage {damage}");
            } else {
                empty += 1;
                assert_eq!((index.position(), index.history()), (0, None), "{name:?}, damage {damage}");
                assert_eq!(index.count().await.unwrap(), 0);
                assert!(all(&index, "paragraph").await.is_empty());
            }
            drop(index);
            fs::remove_dir_all(&dir).unwrap();
        }
    }
    assert!(empty > 50, "{empty} damages were found");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_index_is_as_good_as_new_when_it_was_opened() {
    let root = TempDir::new().unwrap();
    let whole = root.path().join("whole");
    let log = Log::default();
    let index = TantivyIndex::open(&whole).unwrap();
    index.apply(vec![log.put_topics(&corpus::document("a", json!({})), &[1, 2])]).await.unwrap();
    drop(index);
    for name in ["meta.json", ".managed.json"] {
        for content in [&b""[..], b"{}"] {
            let dir = root.path().join("damaged");
            copy(&whole, &dir);
            fs::write(dir.join(name), content).unwrap();
            let index = TantivyIndex::open(&dir).unwrap();
            let other = corpus::document("c", json!({}));
            index.apply(vec![log.put_topics(&other, &[77])]).await.unwrap();
            drop(index);
            let index = TantivyIndex::open(&dir).unwrap();
            assert_eq!(all(&index, "paragraph").await, [corpus::chunk(&other, 77, 0).id]);
            drop(index);
            fs::remove_dir_all(&dir).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_nonsense_is_no_index() {
    let root = TempDir::new().unwrap();
    fs::write(root.path().join("meta.json"), b"{}").unwrap();
    assert_eq!(TantivyIndex::open(root.path()).unwrap().position(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_cannot_have_the_same_folder() {
    let root = TempDir::new().unwrap();
    let log = Log::default();
    let document = corpus::document("a", json!({}));
    let first = TantivyIndex::open(root.path()).unwrap();
    first.apply(vec![log.put_topics(&document, &[1])]).await.unwrap();
    let error = TantivyIndex::open(root.path()).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("another process"), "{error}");
    first.apply(vec![log.put_topics(&document, &[2])]).await.unwrap();
    assert_eq!(all(&first, "paragraph").await.len(), 2, "the first is not disturbed");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_costs_the_batch_and_nothing_else() {
    let root = TempDir::new().unwrap();
    let log = Log::default();
    let document = corpus::document("a", json!({}));
    let index = TantivyIndex::open(root.path()).unwrap();
    index.apply(vec![log.put_topics(&document, &[1])]).await.unwrap();
    // As after any error: the writer is gone, what it had not committed too.
    index.inner.writing().writer = None;
    index.apply(vec![log.put_topics(&document, &[2])]).await.unwrap();
    assert_eq!(all(&index, "paragraph").await.len(), 2);
}

#[test]
fn weights_must_be_numbers() {
    let root = TempDir::new().unwrap();
    for title in [f32::NAN, -1.0, f32::INFINITY] {
        let settings = TantivySettings { title, ..TantivySettings::default() };
        assert_eq!(TantivyIndex::open_with(root.path(), settings).err().unwrap().kind(), ErrorKind::Invalid);
    }
}

/// A document of one chunk with this text.
fn of_text(metadata: serde_json::Value, text: &str) -> (raglan_pipeline::domain::Document, Change, ChunkId) {
    let document = corpus::document("", metadata);
    let chunk = raglan_pipeline::domain::IndexChunk {
        heading_path: Vec::new(),
        text: text.to_owned(),
        ..corpus::chunk(&document, 0, 0)
    };
    let id = chunk.id;
    let kind = raglan_pipeline::domain::ChangeKind::PutChunks {
        document: Box::new(document.clone()),
        chunks: vec![chunk],
    };
    (document, Change { position: 0, kind }, id)
}

const GERMAN: &str = "Die Kündigungsfristen der Verträge sind gesetzlich geregelt. Wer seine Wohnungen vermietet, muss den \
    Mietern die Häuser und Gärten in gutem Zustand übergeben und darf ihnen nicht ohne Grund kündigen.";
const FRENCH: &str = "Les locataires doivent payer leurs loyers chaque mois. Les propriétaires entretiennent les maisons et les \
    jardins, et ils ne peuvent pas résilier les contrats sans raison valable ni sans préavis.";
const ENGLISH: &str = "Tenants pay their rents every month. The owners maintain the houses and the gardens, and they cannot cancel \
    the contracts without a valid reason or without giving notice in writing.";
const JAPANESE: &str =
    "賃貸契約の解約には三か月前の通知が必要です。家主は正当な理由なく契約を解除できません。";

#[tokio::test(flavor = "multi_thread")]
async fn every_document_is_found_by_the_forms_of_its_own_language() {
    let root = TempDir::new().unwrap();
    let index = TantivyIndex::open(root.path()).unwrap();
    let mut ids = Vec::new();
    for (position, text) in (1..).zip([GERMAN, FRENCH, ENGLISH, JAPANESE]) {
        let (_, change, id) = of_text(json!({}), text);
        index.apply(vec![Change { position, ..change }]).await.unwrap();
        ids.push(id);
    }
    for (question, found) in [
        ("Kündigungsfrist", vec![0]),
        ("Welcher Vertrag?", vec![0]),
        ("Haus", vec![0]),
        ("loyer", vec![1]),
        ("propriétaire", vec![1]),
        ("owner's reasons", vec![2]),
        ("rent", vec![2]),
        ("契約", vec![3]),
        ("解約の通知", vec![3]),
        // Stop words of German and of French are words of English texts where they are not stop words.
        ("und der les", vec![]),
    ] {
        let mut hits = all(&index, question).await;
        hits.sort();
        let mut expected: Vec<ChunkId> = found.iter().map(|n: &usize| ids[*n]).collect();
        expected.sort();
        assert_eq!(hits, expected, "{question}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_language_stays_when_the_title_changes_and_changes_when_the_metadata_says_so() {
    let root = TempDir::new().unwrap();
    let index = TantivyIndex::open(root.path()).unwrap();
    // Too short to be told: the metadata says it.
    let (mut document, change, id) = of_text(json!({"language": "de"}), "Häuser");
    index.apply(vec![Change { position: 1, ..change }]).await.unwrap();
    assert_eq!(all(&index, "Haus").await, [id]);
    let put = |position, document: &raglan_pipeline::domain::Document| Change {
        position,
        kind: raglan_pipeline::domain::ChangeKind::PutDocument { document: Box::new(document.clone()) },
    };
    document.title = "Gärten".to_owned();
    document.metadata = corpus::object(json!({}));
    index.apply(vec![put(2, &document)]).await.unwrap();
    assert_eq!(all(&index, "Haus").await, [id], "it stays what it was");
    assert_eq!(all(&index, "Garten").await, [id]);
    document.metadata = corpus::object(json!({"language": "en"}));
    index.apply(vec![put(3, &document)]).await.unwrap();
    assert!(all(&index, "Haus").await.is_empty());
    assert_eq!(all(&index, "hauser").await, [id]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_of_another_release_is_built_anew() {
    // Of another format, with the same fields.
    let root = TempDir::new().unwrap();
    let index = TantivyIndex::open(root.path()).unwrap();
    let (_, change, _) = of_text(json!({}), ENGLISH);
    index.apply(vec![Change { position: 1, ..change.clone() }]).await.unwrap();
    {
        let mut writing = index.inner.writing();
        let writer = writing.writer.as_mut().unwrap();
        let mut commit = writer.prepare_commit().unwrap();
        let older = super::super::schema::FORMAT - 1;
        commit.set_payload(&json!({"format": older, "position": 1, "history": null}).to_string());
        commit.commit().unwrap();
    }
    drop(index);
    let index = TantivyIndex::open(root.path()).unwrap();
    assert_eq!((index.position(), index.count().await.unwrap()), (0, 0));
    index.apply(vec![Change { position: 1, ..change.clone() }]).await.unwrap();
    assert_eq!(all(&index, "tenants").await.len(), 1);

    // With other fields.
    let root = TempDir::new().unwrap();
    let directory = tantivy::directory::MmapDirectory::open(root.path()).unwrap();
    let mut schema = tantivy::schema::Schema::builder();
    schema.add_text_field("another", tantivy::schema::TEXT);
    let checked = super::super::checked_directory::CheckedDirectory(directory);
    drop(tantivy::Index::create(checked, schema.build(), tantivy::IndexSettings::default()).unwrap());
    let index = TantivyIndex::open(root.path()).unwrap();
    assert_eq!(index.position(), 0);
    index.apply(vec![Change { position: 1, ..change }]).await.unwrap();
    assert_eq!(all(&index, "tenants").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_word_of_most_texts_is_not_a_rare_word_of_the_others() {
    let root = TempDir::new().unwrap();
    let index = TantivyIndex::open(root.path()).unwrap();
    let (_, german, about_rent) = of_text(json!({}), &format!("{GERMAN} Das Motto: no such thing."));
    index.apply(vec![Change { position: 1, ..german }]).await.unwrap();
    let mut gardens = Vec::new();
    for position in 2..40 {
        let text = if position == 20 { format!("{ENGLISH} A garden wall.") } else { ENGLISH.to_owned() };
        let (_, change, id) = of_text(json!({"lang": "en"}), &text);
        gardens.push(id);
        index.apply(vec![Change { position, ..change }]).await.unwrap();
    }
    // "no" and "such" are words of the German text alone, since English leaves them out; "wall" is what the question is about.
    let hits = all(&index, "is there no such wall").await;
    assert_eq!(hits, [gardens[18], about_rent]);
}
