//! The indexes that a process keeps for itself.

use std::{path::Path, sync::Arc};

use raglan_backends::{keyword_index::tantivy::TantivyIndex, vector_index::usearch::UsearchIndex};
use raglan_pipeline::ports::{PortResult, Replica, VectorIndex};

use super::Models;

/// Replicas of the store's change log on this machine's disk.
pub(super) struct Indexes {
    /// Nearest vectors; none without an embedder, and where the processes share an index.
    pub vectors: Option<Arc<dyn VectorIndex>>,
    /// Best words.
    pub keywords: Arc<TantivyIndex>,
}

impl Indexes {
    /// Opens them in this folder; `with_vectors` where the vectors are searched here too.
    pub async fn open(folder: &Path, models: &Models, with_vectors: bool) -> anyhow::Result<Self> {
        let folder = folder.to_owned();
        let model = models.embedder.get().filter(|_| with_vectors).map(|embedder| embedder.info().clone());
        let opened = tokio::task::spawn_blocking(move || {
            let keywords = TantivyIndex::open(&folder.join("keywords"))?;
            let vectors = model
                .map(|model| UsearchIndex::open(&folder.join("vectors"), model.model, model.dimension))
                .transpose()?;
            PortResult::Ok((keywords, vectors))
        });
        let (keywords, vectors) = opened.await??;
        Ok(Self {
            vectors: vectors.map(|index| Arc::new(index) as Arc<dyn VectorIndex>),
            keywords: Arc::new(keywords),
        })
    }

    /// What is fed from the log.
    pub fn replicas(&self) -> Vec<Arc<dyn Replica>> {
        let vectors = self.vectors.clone().map(|index| index as Arc<dyn Replica>);
        std::iter::once(self.keywords.clone() as Arc<dyn Replica>).chain(vectors).collect()
    }
}
