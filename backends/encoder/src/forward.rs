//! The encoder itself: from token ids to the last layer's states.

use std::{
    path::Path,
    sync::{Mutex, PoisonError},
};

use half::{f16, slice::HalfFloatSliceExt};

use crate::{
    EncoderError, Precision, Sequence,
    attention::{AttentionScratch, HEAD_TILE, Head},
    config::{Activation, EncoderConfig},
    kernels::{Aligned, Kernels, ROW_TILE, rows},
    linear::{Input, Linear},
    weights::Weights,
};

/// Tokens of the texts that go through all layers together: few enough that what lies between two products stays in the cache, many enough
/// that the weights are worth loading into it.
const GROUP: usize = 256;
/// The inner width of the feed-forward part that is computed at once, for the same reason. A slice's activations are quantised by
/// themselves, which is more exact than all together.
const SLICE: usize = 384;

/// An encoder with packed weights. Shared by all threads that run it.
pub struct Encoder {
    config: EncoderConfig,
    precision: Precision,
    kernels: Kernels,
    words: Words,
    /// Positions, with the embedding of the first type added.
    positions: Vec<f32>,
    /// For each type, its embedding less that of the first.
    types: Vec<f32>,
    norm: Norm,
    layers: Vec<Layer>,
    head: Head,
    scratch: Mutex<Vec<Scratch>>,
}

/// How many of the texts go through the layers together, and their tokens: as many as the cache holds well, but one at least.
fn group(texts: &[&Sequence]) -> (usize, usize) {
    let (mut count, mut tokens) = (0, 0);
    for text in texts {
        if count > 0 && tokens + text.len() > GROUP {
            break;
        }
        count += 1;
        tokens += text.len();
    }
    (count, tokens)
}

/// The table of word embeddings, the largest part of most models.
enum Words {
    F32(Vec<f32>),
    /// Beside 8-bit weights, 11 bits are more than enough.
    F16(Vec<f16>),
}

struct Layer {
    /// For each head queries, keys and values.
    heads: Vec<Linear>,
    output: Linear,
    output_norm: Norm,
    /// The feed-forward part in slices of its inner width: up, and down again. The results add up.
    slices: Vec<(Linear, Linear)>,
    down_norm: Norm,
}

struct Norm {
    weight: Vec<f32>,
    bias: Vec<f32>,
}

/// Memory that is used again for every batch. Each thread that runs takes one.
#[derive(Default)]
struct Scratch {
    states: Vec<f32>,
    row: Vec<f32>,
    input: Input,
    inner_input: Input,
    products: Aligned<f32>,
    down_products: Aligned<f32>,
    context: Vec<f32>,
    sum: Vec<f32>,
    attention: AttentionScratch,
}

/// The states of a batch's tokens, text after text.
pub struct States<'a> {
    values: &'a [f32],
    width: usize,
}

impl<'a> States<'a> {
    /// Splits off the next text's states: a row for each of its tokens.
    pub fn next(&mut self, tokens: usize) -> &'a [f32] {
        let (states, rest) = self.values.split_at(tokens * self.width);
        self.values = rest;
        states
    }
}

impl Encoder {
    /// Reads a model's shape and packs its weights, for the best instructions that the processor has. Blocks for as long as that takes.
    ///
    /// # Errors
    /// [`EncoderError`] where a file is missing or wrong, or the model is none that can be run.
    pub fn load(folder: &Path, weights: &mut Weights, precision: Precision) -> Result<Self, EncoderError> {
        Self::with_kernels(folder, weights, precision, Kernels::detect())
    }

    pub(crate) fn with_kernels(
        folder: &Path,
        weights: &mut Weights,
        precision: Precision,
        kernels: Kernels,
    ) -> Result<Self, EncoderError> {
        let config = EncoderConfig::read(folder)?;
        let width = config.width;
        let words = weights.encoder("embeddings.word_embeddings.weight", &[config.vocabulary, width])?;
        let words = match precision {
            Precision::F32 => Words::F32(words),
            Precision::Int8 => Words::F16(words.iter().copied().map(f16::from_f32).collect()),
        };
        let mut positions =
            weights.encoder("embeddings.position_embeddings.weight", &[config.position_rows, width])?;
        let mut types = match config.types {
            0 => vec![0.0; width],
            types => weights.encoder("embeddings.token_type_embeddings.weight", &[types, width])?,
        };
        let first = types[..width].to_vec();
        for row in positions.chunks_exact_mut(width) {
            for (value, first) in row.iter_mut().zip(&first) {
                *value += first;
            }
        }
        for row in types.chunks_exact_mut(width) {
            for (value, first) in row.iter_mut().zip(&first) {
                *value -= first;
            }
        }
        let head = Head {
            width: (width / config.heads).next_multiple_of(HEAD_TILE),
            bf16: precision == Precision::Int8 && kernels.has_bf16(),
        };
        let norm = Norm::read(weights, "embeddings.LayerNorm", width)?;
        let layers: Vec<Layer> = (0..config.layers)
            .map(|number| Layer::read(weights, number, &config, head, precision))
            .collect::<Result<_, _>>()?;
        let scratch = Mutex::default();
        Ok(Self { config, precision, kernels, words, positions, types, norm, layers, head, scratch })
    }

    /// Its shape.
    #[must_use]
    pub fn config(&self) -> &EncoderConfig {
        &self.config
    }

    /// The instructions that it runs on, in words.
    #[must_use]
    pub fn kernels(&self) -> &'static str {
        self.kernels.name()
    }

    /// The memory that the weights take, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let words = match &self.words {
            Words::F32(words) => size_of_val(&words[..]),
            Words::F16(words) => size_of_val(&words[..]),
        };
        let layers = self.layers.iter().map(Layer::bytes).sum::<usize>();
        words + size_of_val(&self.positions[..]) + size_of_val(&self.types[..]) + layers
    }

    /// Runs a batch, and `read` on the states it ends with.
    ///
    /// # Errors
    /// What is wrong with a sequence: a token that the model does not have, or more of them than it has positions for.
    pub fn run<T>(&self, batch: &[&Sequence], read: impl FnOnce(States<'_>) -> T) -> Result<T, String> {
        let pool = || self.scratch.lock().unwrap_or_else(PoisonError::into_inner);
        let mut scratch = pool().pop().unwrap_or_default();
        let result = self.embed(batch, &mut scratch).map(|tokens| {
            let width = self.config.width;
            let mut states = std::mem::take(&mut scratch.states);
            let (mut from, mut texts) = (0, batch);
            while !texts.is_empty() {
                let (count, tokens) = group(texts);
                let (now, later) = texts.split_at(count);
                let states = &mut states[from * width..][..tokens * width];
                for layer in &self.layers {
                    self.layer(layer, now, states, &mut scratch);
                }
                from += tokens;
                texts = later;
            }
            let result = read(States { values: &states[..tokens * width], width });
            scratch.states = states;
            result
        });
        pool().push(scratch);
        result
    }

    /// The embeddings of all tokens, normalised. Answers with their number.
    fn embed(&self, batch: &[&Sequence], scratch: &mut Scratch) -> Result<usize, String> {
        let width = self.config.width;
        let Scratch { states, row, .. } = scratch;
        states.clear();
        states.resize(batch.iter().map(|sequence| sequence.len()).sum::<usize>() * width, 0.0);
        row.resize(width, 0.0);
        let mut out = states.chunks_exact_mut(width);
        for sequence in batch {
            let positions = self.positions.chunks_exact(width).skip(self.config.first_position);
            let mut tokens = sequence.ids.iter().zip(&sequence.types).zip(positions).zip(&mut out);
            for (((id, kind), position), state) in &mut tokens {
                let missing = || format!("the model has no token {id} of type {kind}");
                self.words.look_up(*id, row).ok_or_else(missing)?;
                let kind = *kind as usize * width;
                let kind = self.types.get(kind..kind + width).ok_or_else(missing)?;
                for (((state, word), position), kind) in state.iter_mut().zip(&*row).zip(position).zip(kind) {
                    *state = word + position + kind;
                }
            }
            if sequence.len() > self.config.positions() || sequence.len() != sequence.types.len() {
                return Err(format!("the model has no positions for {} tokens", sequence.len()));
            }
        }
        // Nothing is added to the embeddings before they are normalised.
        row.fill(0.0);
        for state in states.chunks_exact_mut(width) {
            self.norm.apply(self.kernels, self.config.epsilon, state, row, width);
        }
        Ok(states.len() / width)
    }

    /// One layer, for a few whole texts.
    fn layer(&self, layer: &Layer, texts: &[&Sequence], states: &mut [f32], scratch: &mut Scratch) {
        let (kernels, width, epsilon) = (self.kernels, self.config.width, self.config.epsilon);
        let total = layer.heads.len() * self.head.width;
        let tokens = states.len() / width;
        let tiles = tokens.next_multiple_of(ROW_TILE);
        let Scratch { input, inner_input, products, down_products, context, sum, attention, .. } = scratch;

        context.resize(tokens * total, 0.0);
        input.expect(self.precision, tokens, width);
        input.take(kernels, 0, (states, width));
        for (number, head) in layer.heads.iter().enumerate() {
            let stride = head.stride();
            products.grow(tiles * stride);
            head.multiply(kernels, (states, width), tokens, input, products);
            head.finish(kernels, 0, &mut products[..tokens * stride], input);
            let mut first = 0;
            for text in texts {
                let out = &mut context[first * total + number * self.head.width..];
                let rows = (&products[first * stride..], stride);
                self.head.attend(kernels, rows, text.len(), (out, total), attention);
                first += text.len();
            }
        }

        let stride = layer.output.stride();
        products.grow(tiles * stride);
        input.expect(self.precision, tokens, total);
        input.take(kernels, 0, (context, total));
        layer.output.multiply(kernels, (context, total), tokens, input, products);
        layer.output.finish(kernels, 0, &mut products[..tokens * stride], input);
        layer.output_norm.apply(kernels, epsilon, states, products, stride);

        input.expect(self.precision, tokens, width);
        input.take(kernels, 0, (states, width));
        sum.clear();
        sum.resize(tokens * width, 0.0);
        for (up, down) in &layer.slices {
            let stride = up.stride();
            products.grow(tiles * stride);
            down_products.grow(tiles * down.stride());
            up.multiply(kernels, (states, width), tokens, input, products);
            inner_input.expect(self.precision, tokens, up.outputs());
            self.activate(up, &mut products[..tokens * stride], input, inner_input);
            down.multiply(kernels, (products, stride), tokens, inner_input, down_products);
            down.add(kernels, &down_products[..tokens * down.stride()], inner_input, sum);
        }
        layer.down_norm.apply(kernels, epsilon, states, sum, width);
    }

    /// What lies between the halves of the feed-forward part, a few rows at a time.
    fn activate(&self, up: &Linear, products: &mut [f32], input: &Input, inner: &mut Input) {
        /// Rows that fit into the fastest cache together.
        const ROWS: usize = 4;
        let (kernels, stride) = (self.kernels, up.stride());
        for (number, rows) in products.chunks_mut(ROWS * stride).enumerate() {
            up.finish(kernels, number * ROWS, rows, input);
            match self.config.activation {
                Activation::Gelu => rows::gelu(kernels, rows),
                Activation::GeluTanh => rows::gelu_tanh(kernels, rows),
                Activation::Relu => rows::relu(kernels, rows),
            }
            inner.take(kernels, number * ROWS, (rows, stride));
        }
    }
}

impl Words {
    fn look_up(&self, id: u32, into: &mut [f32]) -> Option<()> {
        let start = (id as usize).checked_mul(into.len())?;
        let range = start..start.checked_add(into.len())?;
        match self {
            Self::F32(words) => into.copy_from_slice(words.get(range)?),
            Self::F16(words) => words.get(range)?.convert_to_f32_slice(into),
        }
        Some(())
    }
}

impl Norm {
    fn read(weights: &mut Weights, name: &str, width: usize) -> Result<Self, EncoderError> {
        let mut read = |part: &str| weights.encoder(&format!("{name}.{part}"), &[width]);
        Ok(Self { weight: read("weight")?, bias: read("bias")? })
    }

    fn apply(&self, kernels: Kernels, epsilon: f32, states: &mut [f32], added: &[f32], stride: usize) {
        rows::add_and_norm(kernels, states, added, stride, &self.weight, &self.bias, epsilon);
    }
}

impl Layer {
    /// Reads a layer; its heads are filled up to `head` values.
    fn read(
        weights: &mut Weights,
        number: usize,
        config: &EncoderConfig,
        head: Head,
        precision: Precision,
    ) -> Result<Self, EncoderError> {
        let (width, inner) = (config.width, config.inner);
        let narrow = width / config.heads;
        let name = |part: &str| format!("encoder.layer.{number}.{part}");
        let mut read = |part: &str, rows: usize, columns: usize| -> Result<_, EncoderError> {
            let matrix = weights.encoder(&name(&format!("{part}.weight")), &[rows, columns])?;
            let bias = weights.encoder(&name(&format!("{part}.bias")), &[rows])?;
            Ok((matrix, bias))
        };

        let parts =
            ["query", "key", "value"].map(|part| read(&format!("attention.self.{part}"), width, width));
        let [query, key, value] = parts;
        let parts = [query?, key?, value?];
        let scales = [head.scale(narrow), 1.0, 1.0];
        let head = head.width;
        let heads = (0..config.heads)
            .map(|number| {
                let (mut matrix, mut biases) = (vec![0.0; 3 * head * width], vec![0.0; 3 * head]);
                for (part, ((rows, bias), scale)) in parts.iter().zip(scales).enumerate() {
                    let to = part * head;
                    let from = number * narrow;
                    let scaled = |(to, from): (&mut f32, &f32)| *to = from * scale;
                    matrix[to * width..]
                        .iter_mut()
                        .zip(&rows[from * width..][..narrow * width])
                        .for_each(scaled);
                    biases[to..].iter_mut().zip(&bias[from..][..narrow]).for_each(scaled);
                }
                Linear::new(precision, &matrix, biases, width)
            })
            .collect();

        let (rows, bias) = read("attention.output.dense", width, width)?;
        let total = config.heads * head;
        let mut matrix = vec![0.0; width * total];
        for (from, to) in rows.chunks_exact(narrow).zip(matrix.chunks_exact_mut(head)) {
            to[..narrow].copy_from_slice(from);
        }
        let output = Linear::new(precision, &matrix, bias, total);

        let (up, up_bias) = read("intermediate.dense", inner, width)?;
        let (down, down_bias) = read("output.dense", width, inner)?;
        let slices = (0..inner)
            .step_by(SLICE)
            .map(|first| {
                let count = SLICE.min(inner - first);
                let rows = &up[first * width..][..count * width];
                let up = Linear::new(precision, rows, up_bias[first..first + count].to_vec(), width);
                let columns: Vec<f32> = down
                    .chunks_exact(inner)
                    .flat_map(|row| row[first..first + count].iter().copied())
                    .collect();
                // It is added once.
                let bias = if first == 0 { down_bias.clone() } else { vec![0.0; width] };
                (up, Linear::new(precision, &columns, bias, count))
            })
            .collect();
        let output_norm = Norm::read(weights, &name("attention.output.LayerNorm"), width)?;
        let down_norm = Norm::read(weights, &name("output.LayerNorm"), width)?;
        Ok(Self { heads, output, output_norm, slices, down_norm })
    }

    fn bytes(&self) -> usize {
        let slices = self.slices.iter().map(|(up, down)| up.bytes() + down.bytes());
        self.heads.iter().chain([&self.output]).map(Linear::bytes).chain(slices).sum()
    }
}
