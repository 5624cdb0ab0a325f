//! A linear layer: weights and bias.

use crate::{
    Precision,
    kernels::{F32Panels, Int8Panels, Kernels, QuantizedRows, dequantise, f32_multiply, int8_multiply, rows},
};

/// `x · Wᵀ + b`, with the weights packed for the kernels.
///
/// It is applied in three steps, so that what comes before and after happens to few rows at a time, while they are in the fastest cache:
/// [`Self::take`] rows, [`Self::multiply`] all that were taken, [`Self::finish`] rows.
#[derive(Debug, Clone)]
pub(crate) struct Linear {
    weights: Weights,
    bias: Vec<f32>,
    inputs: usize,
}

#[derive(Debug, Clone)]
enum Weights {
    F32(F32Panels),
    Int8(Int8Panels),
}

impl Linear {
    /// Packs weights that are a row of `inputs` values for each value of `bias`.
    pub(crate) fn new(precision: Precision, weights: &[f32], bias: Vec<f32>, inputs: usize) -> Self {
        let weights = match precision {
            Precision::F32 => Weights::F32(F32Panels::pack(weights, inputs)),
            Precision::Int8 => Weights::Int8(Int8Panels::pack(weights, inputs)),
        };
        Self { weights, bias, inputs }
    }

    /// How far apart rows of the output begin.
    pub(crate) fn stride(&self) -> usize {
        match &self.weights {
            Weights::F32(panels) => panels.columns(),
            Weights::Int8(panels) => panels.padded_columns(),
        }
    }

    /// The memory that it takes, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        let weights = match &self.weights {
            Weights::F32(panels) => panels.bytes(),
            Weights::Int8(panels) => panels.bytes(),
        };
        weights + self.bias.len() * size_of::<f32>()
    }

    /// Makes room for so many rows of input.
    pub(crate) fn expect(&self, count: usize, taken: &mut QuantizedRows) {
        if let Weights::Int8(_) = self.weights {
            taken.reset(count, self.inputs);
        }
    }

    /// Takes rows of input, which begin `stride` values apart, as those from `first` on. They must still stand there when the layer
    /// multiplies, since a layer of `f32` reads them only then.
    pub(crate) fn take(
        &self,
        kernels: Kernels,
        first: usize,
        (rows, stride): (&[f32], usize),
        taken: &mut QuantizedRows,
    ) {
        if let Weights::Int8(_) = self.weights {
            taken.set(kernels, first, (rows, stride));
        }
    }

    /// Multiplies `count` rows, all of which were taken. `out` holds whole tiles ([`crate::kernels::ROW_TILE`]) of rows of [`Self::stride`]
    /// values.
    pub(crate) fn multiply(
        &self,
        kernels: Kernels,
        (rows, stride): (&[f32], usize),
        count: usize,
        taken: &QuantizedRows,
        out: &mut [f32],
    ) {
        match &self.weights {
            Weights::F32(panels) => {
                f32_multiply(kernels, (rows, stride), count, panels, (out, panels.columns()))
            }
            Weights::Int8(panels) => int8_multiply(kernels, taken, panels, out),
        }
    }

    /// Makes values of rows of products, from the row `first` on. What lies beyond the layer's outputs means nothing.
    pub(crate) fn finish(&self, kernels: Kernels, first: usize, products: &mut [f32], taken: &QuantizedRows) {
        match &self.weights {
            Weights::F32(_) => rows::add_bias(kernels, products, &self.bias),
            Weights::Int8(panels) => dequantise(kernels, products, (taken, first), panels, &self.bias),
        }
    }
}
