//! How the index is kept in Qdrant.

use std::time::Duration;

use raglan_pipeline::{
    ports::{ErrorKind, PortError, PortResult},
    secret::Secret,
};
use sha2::{Digest, Sha256};
use url::Url;

/// The longest part of a model's name that goes into a collection's; Qdrant takes 255 characters in all.
const LONGEST_SLUG: usize = 100;

/// What is kept in memory beside the exact vectors, to search faster. What is found is scored again with the exact ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quantization {
    /// Nothing.
    None,
    /// A byte for each dimension: a quarter of the memory.
    Int8,
    /// A bit for each dimension: for models of 1,024 dimensions and more that bear it.
    Binary,
}

/// Where Qdrant is, and how the index is kept there. What is marked *when made* counts for collections that are made from then on, by
/// the first [`open`](super::QdrantIndex::open) or by a reset.
#[derive(Debug, Clone)]
pub struct QdrantSettings {
    /// The gRPC address, `http` or `https`.
    pub url: Url,
    /// The API key, where one is wanted.
    pub api_key: Option<Secret>,
    /// What the names of the collections begin with: 1 to 64 letters, digits and `._-`.
    pub name: String,
    /// The model whose vectors are held.
    pub model: String,
    /// Their dimension.
    pub dimension: usize,
    /// What is searched in. When made.
    pub quantization: Quantization,
    /// With quantization: so many times the hits that are wanted are found first and scored exactly.
    pub oversampling: f64,
    /// Shards of a collection. When made.
    pub shards: u32,
    /// Copies of each shard. When made.
    pub replicas: u32,
    /// So many copies have taken a write before it counts. When made.
    pub write_consistency: u32,
    /// Exact vectors on disk instead of in memory. When made.
    pub on_disk: bool,
    /// Neighbours of each vector (M). When made.
    pub connectivity: u64,
    /// Candidates kept while adding (ef construction). When made.
    pub expansion_add: u64,
    /// Candidates kept while searching (ef); searches for more hits keep more.
    pub expansion_search: u64,
    /// Chunks written by one request.
    pub batch: usize,
    /// How long connecting may take.
    pub connect_timeout: Duration,
    /// How long a search may take, and a look at what is there.
    pub search_timeout: Duration,
    /// How long one write may take, the making of a collection included.
    pub write_timeout: Duration,
}

impl QdrantSettings {
    /// The usual settings.
    #[must_use]
    pub fn new(url: Url, model: impl Into<String>, dimension: usize) -> Self {
        Self {
            url,
            api_key: None,
            name: "raglan".to_owned(),
            model: model.into(),
            dimension,
            quantization: Quantization::Int8,
            oversampling: 2.0,
            shards: 1,
            replicas: 1,
            write_consistency: 1,
            on_disk: false,
            connectivity: 16,
            expansion_add: 200,
            expansion_search: 128,
            batch: 256,
            connect_timeout: Duration::from_secs(2),
            search_timeout: Duration::from_secs(2),
            write_timeout: Duration::from_secs(60),
        }
    }

    /// Refuses what cannot work.
    pub(super) fn check(&self) -> PortResult<()> {
        let named = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        let wrong = if !matches!(self.url.scheme(), "http" | "https") || self.url.host().is_none() {
            format!("Qdrant's address is http://host:6334 or https://…, got {}", self.url)
        } else if !(1..=64).contains(&self.name.len()) || !self.name.chars().all(named) {
            format!("the name of the collections is 1 to 64 letters, digits and . _ -, got {:?}", self.name)
        } else if self.dimension == 0 {
            "a vector index needs at least one dimension".to_owned()
        } else if self.shards == 0 || self.replicas == 0 {
            "a collection has at least one shard and one copy of it".to_owned()
        } else if self.write_consistency == 0 || self.write_consistency > self.replicas {
            format!("writes wait for {} of {} copies", self.write_consistency, self.replicas)
        } else if self.batch == 0 {
            "a write has at least one chunk".to_owned()
        } else if self.oversampling.is_nan() || self.oversampling < 1.0 {
            format!("oversampling is at least 1, got {}", self.oversampling)
        } else {
            return Ok(());
        };
        Err(PortError::new(ErrorKind::Invalid, wrong))
    }

    /// The name that is searched under. It stands for the collection that is current.
    pub(super) fn alias(&self) -> String {
        format!("{}-{}", self.name, slug(&self.model))
    }
}

/// A model's name as part of a collection's, different for different models.
fn slug(model: &str) -> String {
    let named = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '-' };
    let mut slug: String = model.chars().map(named).take(LONGEST_SLUG).collect();
    if slug != model {
        let hash = Sha256::digest(model.as_bytes());
        slug.push('-');
        slug.extend(hash.iter().take(4).map(|byte| format!("{byte:02x}")));
    }
    slug
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> QdrantSettings {
        QdrantSettings::new(Url::parse("http://127.0.0.1:6334").unwrap(), "a/model", 4)
    }

    #[test]
    fn different_models_have_different_names() {
        let names = ["model", "a/model", "a-model", "a model", &"x".repeat(200), &"x".repeat(201)].map(slug);
        for (n, name) in names.iter().enumerate() {
            assert!(name.len() <= LONGEST_SLUG + 9, "{name}");
            assert!(!names[..n].contains(name), "{name}");
        }
        assert_eq!(names[0], "model");
        assert_eq!(settings().alias(), format!("raglan-{}", names[1]));
    }

    #[test]
    fn what_cannot_work_is_refused() {
        assert!(settings().check().is_ok());
        let url = Url::parse("file:///tmp").unwrap();
        for (wrong, why) in [
            (QdrantSettings { url, ..settings() }, "file:///tmp"),
            (QdrantSettings { name: "a/b".to_owned(), ..settings() }, "a/b"),
            (QdrantSettings { name: String::new(), ..settings() }, "1 to 64"),
            (QdrantSettings { dimension: 0, ..settings() }, "dimension"),
            (QdrantSettings { shards: 0, ..settings() }, "shard"),
            (QdrantSettings { write_consistency: 2, ..settings() }, "2 of 1"),
            (QdrantSettings { batch: 0, ..settings() }, "chunk"),
            (QdrantSettings { oversampling: f64::NAN, ..settings() }, "NaN"),
        ] {
            let refused = wrong.check().unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::Invalid);
            assert!(refused.to_string().contains(why), "{refused}");
        }
    }
}
