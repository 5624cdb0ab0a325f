//! Weights in safetensors files, mapped into memory.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use candle_core::{Device, Tensor, safetensors::MmapedSafetensors};
use serde::Deserialize;

use crate::LoadError;

const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// The safetensors files of a folder: one, or those that the index names. None where the folder has neither.
pub(super) fn find(folder: &Path) -> Result<Option<Vec<PathBuf>>, LoadError> {
    let whole = folder.join(WEIGHTS);
    if whole.is_file() {
        return Ok(Some(vec![whole]));
    }
    let index_path = folder.join(INDEX);
    if !index_path.is_file() {
        return Ok(None);
    }
    let bytes =
        std::fs::read(&index_path).map_err(|source| LoadError::Read { path: index_path.clone(), source })?;
    let index: Index =
        serde_json::from_slice(&bytes).map_err(|error| LoadError::invalid(&index_path, error))?;
    let names: BTreeSet<&String> = index.weight_map.values().collect();
    let mut files = Vec::new();
    for name in names {
        // The index is a file from elsewhere: it may name files of its own folder and no others.
        if Path::new(name).file_name() != Some(name.as_ref()) {
            return Err(LoadError::invalid(&index_path, format!("{name:?} is no name of a file beside it")));
        }
        let path = folder.join(name);
        if !path.is_file() {
            return Err(LoadError::invalid(&index_path, format!("it names {name}, which is not there")));
        }
        files.push(path);
    }
    if files.is_empty() {
        return Err(LoadError::invalid(&index_path, "it names no files"));
    }
    Ok(Some(files))
}

pub(super) struct SafetensorFiles {
    mapped: MmapedSafetensors,
    /// Of each tensor: its shape, and its bytes in the file.
    tensors: BTreeMap<String, (Vec<usize>, u64)>,
    folder: PathBuf,
}

impl SafetensorFiles {
    pub(super) fn open(files: &[PathBuf], folder: &Path) -> Result<Self, LoadError> {
        // SAFETY: the files of a model are not changed while they are loaded; this is what every reader of mapped weights relies on, and the
        // documentation tells to replace models by new folders.
        let mapped = unsafe { MmapedSafetensors::multi(files) };
        let mapped = mapped.map_err(|error| LoadError::invalid(folder, crate::error::first_line(&error)))?;
        let tensors = mapped
            .tensors()
            .into_iter()
            .map(|(name, view)| (name, (view.shape().to_vec(), view.data().len() as u64)))
            .collect();
        Ok(Self { mapped, tensors, folder: folder.to_owned() })
    }

    pub(super) fn bytes(&self) -> u64 {
        self.tensors.values().map(|(_, bytes)| bytes).sum()
    }

    pub(super) fn tensor_bytes(&self, name: &str) -> u64 {
        self.tensors.get(name).map_or(0, |(_, bytes)| *bytes)
    }

    pub(super) fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(|(shape, _)| shape.as_slice())
    }

    pub(super) fn load(&self, name: &str, device: &Device) -> Result<Tensor, LoadError> {
        self.mapped.load(name, device).map_err(|error| {
            LoadError::invalid(&self.folder, format!("{name}: {}", crate::error::first_line(&error)))
        })
    }
}
