//! Products with the model's matrices.

use candle_core::{Module, Result, Tensor, quantized::QMatMul};

/// One or more matrices beside each other, and their bias.
#[derive(Debug, Clone)]
pub(crate) struct Linear {
    /// `[rows, columns]` each. More than one where the model's files have them quantised.
    matrices: Vec<QMatMul>,
    /// As long as all rows.
    bias: Option<Tensor>,
}

impl Linear {
    pub(crate) fn new(matrices: Vec<QMatMul>, bias: Option<Tensor>) -> Self {
        Self { matrices, bias }
    }

    /// `[tokens, columns]` to `[tokens, rows]`.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let product = match self.matrices.as_slice() {
            [matrix] => matrix.forward(x)?,
            several => {
                let parts = several.iter().map(|matrix| matrix.forward(x)).collect::<Result<Vec<_>>>()?;
                Tensor::cat(&parts, 1)?
            }
        };
        match &self.bias {
            Some(bias) => product.broadcast_add(bias),
            None => Ok(product),
        }
    }
}
