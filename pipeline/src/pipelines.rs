//! The query and indexing pipelines of the configuration: named lists of typed components with their parameters.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::domain::{PipelineName, SearchMode};

/// All pipelines that requests can choose from.
#[derive(Debug, Clone, PartialEq)]
pub struct Pipelines {
    /// For questions.
    pub query: BTreeMap<PipelineName, QueryPipeline>,
    /// For documents.
    pub indexing: BTreeMap<PipelineName, IndexingPipeline>,
}

/// How a question is answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QueryPipeline {
    /// What requests call it.
    pub name: PipelineName,
    /// Which searches run.
    #[serde(default)]
    pub search: SearchSettings,
    /// How their results become one list.
    #[serde(default)]
    pub fusion: Fusion,
    /// Whether and how the best are scored again.
    #[serde(default)]
    pub rerank: Option<RerankSettings>,
    /// Which of them are kept.
    #[serde(default)]
    pub select: SelectSettings,
    /// What writes the answer.
    #[serde(default)]
    pub generate: GenerateSettings,
}

/// Which searches run, and how deep.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SearchSettings {
    /// Hybrid, vector or keyword.
    pub mode: SearchMode,
    /// How many hits each search brings.
    pub candidates: usize,
}

impl Default for SearchSettings {
    fn default() -> Self {
        Self { mode: SearchMode::Hybrid, candidates: 100 }
    }
}

/// How much each search counts.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Weights {
    /// The vector search.
    pub vector: f32,
    /// The keyword search.
    pub keyword: f32,
}

impl Default for Weights {
    fn default() -> Self {
        Self { vector: 1.0, keyword: 1.0 }
    }
}

/// How two rankings become one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Fusion {
    /// Weighted sum of scores, each search's scaled to 0..1.
    MinMax {
        /// How much each search counts.
        #[serde(default)]
        weights: Weights,
    },
    /// Weighted sum of `1 / (k + rank)`.
    Rrf {
        /// Flattens the difference between ranks; 60 in the original paper.
        #[serde(default = "Fusion::default_k")]
        k: f32,
        /// How much each search counts.
        #[serde(default)]
        weights: Weights,
    },
}

impl Fusion {
    fn default_k() -> f32 {
        60.0
    }
}

impl Default for Fusion {
    fn default() -> Self {
        Self::MinMax { weights: Weights::default() }
    }
}

/// How the best are scored again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RerankSettings {
    /// How many of the fused list are scored; never fewer than the passages that were asked for.
    pub candidates: usize,
    /// How long it may take, in milliseconds; after that the fused order stands and the result says so.
    pub deadline_ms: u64,
}

impl Default for RerankSettings {
    fn default() -> Self {
        Self { candidates: 30, deadline_ms: 2_000 }
    }
}

/// Which passages are kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SelectSettings {
    /// How many, where the request does not say.
    pub top_k: usize,
    /// At most so many of one document; no limit where absent.
    pub per_document: Option<usize>,
    /// Whether passages that say the same are shown once.
    pub collapse_duplicates: bool,
    /// Whether chunks that follow each other in their document become one passage.
    pub merge_neighbours: bool,
}

impl Default for SelectSettings {
    fn default() -> Self {
        Self { top_k: 5, per_document: None, collapse_duplicates: true, merge_neighbours: true }
    }
}

/// What writes the answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GenerateSettings {
    /// The name of a configured generator.
    pub generator: String,
    /// The most tokens of a prompt.
    pub max_prompt_tokens: usize,
}

impl Default for GenerateSettings {
    fn default() -> Self {
        Self { generator: "extractive".to_owned(), max_prompt_tokens: 3_000 }
    }
}

/// How documents are taken in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IndexingPipeline {
    /// What requests call it.
    pub name: PipelineName,
    /// How files are read.
    #[serde(default)]
    pub parse: ParseSettings,
    /// How texts are cut.
    #[serde(default)]
    pub chunk: crate::ingestion::chunker::ChunkerSettings,
}

/// How files are read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ParseSettings {
    /// How long one file may take, in seconds.
    pub timeout_s: u64,
}

impl Default for ParseSettings {
    fn default() -> Self {
        Self { timeout_s: 120 }
    }
}
