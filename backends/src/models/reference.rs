//! A BERT on candle: what the encoder's results are compared with.

use candle_core::{DType, Device, IndexOp, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::bert::{BertModel, Config};
use serde::Deserialize;

use super::{CONFIG, LoadError, ModelFolder, Sequence, WEIGHTS};

/// What decides before candle's own reading of `config.json` whether it can run the model.
#[derive(Deserialize)]
struct Kind {
    model_type: Option<String>,
    position_embedding_type: Option<String>,
}

/// The model's layers. Shared by all threads that run it.
pub(crate) struct Encoder {
    model: BertModel,
    padding: u32,
}

/// An encoder with what it was loaded from, for the layers that come after it.
pub(crate) struct Loaded {
    pub(crate) encoder: Encoder,
    pub(crate) config: Config,
    pub(crate) weights: VarBuilder<'static>,
}

/// A batch's last hidden states.
pub(crate) struct Hidden {
    states: Tensor,
}

impl Encoder {
    /// Loads the weights into memory, as `f32`. Blocks.
    pub(crate) fn load(folder: &ModelFolder) -> Result<Loaded, LoadError> {
        let kind: Kind = folder.read_json(CONFIG)?;
        let described = [
            ("model_type", kind.model_type.as_deref(), "bert"),
            ("position_embedding_type", kind.position_embedding_type.as_deref(), "absolute"),
        ];
        for (field, found, wanted) in described {
            if let Some(found) = found.filter(|found| *found != wanted) {
                let reason = format!("its {field} is {found}, and only {wanted} is known");
                return Err(LoadError::unsupported(folder.path(), reason));
            }
        }
        let config: Config = folder.read_json(CONFIG)?;
        let path = folder.file(WEIGHTS);
        let bytes = std::fs::read(&path).map_err(|source| LoadError::Read { path: path.clone(), source })?;
        let invalid = |error: candle_core::Error| LoadError::invalid(&path, error);
        // Read once into tensors that all threads share; the file's bytes are let go.
        let tensors = candle_core::safetensors::load_buffer(&bytes, &Device::Cpu).map_err(invalid)?;
        drop(bytes);
        let weights = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
        // Models with a head keep the encoder under a name of its own.
        let prefixed = weights.contains_tensor("bert.embeddings.word_embeddings.weight");
        let of_encoder = if prefixed { weights.pp("bert") } else { weights.clone() };
        let model = BertModel::load(of_encoder, &config).map_err(invalid)?;
        let padding = u32::try_from(config.pad_token_id).unwrap_or(0);
        Ok(Loaded { encoder: Self { model, padding }, config, weights })
    }

    /// Runs a batch, padded to its own longest sequence.
    pub(crate) fn forward(&self, batch: &[&Sequence]) -> candle_core::Result<Hidden> {
        let longest = batch.iter().map(|sequence| sequence.len()).max().unwrap_or(0);
        let shape = (batch.len(), longest);
        let padded = |values: fn(&Sequence) -> &[u32], padding: u32| -> candle_core::Result<Tensor> {
            let mut flat = Vec::with_capacity(batch.len() * longest);
            for sequence in batch {
                flat.extend_from_slice(values(sequence));
                flat.resize(flat.len() + longest - sequence.len(), padding);
            }
            Tensor::from_vec(flat, shape, &Device::Cpu)
        };
        let ids = padded(|sequence| &sequence.ids, self.padding)?;
        let types = padded(|sequence| &sequence.types, 0)?;
        let mask = if batch.iter().all(|sequence| sequence.len() == longest) {
            None
        } else {
            let mut flat = Vec::with_capacity(batch.len() * longest);
            for sequence in batch {
                flat.resize(flat.len() + sequence.len(), 1_u32);
                flat.resize(flat.len() + longest - sequence.len(), 0);
            }
            Some(Tensor::from_vec(flat, shape, &Device::Cpu)?)
        };
        Ok(Hidden { states: self.model.forward(&ids, &types, mask.as_ref())? })
    }
}

impl Hidden {
    /// The states of one sequence's tokens, its padding left out, one after the other.
    pub(crate) fn tokens(&self, index: usize, tokens: usize) -> candle_core::Result<Vec<f32>> {
        self.states.i((index, ..tokens))?.flatten_all()?.to_vec1()
    }

    /// Each sequence's first state, as a tensor of one row a sequence.
    pub(crate) fn first(&self) -> candle_core::Result<Tensor> {
        self.states.i((.., 0))?.contiguous()
    }
}
