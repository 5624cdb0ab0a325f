//! The choice of the next token.

use candle_core::{DType, Result, Storage, Tensor, bail, op::BackpropOp};

use crate::{cpu, element::with_element, rows::Rows};

/// What stands in the result for a row without a single number in it to choose from: all are −∞ or not numbers.
pub const NO_TOKEN: u32 = u32::MAX;

/// How the next token of one sequence is chosen. What it draws depends on `seed` and `position` alone, not on the batch and not on the device.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SampleRow<'a> {
    /// What logits are divided by. 0 takes the most likely token, whatever the settings below say, `repetition_penalty` excepted.
    pub temperature: f32,
    /// Only as many of the most likely tokens can be chosen, and those as likely as the last of them; 0 for all.
    pub top_k: u32,
    /// Of these, only the fewest that are this likely together, and those as likely as the last of them; 1 for all.
    pub top_p: f32,
    /// What the logit of a token in `seen` is divided by if it is above 0, and multiplied by if it is below. 1 changes nothing.
    pub repetition_penalty: f32,
    /// The tokens so far. A token counts once, however often it is in here; one beyond the vocabulary does not count. Not read where the
    /// penalty is 1.
    pub seen: &'a [u32],
    /// The seed of the sequence.
    pub seed: u64,
    /// The place in the sequence that the token is for.
    pub position: u64,
}

impl SampleRow<'_> {
    /// Whether its numbers mean something; [`sample`] refuses all rows where one does not.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn check(&self) -> std::result::Result<(), String> {
        let Self { temperature, top_p, repetition_penalty, .. } = *self;
        if !(temperature >= 0.0 && temperature.is_finite()) {
            return Err(format!("temperature must be 0 or above, not {temperature}"));
        }
        if !(top_p > 0.0 && top_p <= 1.0) {
            return Err(format!("top_p must be above 0 and not above 1, not {top_p}"));
        }
        if !(repetition_penalty > 0.0 && repetition_penalty.is_finite()) {
            return Err(format!("repetition_penalty must be above 0, not {repetition_penalty}"));
        }
        Ok(())
    }
}

/// Chooses a token for each row of `logits`, `[rows, vocabulary]`: `u32 [rows]` on the device of the logits, so that a step need not wait for
/// it before the next is under way. [`NO_TOKEN`] where a row has nothing to choose from.
///
/// A draw is an exponential race: among the tokens that can be chosen, the one with the least `draw / probability` wins, where `draw` comes from
/// Philox with the seed as its key and (token, position) as its counter. Probabilities are summed in fixed point, so that no order of
/// summation matters. The same logits give the same token on every device.
pub fn sample(logits: &Tensor, rows: &[SampleRow<'_>]) -> Result<Tensor> {
    let (count, vocabulary) = logits.dims2()?;
    if rows.len() != count {
        bail!("sample: {count} rows of logits need as many settings, not {}", rows.len());
    }
    if vocabulary == 0 || vocabulary > MOST_TOKENS {
        bail!("sample: a vocabulary has between 1 and {MOST_TOKENS} tokens, not {vocabulary}");
    }
    for (index, row) in rows.iter().enumerate() {
        row.check().map_err(|what| candle_core::Error::Msg(format!("sample: row {index}: {what}")))?;
    }
    if count == 0 {
        return Tensor::zeros(0, DType::U32, logits.device());
    }
    let (logits, layout) = Rows::of(logits)?;
    let (values, _) = logits.storage_and_layout();
    let storage = match &*values {
        Storage::Cpu(values) => with_element!(logits.dtype(), "sample", T => {
            let tokens = cpu::sampling::sample(values.as_slice::<T>()?, &layout, rows);
            Storage::Cpu(candle_core::CpuStorage::U32(tokens))
        }),
        #[cfg(feature = "cuda")]
        Storage::Cuda(values) => Storage::Cuda(crate::cuda::sampling::sample(values, &layout, rows)?),
        _ => bail!("sample: logits must be on the CPU or a CUDA device"),
    };
    Ok(Tensor::from_storage(storage, count, BackpropOp::none(), false))
}

/// As many probabilities in fixed point as are sure to fit into 64 bits.
const MOST_TOKENS: usize = 1 << 23;
