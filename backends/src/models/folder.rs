//! A folder that holds a model, checked before anything is loaded from it.

use std::{
    io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

use super::{LoadError, files, spec};

/// A model's files, whole and fitting each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelFolder {
    path: PathBuf,
    name: String,
    weights_sha256: String,
}

/// What every model's `config.json` says that is checked here.
#[derive(Deserialize)]
struct Dimensions {
    vocab_size: u64,
    hidden_size: u64,
}

impl ModelFolder {
    /// Opens a folder of the user's own. Its files are not pinned, but all must be there, readable, whole and of matching
    /// dimensions. The model is named after the folder. Blocks: it reads all weights once for their hash.
    ///
    /// # Errors
    /// [`LoadError`] with the file that is missing or wrong.
    pub fn open(path: &Path) -> Result<Self, LoadError> {
        let folder = Self {
            path: path.to_owned(),
            name: path
                .canonicalize()
                .ok()
                .and_then(|whole| whole.file_name().map(|name| name.to_string_lossy().into_owned()))
                .unwrap_or_else(|| "model".to_owned()),
            weights_sha256: String::new(),
        };
        folder.check()?;
        let weights = folder.file(spec::WEIGHTS);
        let weights_sha256 =
            files::sha256_of(&weights).map_err(|source| LoadError::Read { path: weights, source })?;
        // Known weights keep their name, so that vectors made from the cache and from a folder stay comparable.
        let name = spec::ModelSpec::built_in()
            .into_iter()
            .find(|known| known.weights_sha256() == weights_sha256)
            .map_or(folder.name, |known| known.name);
        Ok(Self { path: folder.path, name, weights_sha256 })
    }

    /// A folder whose files were verified against a specification.
    pub(super) fn verified(path: PathBuf, spec: &super::ModelSpec) -> Self {
        Self { path, name: spec.name.clone(), weights_sha256: spec.weights_sha256().to_owned() }
    }

    /// Where it lies.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The model's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// SHA-256 of the weights, in lower-case hexadecimal.
    #[must_use]
    pub fn weights_sha256(&self) -> &str {
        &self.weights_sha256
    }

    /// Name and weights in short: `all-MiniLM-L6-v2@53aa51172d14`.
    #[must_use]
    pub fn id(&self) -> String {
        format!("{}@{}", self.name, super::short_hash(&self.weights_sha256))
    }

    /// The path of one of its files.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Reads a JSON file that must be there.
    pub(crate) fn read_json<T: DeserializeOwned>(&self, name: &str) -> Result<T, LoadError> {
        let path = self.file(name);
        match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| LoadError::invalid(&path, error)),
            Err(source) => Err(LoadError::Read { path, source }),
        }
    }

    /// Reads a JSON file that may be absent.
    pub(crate) fn read_json_if_there<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, LoadError> {
        if self.file(name).exists() { self.read_json(name).map(Some) } else { Ok(None) }
    }

    fn check(&self) -> Result<(), LoadError> {
        let dimensions: Dimensions = self.read_json(spec::CONFIG)?;
        let _: Value = self.read_json(spec::TOKENIZER)?;
        let weights = self.file(spec::WEIGHTS);
        let (header, _) = raglan_encoder::read_header(&weights).map_err(|source| match source.kind() {
            io::ErrorKind::InvalidData => LoadError::invalid(&weights, source),
            _ => LoadError::Read { path: weights.clone(), source },
        })?;
        let expected = [dimensions.vocab_size, dimensions.hidden_size];
        let words = header
            .as_object()
            .and_then(|tensors| tensors.iter().find(|(name, _)| name.ends_with("word_embeddings.weight")))
            .and_then(|(_, tensor)| tensor.get("shape"))
            .and_then(|shape| serde_json::from_value::<[u64; 2]>(shape.clone()).ok());
        match words {
            Some(found) if found == expected => Ok(()),
            Some(found) => Err(LoadError::invalid(
                &weights,
                format!("its word embeddings are {found:?}, but config.json says {expected:?}"),
            )),
            None => Err(LoadError::unsupported(&self.path, "its weights have no word embeddings of a BERT")),
        }
    }
}
