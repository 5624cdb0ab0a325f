//! Reading the tensors of a safetensors file, one at a time, as `f32`.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use half::slice::HalfFloatSliceExt;
use serde::Deserialize;
use serde_json::Value;

use crate::{EncoderError, WEIGHTS};

/// An open file of weights.
pub struct Weights {
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

/// The largest header that is read, in bytes; that of a model with thousands of tensors is far smaller.
const MAX_HEADER_BYTES: u64 = 16 << 20;
/// Under which names models with a head keep their encoder.
const PREFIXES: [&str; 4] = ["", "bert.", "roberta.", "model."];
/// A tensor that every encoder has.
const WORDS: &str = "embeddings.word_embeddings.weight";

impl Weights {
    /// Opens the weights in a model's folder and reads their header.
    ///
    /// # Errors
    /// [`EncoderError`] where the file is missing, torn, or not of an encoder.
    pub fn open(folder: &Path) -> Result<Self, EncoderError> {
        let path = folder.join(WEIGHTS);
        let read = |source| EncoderError::Read { path: path.clone(), source };
        let (header, start) = read_header(&path).map_err(read)?;
        let tensors: HashMap<String, Place> = header
            .as_object()
            .into_iter()
            .flatten()
            .filter(|(name, _)| *name != "__metadata__")
            .map(|(name, place)| Ok((name.clone(), Place::deserialize(place)?)))
            .collect::<Result<_, serde_json::Error>>()
            .map_err(|error| EncoderError::invalid(&path, error))?;
        let prefix = PREFIXES.into_iter().find(|prefix| tensors.contains_key(&format!("{prefix}{WORDS}")));
        let prefix = prefix.ok_or_else(|| {
            EncoderError::unsupported(folder, "its weights have no word embeddings of a BERT")
        })?;
        let file = File::open(&path).map_err(read)?;
        Ok(Self { path, file, start, tensors, prefix })
    }

    /// Whether the file has a tensor of this name, as it stands there.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// A tensor of the encoder, whatever the model puts before its name.
    ///
    /// # Errors
    /// As of [`tensor`](Self::tensor).
    pub fn encoder(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>, EncoderError> {
        self.tensor(&format!("{}{name}", self.prefix), shape)
    }

    /// A tensor of the model, by its full name, as `f32`.
    ///
    /// # Errors
    /// [`EncoderError`] where it is missing, of another shape, of a type other than F32, F16 and BF16, or holds what is not a number.
    pub fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>, EncoderError> {
        let invalid = |reason: String| EncoderError::invalid(&self.path, reason);
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
        read().map_err(|source| EncoderError::Read { path: self.path.clone(), source })?;
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
            Err(EncoderError::invalid(&self.path, format!("{name} holds what is not a number")))
        }
    }
}

/// Reads the header of a safetensors file (8 bytes with its length, then JSON) and checks that the data it describes are
/// all there. Answers with the header and where the data begin. See the format's description at <https://github.com/huggingface/safetensors>.
///
/// # Errors
/// What the system said, or [`io::ErrorKind::InvalidData`] with what is wrong with the file.
pub fn read_header(path: &Path) -> io::Result<(Value, u64)> {
    let invalid = |reason: String| io::Error::new(io::ErrorKind::InvalidData, reason);
    let mut file = File::open(path)?;
    let bytes = file.metadata()?.len();
    let mut length = [0_u8; 8];
    if bytes < 8 {
        return Err(invalid("it is empty or cut off".to_owned()));
    }
    file.read_exact(&mut length)?;
    let length = u64::from_le_bytes(length);
    if length > MAX_HEADER_BYTES || length > bytes - 8 {
        return Err(invalid("it is not a safetensors file, or cut off".to_owned()));
    }
    let mut header = Vec::new();
    file.take(length).read_to_end(&mut header)?;
    let header: Value = serde_json::from_slice(&header).map_err(|error| invalid(error.to_string()))?;
    let end = header
        .as_object()
        .into_iter()
        .flat_map(|tensors| tensors.values())
        .filter_map(|tensor| tensor.get("data_offsets")?.get(1)?.as_u64())
        .max()
        .unwrap_or(0);
    if end.checked_add(8 + length) != Some(bytes) {
        return Err(invalid(format!("it has {bytes} bytes instead of {}", end.saturating_add(8 + length))));
    }
    Ok((header, 8 + length))
}
