//! The encoders of candle: what ours is compared with.

use std::path::Path;

use candle_core::{D, DType, Device, IndexOp, Module, Tensor};
use candle_nn::{Linear, VarBuilder};
use candle_transformers::models::{bert, xlm_roberta};

use crate::{CONFIG, Sequence, WEIGHTS};

/// A model on candle, run one text at a time, so that nothing is padded.
pub(crate) struct Reference {
    encoder: Encoder,
    weights: VarBuilder<'static>,
    width: usize,
}

enum Encoder {
    Bert(bert::BertModel),
    Roberta(xlm_roberta::XLMRobertaModel),
}

impl Reference {
    pub(crate) fn load(folder: &Path) -> Self {
        let config = std::fs::read_to_string(folder.join(CONFIG)).unwrap();
        // candle's name for the approximation.
        let config = config.replace("\"gelu_new\"", "\"geluapproximate\"");
        let config: serde_json::Value = serde_json::from_str(&config).unwrap();
        let tensors = candle_core::safetensors::load(folder.join(WEIGHTS), &Device::Cpu).unwrap();
        let weights = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
        let prefix = ["bert", "roberta"]
            .into_iter()
            .find(|prefix| weights.contains_tensor(&format!("{prefix}.embeddings.word_embeddings.weight")));
        let inner = prefix.map_or_else(|| weights.clone(), |prefix| weights.pp(prefix));
        let width = config["hidden_size"].as_u64().unwrap() as usize;
        let encoder = if config["model_type"] == "bert" {
            let config: bert::Config = serde_json::from_value(config).unwrap();
            Encoder::Bert(bert::BertModel::load(inner, &config).unwrap())
        } else {
            let config: xlm_roberta::Config = serde_json::from_value(config).unwrap();
            Encoder::Roberta(xlm_roberta::XLMRobertaModel::new(&config, inner).unwrap())
        };
        Self { encoder, weights, width }
    }

    /// The last states of a text's tokens, one after the other.
    pub(crate) fn states(&self, text: &Sequence) -> Vec<f32> {
        self.forward(text).flatten_all().unwrap().to_vec1().unwrap()
    }

    /// The score of a pair, by a cross-encoder.
    pub(crate) fn score(&self, pair: &Sequence) -> f32 {
        let layer = |name: &str, rows: usize| {
            let at = self.weights.pp(name);
            Linear::new(at.get((rows, self.width), "weight").unwrap(), Some(at.get(rows, "bias").unwrap()))
        };
        let (dense, classifier) = match self.encoder {
            Encoder::Bert(_) => ("bert.pooler.dense", "classifier"),
            Encoder::Roberta(_) => ("classifier.dense", "classifier.out_proj"),
        };
        let first = self.forward(pair).i((.., 0)).unwrap().contiguous().unwrap();
        let pooled = layer(dense, self.width).forward(&first).unwrap().tanh().unwrap();
        let score = layer(classifier, 1).forward(&pooled).unwrap().squeeze(D::Minus1).unwrap();
        score.to_vec1::<f32>().unwrap()[0]
    }

    fn forward(&self, text: &Sequence) -> Tensor {
        let shape = (1, text.len());
        let ids = Tensor::from_vec(text.ids.clone(), shape, &Device::Cpu).unwrap();
        let types = Tensor::from_vec(text.types.clone(), shape, &Device::Cpu).unwrap();
        match &self.encoder {
            Encoder::Bert(model) => model.forward(&ids, &types, None).unwrap(),
            Encoder::Roberta(model) => {
                let mask = Tensor::ones(shape, DType::F32, &Device::Cpu).unwrap();
                model.forward(&ids, &mask, &types, None, None, None).unwrap()
            }
        }
    }
}
