//! The layers of a BERT on candle's tensors, for GPUs.
//!
//! candle's own `BertModel` is not used: in 16-bit numbers its mask of what is padding is not a number, and it multiplies by the weights of query, key
//! and value one by one. Here the three are one product, the scale of the scores is in the query's weights, and a mask is only added where
//! something is padded.

use candle_core::{D, DType, Device, Result, Tensor};
use candle_nn::ops::{layer_norm, softmax_last_dim};
use raglan_encoder::{Activation, EncoderConfig, EncoderError, Weights};

/// Far below every score, and within what 16-bit numbers hold.
const MASKED: f64 = -1e4;

/// An encoder whose weights lie on a device.
pub(super) struct Layers {
    config: EncoderConfig,
    words: Tensor,
    /// From the first token's on.
    positions: Tensor,
    types: Tensor,
    norm: Norm,
    layers: Vec<Layer>,
}

struct Layer {
    /// Query, key and value.
    attention: Linear,
    attention_out: Linear,
    attention_norm: Norm,
    up: Linear,
    down: Linear,
    norm: Norm,
}

struct Linear {
    /// `[inputs, outputs]`.
    weight: Tensor,
    bias: Tensor,
}

struct Norm {
    weight: Tensor,
    bias: Tensor,
    epsilon: f32,
}

/// Why a model could not be put onto a device.
pub(super) enum PlaceError {
    /// Of its files.
    Files(EncoderError),
    /// Of the device.
    Device(candle_core::Error),
}

impl From<EncoderError> for PlaceError {
    fn from(error: EncoderError) -> Self {
        Self::Files(error)
    }
}

impl From<candle_core::Error> for PlaceError {
    fn from(error: candle_core::Error) -> Self {
        Self::Device(error)
    }
}

/// Puts tensors onto a device, and counts their bytes.
pub(super) struct Placer<'a> {
    pub(super) weights: &'a mut Weights,
    pub(super) device: &'a Device,
    pub(super) dtype: DType,
    pub(super) bytes: usize,
}

impl Placer<'_> {
    pub(super) fn put(&mut self, values: Vec<f32>, shape: &[usize]) -> Result<Tensor> {
        let tensor = Tensor::from_vec(values, shape, self.device)?.to_dtype(self.dtype)?;
        self.bytes += tensor.elem_count() * self.dtype.size_in_bytes();
        Ok(tensor)
    }

    fn tensor(&mut self, name: &str, shape: &[usize]) -> std::result::Result<Tensor, PlaceError> {
        let values = self.weights.encoder(name, shape)?;
        Ok(self.put(values, shape)?)
    }

    fn linear(
        &mut self,
        name: &str,
        inputs: usize,
        outputs: usize,
    ) -> std::result::Result<Linear, PlaceError> {
        let weight = self.tensor(&format!("{name}.weight"), &[outputs, inputs])?.t()?;
        Ok(Linear { weight, bias: self.tensor(&format!("{name}.bias"), &[outputs])? })
    }

    fn norm(&mut self, name: &str, config: &EncoderConfig) -> std::result::Result<Norm, PlaceError> {
        let mut part = |part: &str| self.tensor(&format!("{name}.{part}"), &[config.width]);
        Ok(Norm { weight: part("weight")?, bias: part("bias")?, epsilon: config.epsilon })
    }

    /// Query, key and value as one; the query divided by the root of a head's width.
    fn attention(&mut self, name: &str, config: &EncoderConfig) -> std::result::Result<Linear, PlaceError> {
        let width = config.width;
        let scale = 1.0 / ((width / config.heads) as f32).sqrt();
        let (mut weight, mut bias) = (Vec::with_capacity(3 * width * width), Vec::with_capacity(3 * width));
        for (part, scale) in [("query", scale), ("key", 1.0), ("value", 1.0)] {
            let values = self.weights.encoder(&format!("{name}.{part}.weight"), &[width, width])?;
            weight.extend(values.into_iter().map(|value| value * scale));
            let values = self.weights.encoder(&format!("{name}.{part}.bias"), &[width])?;
            bias.extend(values.into_iter().map(|value| value * scale));
        }
        Ok(Linear {
            weight: self.put(weight, &[3 * width, width])?.t()?,
            bias: self.put(bias, &[3 * width])?,
        })
    }
}

impl Layers {
    pub(super) fn load(
        config: &EncoderConfig,
        placer: &mut Placer<'_>,
    ) -> std::result::Result<Self, PlaceError> {
        let width = config.width;
        let words = placer.tensor("embeddings.word_embeddings.weight", &[config.vocabulary, width])?;
        let rows = [config.position_rows, width];
        let mut positions = placer.weights.encoder("embeddings.position_embeddings.weight", &rows)?;
        let positions = positions.split_off(config.first_position.min(config.position_rows) * width);
        let positions = placer.put(positions, &[config.positions(), width])?;
        let types = match config.types {
            0 => placer.put(vec![0.0; width], &[1, width])?,
            types => placer.tensor("embeddings.token_type_embeddings.weight", &[types, width])?,
        };
        let norm = placer.norm("embeddings.LayerNorm", config)?;
        let mut layers = Vec::with_capacity(config.layers);
        for number in 0..config.layers {
            let name = format!("encoder.layer.{number}");
            layers.push(Layer {
                attention: placer.attention(&format!("{name}.attention.self"), config)?,
                attention_out: placer.linear(&format!("{name}.attention.output.dense"), width, width)?,
                attention_norm: placer.norm(&format!("{name}.attention.output.LayerNorm"), config)?,
                up: placer.linear(&format!("{name}.intermediate.dense"), width, config.inner)?,
                down: placer.linear(&format!("{name}.output.dense"), config.inner, width)?,
                norm: placer.norm(&format!("{name}.output.LayerNorm"), config)?,
            });
        }
        Ok(Self { config: config.clone(), words, positions, types, norm, layers })
    }

    /// The last states `[texts, length, width]` of texts that are padded to one length. `ids` and `types` are `[texts, length]` of `u32`;
    /// `mask`, of 32-bit floats, has a 1 for each token and a 0 for each padding, and is absent where nothing is padded.
    pub(super) fn forward(&self, ids: &Tensor, types: &Tensor, mask: Option<&Tensor>) -> Result<Tensor> {
        let (texts, length) = ids.dims2()?;
        let shape = (texts, length, self.config.width);
        let look_up = |table: &Tensor, at: &Tensor| table.index_select(&at.flatten_all()?, 0)?.reshape(shape);
        let positions = self.positions.narrow(0, 0, length)?;
        let embedded = (look_up(&self.words, ids)? + look_up(&self.types, types)?)?;
        let embedded = embedded.broadcast_add(&positions)?.flatten_to(1)?;
        let mut states = self.norm.forward(&embedded)?;
        let added = mask
            .map(|mask| {
                let mask = mask.affine(-MASKED, MASKED)?.to_dtype(states.dtype())?;
                mask.reshape((texts, 1, 1, length))
            })
            .transpose()?;
        for layer in &self.layers {
            let context = self.attend(layer, &states, (texts, length), added.as_ref())?;
            let out = layer.attention_out.forward(&context)?;
            states = layer.attention_norm.forward(&(out + states)?)?;
            let inner = layer.up.forward(&states)?;
            let inner = match self.config.activation {
                Activation::Gelu => inner.gelu_erf()?,
                Activation::GeluTanh => inner.gelu()?,
                Activation::Relu => inner.relu()?,
            };
            states = layer.norm.forward(&(layer.down.forward(&inner)? + states)?)?;
        }
        states.reshape(shape)
    }

    fn attend(
        &self,
        layer: &Layer,
        states: &Tensor,
        (texts, length): (usize, usize),
        added: Option<&Tensor>,
    ) -> Result<Tensor> {
        let (heads, width) = (self.config.heads, self.config.width);
        let parts = layer.attention.forward(states)?.reshape((texts, length, 3, heads, width / heads))?;
        // One copy for all three: [3, texts, heads, length, width of a head].
        let parts = parts.permute((2, 0, 3, 1, 4))?.contiguous()?;
        let [query, key, value] = [0, 1, 2].map(|part| parts.get(part));
        let mut scores = query?.matmul(&key?.t()?)?;
        if let Some(added) = added {
            scores = scores.broadcast_add(added)?;
        }
        let context = softmax_last_dim(&scores)?.matmul(&value?)?;
        context.transpose(1, 2)?.contiguous()?.reshape((texts * length, width))
    }
}

impl Linear {
    fn forward(&self, rows: &Tensor) -> Result<Tensor> {
        rows.matmul(&self.weight)?.broadcast_add(&self.bias)
    }
}

impl Norm {
    fn forward(&self, rows: &Tensor) -> Result<Tensor> {
        layer_norm(rows, &self.weight, &self.bias, self.epsilon)
    }
}

/// What makes a score of a pair's first state, in 32 bits.
pub(super) struct Head {
    dense: Linear,
    classifier: Linear,
}

impl Head {
    pub(super) fn put(head: raglan_encoder::ScoreHead, device: &Device) -> Result<Self> {
        let width = head.dense_bias.len();
        let put = |values: Vec<f32>, shape: &[usize]| Tensor::from_vec(values, shape, device);
        Ok(Self {
            dense: Linear {
                weight: put(head.dense, &[width, width])?.t()?,
                bias: put(head.dense_bias, &[width])?,
            },
            classifier: Linear {
                weight: put(head.classifier, &[1, width])?.t()?,
                bias: put(vec![head.classifier_bias], &[1])?,
            },
        })
    }

    /// The scores `[texts, 1]` of states `[texts, length, width]`.
    pub(super) fn forward(&self, states: &Tensor) -> Result<Tensor> {
        let first = first(states)?;
        self.classifier.forward(&self.dense.forward(&first)?.tanh()?)
    }
}

/// The states of the first tokens, `[texts, width]`, in 32 bits.
pub(crate) fn first(states: &Tensor) -> Result<Tensor> {
    states.narrow(1, 0, 1)?.squeeze(1)?.contiguous()?.to_dtype(DType::F32)
}

/// The sums of the states of each text's tokens, `[texts, width]`, in 32 bits. `mask` is as of [`Layers::forward`].
pub(crate) fn sum(states: &Tensor, mask: Option<&Tensor>) -> Result<Tensor> {
    let states = states.to_dtype(DType::F32)?;
    match mask {
        None => states.sum(1),
        Some(mask) => states.broadcast_mul(&mask.unsqueeze(D::Minus1)?)?.sum(1),
    }
}

/// The greatest value of each dimension among the states of each text's tokens, `[texts, width]`, in 32 bits.
pub(crate) fn greatest(states: &Tensor, mask: Option<&Tensor>) -> Result<Tensor> {
    /// Above every value of a state.
    const TOP: f64 = 1e30;
    let states = states.to_dtype(DType::F32)?;
    match mask {
        None => states.max(1),
        Some(mask) => {
            let most = mask.unsqueeze(D::Minus1)?.affine(2.0 * TOP, -TOP)?;
            states.broadcast_minimum(&most)?.max(1)
        }
    }
}
