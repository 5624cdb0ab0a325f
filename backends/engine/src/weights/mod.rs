//! A model's weights on their way from its files to a device.

mod gguf;
mod safetensors;

use std::path::{Path, PathBuf};

use candle_core::{
    DType, Device, Tensor,
    quantized::{GgmlDType, QMatMul, QTensor},
};

pub(crate) use self::gguf::GgufFile;
use self::safetensors::SafetensorFiles;
use crate::{LoadError, config::ModelConfig, model::Linear};

/// Told how many of how many bytes are loaded.
pub type Progress<'a> = &'a (dyn Fn(u64, u64) + Send + Sync);

/// Where a model's files are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ModelFiles {
    /// A folder with `config.json` and one or more safetensors files.
    Safetensors { folder: PathBuf, files: Vec<PathBuf> },
    /// One GGUF file; the tokeniser and the rest lie beside it.
    Gguf { folder: PathBuf, file: PathBuf },
}

impl ModelFiles {
    /// Finds the files of a model: in a folder, or beside a GGUF file.
    pub(crate) fn find(path: &Path) -> Result<Self, LoadError> {
        let is_gguf = |path: &Path| path.extension().is_some_and(|extension| extension == "gguf");
        if path.is_file() && is_gguf(path) {
            let folder = path.parent().unwrap_or(Path::new(".")).to_owned();
            return Ok(Self::Gguf { folder, file: path.to_owned() });
        }
        if let Some(files) = safetensors::find(path)? {
            return Ok(Self::Safetensors { folder: path.to_owned(), files });
        }
        let entries =
            std::fs::read_dir(path).map_err(|source| LoadError::Read { path: path.to_owned(), source })?;
        let mut found: Vec<PathBuf> =
            entries.filter_map(Result::ok).map(|entry| entry.path()).filter(|path| is_gguf(path)).collect();
        found.sort();
        match found.as_slice() {
            [file] => Ok(Self::Gguf { folder: path.to_owned(), file: file.clone() }),
            [] => Err(LoadError::invalid(
                path,
                "it has neither model.safetensors, nor model.safetensors.index.json, nor a .gguf file",
            )),
            several => {
                let reason = format!("it has {} .gguf files; name the one that is meant", several.len());
                Err(LoadError::invalid(path, reason))
            }
        }
    }

    /// The folder with the tokeniser's files.
    pub(crate) fn folder(&self) -> &Path {
        match self {
            Self::Safetensors { folder, .. } | Self::Gguf { folder, .. } => folder,
        }
    }
}

enum Source {
    Safetensors(SafetensorFiles),
    Gguf(Box<GgufFile>),
}

/// The weights of a model, put on a device one by one.
pub(crate) struct Weights<'a> {
    source: Source,
    device: Device,
    dtype: DType,
    /// How matrices are quantised that are not already.
    quantize: Option<GgmlDType>,
    progress: Progress<'a>,
    /// For errors.
    path: PathBuf,
    done: u64,
    total: u64,
}

impl<'a> Weights<'a> {
    pub(crate) fn open(
        files: &ModelFiles,
        device: &Device,
        dtype: DType,
        quantize: Option<GgmlDType>,
        progress: Progress<'a>,
    ) -> Result<Self, LoadError> {
        let (source, path) = match files {
            ModelFiles::Safetensors { folder, files } => {
                (Source::Safetensors(SafetensorFiles::open(files, folder)?), folder.clone())
            }
            ModelFiles::Gguf { file, .. } => (Source::Gguf(Box::new(GgufFile::open(file)?)), file.clone()),
        };
        let total = match &source {
            Source::Safetensors(files) => files.bytes(),
            Source::Gguf(file) => file.bytes(),
        };
        Ok(Self { source, device: device.clone(), dtype, quantize, progress, path, done: 0, total })
    }

    /// The device that the weights go to.
    pub(crate) fn device(&self) -> &Device {
        &self.device
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        match &self.source {
            Source::Safetensors(files) => files.shape(name).is_some(),
            Source::Gguf(file) => file.shape(name).is_some(),
        }
    }

    /// A tensor of exactly this shape, in the model's numbers.
    pub(crate) fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<Tensor, LoadError> {
        let device = self.device.clone();
        self.load(name, shape, &device)?.to_dtype(self.dtype).map_err(|error| LoadError::device(&error))
    }

    /// What the frequencies of the rotary embedding are divided by, where the file says so.
    pub(crate) fn frequency_divisors(&mut self, pairs: usize) -> Result<Option<Vec<f32>>, LoadError> {
        if !self.has("rope_freqs.weight") {
            return Ok(None);
        }
        let divisors = self.load("rope_freqs.weight", &[pairs], &Device::Cpu)?;
        let divisors = divisors.to_dtype(DType::F32).and_then(|divisors| divisors.to_vec1());
        divisors.map(Some).map_err(|error| LoadError::device(&error))
    }

    /// Several matrices of `[rows, columns]` each as one, with a bias each where `biased`.
    pub(crate) fn linear(
        &mut self,
        names: &[String],
        rows: &[usize],
        columns: usize,
        biased: bool,
    ) -> Result<Linear, LoadError> {
        let failed = |error: candle_core::Error| LoadError::device(&error);
        let mut quantized = Vec::new();
        let mut plain = Vec::new();
        for (name, rows) in names.iter().zip(rows) {
            let weight = format!("{name}.weight");
            quantized.push(self.quantized(&weight, &[*rows, columns])?);
            if let Some(None) = quantized.last() {
                plain.push(self.unquantized(&weight, &[*rows, columns])?);
            }
        }
        let matrices = if plain.len() == names.len() {
            vec![self.matrix(Tensor::cat(&plain, 0).map_err(failed)?, columns)?]
        } else {
            // As many products as matrices, since they are of several kinds.
            let mut plain = plain.into_iter();
            let each = quantized.into_iter().filter_map(|quantized| match quantized {
                Some(tensor) => Some(QMatMul::from_qtensor(tensor).map_err(failed)),
                None => plain.next().map(|tensor| self.matrix(tensor, columns)),
            });
            each.collect::<Result<_, _>>()?
        };
        let bias = if biased {
            let biases =
                names.iter().zip(rows).map(|(name, rows)| self.tensor(&format!("{name}.bias"), &[*rows]));
            let biases = biases.collect::<Result<Vec<_>, _>>()?;
            Some(Tensor::cat(&biases, 0).map_err(failed)?)
        } else {
            None
        };
        Ok(Linear::new(matrices, bias))
    }

    /// A matrix that is a table too: quantised as the others are.
    pub(crate) fn matrix(&self, weight: Tensor, columns: usize) -> Result<QMatMul, LoadError> {
        let failed = |error: candle_core::Error| LoadError::device(&error);
        let Some(kind) = self.quantize else { return Ok(QMatMul::Tensor(weight)) };
        if !columns.is_multiple_of(kind.block_size()) {
            let reason = format!(
                "rows of {columns} numbers cannot be quantised in blocks of {}; set quantize: none",
                kind.block_size()
            );
            return Err(LoadError::unsupported(&self.path, reason));
        }
        let weight = weight.to_device(&Device::Cpu).map_err(failed)?;
        let quantized = QTensor::quantize_onto(&weight, kind, &self.device).map_err(failed)?;
        QMatMul::from_qtensor(quantized).map_err(failed)
    }

    /// A matrix as it is to be multiplied, or as it is to be quantised: that is done by the processor, from its memory.
    fn unquantized(&mut self, name: &str, shape: &[usize]) -> Result<Tensor, LoadError> {
        if self.quantize.is_none() {
            return self.tensor(name, shape);
        }
        self.load(name, shape, &Device::Cpu)
    }

    fn quantized(&mut self, name: &str, shape: &[usize]) -> Result<Option<QTensor>, LoadError> {
        self.check(name, shape)?;
        let Source::Gguf(file) = &mut self.source else { return Ok(None) };
        let Some(tensor) = file.quantized(name, &self.device)? else { return Ok(None) };
        self.done += tensor.storage_size_in_bytes() as u64;
        (self.progress)(self.done.min(self.total), self.total);
        Ok(Some(tensor))
    }

    fn load(&mut self, name: &str, shape: &[usize], device: &Device) -> Result<Tensor, LoadError> {
        self.check(name, shape)?;
        let tensor = match &mut self.source {
            Source::Safetensors(files) => files.load(name, device)?,
            Source::Gguf(file) => file.dequantized(name, device)?,
        };
        self.done += match &self.source {
            Source::Safetensors(files) => files.tensor_bytes(name),
            Source::Gguf(file) => file.tensor_bytes(name),
        };
        (self.progress)(self.done.min(self.total), self.total);
        Ok(tensor)
    }

    fn check(&self, name: &str, shape: &[usize]) -> Result<(), LoadError> {
        let found = match &self.source {
            Source::Safetensors(files) => files.shape(name),
            Source::Gguf(file) => file.shape(name),
        };
        match found {
            None => Err(LoadError::invalid(&self.path, format!("it has no tensor {name}"))),
            Some(found) if found != shape => {
                let reason = format!("{name} has the shape {found:?}, and the configuration means {shape:?}");
                Err(LoadError::invalid(&self.path, reason))
            }
            Some(_) => Ok(()),
        }
    }
}

/// Bytes of so many numbers of this kind.
fn stored_bytes(count: usize, kind: GgmlDType) -> usize {
    count / kind.block_size() * kind.type_size()
}

/// In how many bytes the weights of a model that is stored unquantised lie on the device.
pub(crate) fn weight_bytes(config: &ModelConfig, dtype: DType, quantize: Option<GgmlDType>) -> u64 {
    let table = config.vocabulary * config.width;
    let bytes = match quantize {
        Some(kind) => {
            // The table of words is looked up in, and stays as it is.
            let matrices = config.parameters() - if config.tied { 0 } else { table };
            stored_bytes(matrices, kind) + table * dtype.size_in_bytes()
        }
        None => config.parameters() * dtype.size_in_bytes(),
    };
    bytes as u64
}
