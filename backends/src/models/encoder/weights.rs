//! Reading the tensors of a safetensors file, one at a time, as `f32`.

use std::{
    collections::HashMap,
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::PathBuf,
};

use half::slice::HalfFloatSliceExt;
use serde::Deserialize;

use crate::models::{LoadError, ModelFolder, WEIGHTS};

/// An open file of weights.
pub(crate) struct Weights {
    path: PathBuf,
    file: File,
    /// Where the tensors' bytes begin.
    start: u64,
    tensors: HashMap<String, Place>,
    prefix: &'static str,
}

#[derive(Deserialize)]
struct Place {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: (u64, u64),
}

/// Under which names models with a head keep their encoder.
const PREFIXES: [&str; 4] = ["", "bert.", "roberta.", "model."];
/// A tensor that every encoder has.
const WORDS: &str = "embeddings.word_embeddings.weight";

impl Weights {
    pub(crate) fn open(folder: &ModelFolder) -> Result<Self, LoadError> {
        let path = folder.file(WEIGHTS);
        let read = |source| LoadError::Read { path: path.clone(), source };
        let (header, start) = crate::models::folder::read_header(&path).map_err(read)?;
        let tensors: HashMap<String, Place> = header
            .as_object()
            .into_iter()
            .flatten()
            .filter(|(name, _)| *name != "__metadata__")
            .map(|(name, place)| Ok((name.clone(), Place::deserialize(place)?)))
            .collect::<Result<_, serde_json::Error>>()
            .map_err(|error| LoadError::invalid(&path, error))?;
        let prefix = PREFIXES.into_iter().find(|prefix| tensors.contains_key(&format!("{prefix}{WORDS}")));
        let prefix = prefix.ok_or_else(|| {
            LoadError::unsupported(folder.path(), "its weights have no word embeddings of a BERT")
        })?;
        let file = File::open(&path).map_err(read)?;
        Ok(Self { path, file, start, tensors, prefix })
    }

    /// Whether the file has a tensor of this name, as it stands there.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// A tensor of the encoder, whatever the model puts before its name.
    pub(super) fn encoder(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>, LoadError> {
        self.tensor(&format!("{}{name}", self.prefix), shape)
    }

    /// A tensor of the model, by its full name.
    pub(crate) fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>, LoadError> {
        let invalid = |reason: String| LoadError::invalid(&self.path, reason);
        let place = self.tensors.get(name).ok_or_else(|| invalid(format!("it has no {name}")))?;
        if place.shape != shape {
            return Err(invalid(format!("{name} is {:?}, but should be {shape:?}", place.shape)));
        }
        let size = match place.dtype.as_str() {
            "F32" => 4,
            "F16" | "BF16" => 2,
            other => {
                return Err(invalid(format!(
                    "{name} is of the type {other}; only F32, F16 and BF16 are known"
                )));
            }
        };
        let values: usize = shape.iter().product();
        let (from, to) = place.data_offsets;
        if to.checked_sub(from) != Some((values * size) as u64) {
            return Err(invalid(format!("{name} has not the size of its shape")));
        }
        let mut bytes = vec![0; values * size];
        let mut read = || {
            self.file.seek(SeekFrom::Start(self.start + from))?;
            self.file.read_exact(&mut bytes)
        };
        read().map_err(|source| LoadError::Read { path: self.path.clone(), source })?;
        let values = match place.dtype.as_str() {
            "F32" => bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect(),
            "F16" => {
                let values = bytes.as_chunks::<2>().0.iter().map(|bytes| half::f16::from_le_bytes(*bytes));
                values.collect::<Vec<_>>().to_f32_vec()
            }
            _ => {
                let values = bytes.as_chunks::<2>().0.iter().map(|bytes| half::bf16::from_le_bytes(*bytes));
                values.collect::<Vec<_>>().to_f32_vec()
            }
        };
        let values: Vec<f32> = values;
        if values.iter().all(|value| value.is_finite()) {
            Ok(values)
        } else {
            Err(LoadError::invalid(&self.path, format!("{name} holds what is not a number")))
        }
    }
}
