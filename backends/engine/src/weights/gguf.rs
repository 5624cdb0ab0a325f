//! Weights in a GGUF file, under the names that safetensors files give them.

use std::{
    borrow::Cow,
    fs::File,
    io::BufReader,
    path::{Path, PathBuf},
};

use candle_core::{
    DType, Device, Tensor,
    quantized::{
        GgmlDType, QStorage, QTensor,
        gguf_file::{Content, Value},
    },
};

use super::stored_bytes;
use crate::LoadError;

/// How the two kinds of files name the parts of a layer.
const LAYER_NAMES: [(&str, &str); 11] = [
    ("input_layernorm", "attn_norm"),
    ("post_attention_layernorm", "ffn_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
];

/// An open GGUF file.
pub(crate) struct GgufFile {
    content: Content,
    reader: BufReader<File>,
    path: PathBuf,
    /// Heads whose rows the file holds in the order of its own rotary embedding: of queries and of keys.
    permuted: Option<(usize, usize)>,
}

impl GgufFile {
    pub(crate) fn open(path: &Path) -> Result<Self, LoadError> {
        let file = File::open(path).map_err(|source| LoadError::Read { path: path.to_owned(), source })?;
        let mut reader = BufReader::new(file);
        let content = Content::read(&mut reader)
            .map_err(|error| LoadError::invalid(path, crate::error::first_line(&error)))?;
        let mut file = Self { content, reader, path: path.to_owned(), permuted: None };
        // Only for this architecture neighbouring values of a head turn together, as the models were first written.
        if file.text("general.architecture") == Some("llama") {
            let heads = file.number("llama.attention.head_count").unwrap_or(0.0) as usize;
            let kv_heads = file.number("llama.attention.head_count_kv").map_or(heads, |heads| heads as usize);
            file.permuted = Some((heads, kv_heads));
        }
        Ok(file)
    }

    /// The file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// A number of the file's metadata.
    pub(crate) fn number(&self, key: &str) -> Option<f64> {
        let value = self.content.metadata.get(key)?;
        let unsigned = value.to_u64().map(|number| number as f64);
        let signed = || value.to_i64().map(|number| number as f64);
        let float = || value.to_f32().map(f64::from);
        unsigned.or_else(|_| signed()).or_else(|_| float()).or_else(|_| value.to_f64()).ok()
    }

    /// A text of the file's metadata.
    pub(crate) fn text(&self, key: &str) -> Option<&str> {
        match self.content.metadata.get(key)? {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    /// The token of this name in the file's metadata: `eos`, `bos`.
    pub(crate) fn token(&self, name: &str) -> Option<u32> {
        let id = self.number(&format!("tokenizer.ggml.{name}_token_id"))?;
        // A file writes -1 for none.
        (id >= 0.0).then_some(id as u32)
    }

    /// In how many bytes the file's weights lie on a device: what is quantised already, as it is.
    pub(crate) fn weight_bytes(&self, dtype: DType, quantize: Option<GgmlDType>) -> u64 {
        let table = theirs("model.embed_tokens.weight");
        let output_is_table = self.shape("lm_head.weight").is_none();
        let tensors = self.content.tensor_infos.iter();
        let bytes = tensors.map(|(name, info)| {
            let (count, is_matrix) = (info.shape.elem_count(), info.shape.rank() == 2);
            let plain = count * dtype.size_in_bytes();
            let as_asked = quantize.map_or(plain, |kind| stored_bytes(count, kind));
            if *name == table {
                // It is looked up in, so it stays plain; where it is the output too, that may be a quantised copy.
                plain + if output_is_table && quantize.is_some() { as_asked } else { 0 }
            } else if !is_plain(info.ggml_dtype) {
                stored_bytes(count, info.ggml_dtype)
            } else if is_matrix {
                as_asked
            } else {
                plain
            }
        });
        bytes.map(|bytes| bytes as u64).sum()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.content.tensor_infos.keys().map(|name| self.bytes_of(name)).sum()
    }

    pub(super) fn tensor_bytes(&self, name: &str) -> u64 {
        self.bytes_of(&theirs(name))
    }

    fn bytes_of(&self, name: &str) -> u64 {
        let info = self.content.tensor_infos.get(name);
        info.map_or(0, |info| stored_bytes(info.shape.elem_count(), info.ggml_dtype) as u64)
    }

    /// A tensor's shape, by the name that safetensors files give it.
    pub(crate) fn shape(&self, name: &str) -> Option<&[usize]> {
        self.content.tensor_infos.get(&theirs(name)).map(|info| info.shape.dims())
    }

    /// A tensor as it is, where it is quantised.
    pub(super) fn quantized(&mut self, name: &str, device: &Device) -> Result<Option<QTensor>, LoadError> {
        let kind = self.content.tensor_infos.get(&theirs(name)).map(|info| info.ggml_dtype);
        if kind.is_none_or(is_plain) {
            return Ok(None);
        }
        self.read(name, device).map(Some)
    }

    /// A tensor as plain numbers.
    pub(super) fn dequantized(&mut self, name: &str, device: &Device) -> Result<Tensor, LoadError> {
        let tensor = self.read(name, &Device::Cpu)?;
        tensor.dequantize(device).map_err(|error| self.failed(name, &error))
    }

    fn read(&mut self, name: &str, device: &Device) -> Result<QTensor, LoadError> {
        let heads = match (self.permuted, name) {
            (Some((heads, _)), name) if name.contains(".q_proj.") => Some(heads),
            (Some((_, kv_heads)), name) if name.contains(".k_proj.") => Some(kv_heads),
            _ => None,
        };
        // What is put in another order is so in the processor's memory, and then goes to the device.
        let near = if heads.is_some() { &Device::Cpu } else { device };
        let tensor = self.content.tensor(&mut self.reader, &theirs(name), near);
        let tensor = tensor.map_err(|error| self.failed(name, &error))?;
        match heads {
            Some(heads) => in_halves(&tensor, heads, device).map_err(|error| self.failed(name, &error)),
            None => Ok(tensor),
        }
    }

    fn failed(&self, name: &str, error: &candle_core::Error) -> LoadError {
        LoadError::invalid(&self.path, format!("{name}: {}", crate::error::first_line(error)))
    }
}

/// Whether numbers of this kind are each by themselves.
fn is_plain(kind: GgmlDType) -> bool {
    matches!(kind, GgmlDType::F32 | GgmlDType::F16 | GgmlDType::BF16)
}

/// The rows of each head in the order in which value `i` turns with value `i + head_dim / 2`, where the file has each pair side by side. Rows of
/// quantised tensors are whole blocks, so nothing is rounded again.
fn in_halves(tensor: &QTensor, heads: usize, device: &Device) -> candle_core::Result<QTensor> {
    let rows = tensor.shape().dims()[0];
    if heads == 0 || !rows.is_multiple_of(2 * heads) {
        candle_core::bail!("{rows} rows are not {heads} heads");
    }
    let data = tensor.data()?;
    let row_bytes = data.len() / rows;
    let head_dim = rows / heads;
    let mut ordered = Vec::with_capacity(data.len());
    for head in 0..heads {
        for at in 0..head_dim {
            let (half, pair) = (at / (head_dim / 2), at % (head_dim / 2));
            let from = (head * head_dim + 2 * pair + half) * row_bytes;
            ordered.extend_from_slice(&data[from..from + row_bytes]);
        }
    }
    let storage = QStorage::from_data(Cow::Owned(ordered), device, tensor.dtype())?;
    QTensor::new(storage, tensor.shape().clone())
}

/// The name that GGUF files give a tensor.
fn theirs(name: &str) -> String {
    let (part, kind) = name.rsplit_once('.').unwrap_or((name, ""));
    let part = match part {
        "model.embed_tokens" => "token_embd".to_owned(),
        "model.norm" => "output_norm".to_owned(),
        "lm_head" => "output".to_owned(),
        other => {
            let layer = other.strip_prefix("model.layers.").and_then(|rest| rest.split_once('.'));
            let named = layer.and_then(|(layer, ours)| {
                let (_, theirs) = LAYER_NAMES.iter().find(|(known, _)| *known == ours)?;
                Some(format!("blk.{layer}.{theirs}"))
            });
            named.unwrap_or_else(|| other.to_owned())
        }
    };
    format!("{part}.{kind}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_translated() {
        assert_eq!(theirs("model.embed_tokens.weight"), "token_embd.weight");
        assert_eq!(theirs("lm_head.weight"), "output.weight");
        assert_eq!(theirs("model.layers.12.self_attn.q_proj.bias"), "blk.12.attn_q.bias");
        assert_eq!(theirs("model.layers.0.mlp.down_proj.weight"), "blk.0.ffn_down.weight");
        assert_eq!(theirs("rope_freqs.weight"), "rope_freqs.weight");
    }
}
