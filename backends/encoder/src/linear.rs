//! A linear layer: weights and bias.

use crate::{
    Precision,
    kernels::{
        F32Panels, Int8Panels, Kernels, QuantizedRows, dequantise, dequantise_into, f32_multiply,
        int8_multiply, rows,
    },
};

/// `x · Wᵀ + b`, with the weights packed for the kernels.
///
/// It is applied in steps, so that what happens to rows happens to few at a time, while they are in the fastest cache: an [`Input`] takes
/// rows, [`Self::multiply`] makes products of all that were taken, [`Self::finish`] or [`Self::add`] makes values of products.
#[derive(Debug, Clone)]
pub(crate) struct Linear {
    weights: Weights,
    bias: Vec<f32>,
}

#[derive(Debug, Clone)]
enum Weights {
    F32(F32Panels),
    Int8(Int8Panels),
}

/// Rows on their way into layers.
#[derive(Debug, Default)]
pub(crate) struct Input {
    /// Not used where the layers are of `f32`.
    quantized: Option<QuantizedRows>,
}

impl Input {
    /// Makes room for so many rows of `width` values.
    pub(crate) fn expect(&mut self, precision: Precision, count: usize, width: usize) {
        match precision {
            Precision::F32 => self.quantized = None,
            Precision::Int8 => self.quantized.get_or_insert_default().reset(count, width),
        }
    }

    /// Takes rows, which begin `stride` values apart, as those from `first` on. They must still stand there when a layer multiplies, since
    /// one of `f32` reads them only then.
    pub(crate) fn take(&mut self, kernels: Kernels, first: usize, (rows, stride): (&[f32], usize)) {
        if let Some(quantized) = &mut self.quantized {
            quantized.set(kernels, first, (rows, stride));
        }
    }
}

impl Linear {
    /// Packs weights that are a row of `inputs` values for each value of `bias`.
    pub(crate) fn new(precision: Precision, weights: &[f32], bias: Vec<f32>, inputs: usize) -> Self {
        let weights = match precision {
            Precision::F32 => Weights::F32(F32Panels::pack(weights, inputs)),
            Precision::Int8 => Weights::Int8(Int8Panels::pack(weights, inputs)),
        };
        Self { weights, bias }
    }

    /// How far apart rows of products begin.
    pub(crate) fn stride(&self) -> usize {
        match &self.weights {
            Weights::F32(panels) => panels.columns(),
            Weights::Int8(panels) => panels.padded_columns(),
        }
    }

    /// How many values it computes of a row.
    pub(crate) fn outputs(&self) -> usize {
        self.bias.len()
    }

    /// The memory that it takes, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        let weights = match &self.weights {
            Weights::F32(panels) => panels.bytes(),
            Weights::Int8(panels) => panels.bytes(),
        };
        weights + self.bias.len() * size_of::<f32>()
    }

    /// Multiplies `count` rows, all of which were taken. `products` holds whole tiles ([`crate::kernels::ROW_TILE`]) of rows of
    /// [`Self::stride`] values.
    pub(crate) fn multiply(
        &self,
        kernels: Kernels,
        (rows, stride): (&[f32], usize),
        count: usize,
        input: &Input,
        products: &mut [f32],
    ) {
        match (&self.weights, &input.quantized) {
            (Weights::F32(panels), _) => {
                f32_multiply(kernels, (rows, stride), count, panels, (products, panels.columns()));
            }
            (Weights::Int8(panels), Some(quantized)) => int8_multiply(kernels, quantized, panels, products),
            (Weights::Int8(_), None) => unreachable!("the rows were not taken for this layer's precision"),
        }
    }

    /// Makes values of products in place, from the row `first` on. What lies beyond the layer's outputs means nothing.
    pub(crate) fn finish(&self, kernels: Kernels, first: usize, products: &mut [f32], input: &Input) {
        match (&self.weights, &input.quantized) {
            (Weights::Int8(panels), Some(quantized)) => {
                dequantise(kernels, products, (quantized, first), panels, &self.bias);
            }
            _ => rows::add_bias(kernels, products, &self.bias),
        }
    }

    /// Adds the values that products stand for to rows of as many values as the layer has outputs.
    pub(crate) fn add(&self, kernels: Kernels, products: &[f32], input: &Input, to: &mut [f32]) {
        match (&self.weights, &input.quantized) {
            (Weights::Int8(panels), Some(quantized)) => {
                dequantise_into(kernels, products, quantized, panels, &self.bias, to);
            }
            _ => rows::add_rows(kernels, products, &self.bias, to),
        }
    }
}
