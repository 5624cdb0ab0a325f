//! What a model wants to be put before a question and before a passage.

use raglan_pipeline::domain::EmbedPurpose;
use sha2::{Digest, Sha256};

/// The texts put before others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Prefixes {
    pub(super) query: String,
    pub(super) passage: String,
}

impl Prefixes {
    /// Texts as the model is to read them.
    pub(super) fn before(&self, texts: Vec<String>, purpose: EmbedPurpose) -> Vec<String> {
        let prefix = match purpose {
            EmbedPurpose::Query => &self.query,
            EmbedPurpose::Passage | EmbedPurpose::Candidate => &self.passage,
        };
        match prefix.as_str() {
            "" => texts,
            prefix => texts.into_iter().map(|text| format!("{prefix}{text}")).collect(),
        }
    }

    /// For a model's name: nothing where there are none, else `-` and what tells these from others.
    pub(super) fn mark(&self) -> String {
        if self.query.is_empty() && self.passage.is_empty() {
            return String::new();
        }
        let hash =
            Sha256::new().chain_update(&self.query).chain_update([0]).chain_update(&self.passage).finalize();
        format!("-{:02x}{:02x}{:02x}{:02x}", hash[0], hash[1], hash[2], hash[3])
    }
}
