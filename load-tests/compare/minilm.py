"""all-MiniLM-L6-v2 (and other BERT encoders of its shape) on ONNX Runtime.

`graph` makes the model from `model.safetensors` with ONNX Runtime's own fused operators, `quantize` makes its products 8-bit, and `Encoder`
embeds texts: sorted by length, in small batches, on as many sessions of one thread each as asked for, which is ONNX Runtime's fastest way of doing it
on a few cores.
"""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file
from tokenizers import Tokenizer

FUSED = "com.microsoft"


def graph(folder: Path, to: Path) -> None:
    """Writes the encoder with mean pooling and normalisation: `ids` and `mask` (batch × tokens) to `vectors` (batch × width)."""
    config = json.loads((folder / "config.json").read_text())
    weights = load_file(folder / "model.safetensors")
    weights = {name.removeprefix("bert."): array.astype(np.float32) for name, array in weights.items()}
    heads, epsilon = config["num_attention_heads"], config["layer_norm_eps"]
    nodes, constants = [], {}

    def constant(name, array):
        constants[name] = numpy_helper.from_array(np.ascontiguousarray(array), name)
        return name

    def weight(name, transpose=False):
        return constant(name + ("^T" if transpose else ""), weights[name].T if transpose else weights[name])

    def node(kind, inputs, output, domain="", **attributes):
        outputs = [output] if isinstance(output, str) else output
        nodes.append(helper.make_node(kind, inputs, outputs, domain=domain, **attributes))
        return outputs[0]

    node("Cast", ["ids"], "ids32", to=TensorProto.INT32)
    node("Cast", ["mask"], "mask32", to=TensorProto.INT32)
    node("Sub", ["ids32", "ids32"], "types")
    words, places, types = (weight(f"embeddings.{name}_embeddings.weight") for name in ("word", "position", "token_type"))
    norm = [weight("embeddings.LayerNorm.weight"), weight("embeddings.LayerNorm.bias")]
    node("EmbedLayerNormalization", ["ids32", "types", words, places, types, *norm, "mask32"], ["states0", "lengths"], FUSED, epsilon=epsilon)
    for layer in range(config["num_hidden_layers"]):
        prefix, states = f"encoder.layer.{layer}.", f"states{layer}"
        parts = [f"{prefix}attention.self.{name}." for name in ("query", "key", "value")]
        qkv = constant(f"{prefix}qkv", np.concatenate([weights[part + "weight"].T for part in parts], axis=1))
        qkv_bias = constant(f"{prefix}qkv_bias", np.concatenate([weights[part + "bias"] for part in parts]))
        attended = node("Attention", [states, qkv, qkv_bias, "lengths"], f"attended{layer}", FUSED, num_heads=heads)

        def dense(name, given):
            return node("MatMul", [given, weight(f"{prefix}{name}.weight", True)], f"{prefix}{name}")

        def add_and_norm(name, given, skip, output):
            inputs = [given, skip, *(weight(f"{prefix}{name}.LayerNorm.{part}") for part in ("weight", "bias")), weight(f"{prefix}{name}.dense.bias")]
            return node("SkipLayerNormalization", inputs, output, FUSED, epsilon=epsilon)

        middle = add_and_norm("attention.output", dense("attention.output.dense", attended), states, f"middle{layer}")
        inner = node("BiasGelu", [dense("intermediate.dense", middle), weight(f"{prefix}intermediate.dense.bias")], f"inner{layer}", FUSED)
        add_and_norm("output", dense("output.dense", inner), middle, f"states{layer + 1}")
    last = f"states{config['num_hidden_layers']}"
    node("Cast", ["mask"], "weights", to=TensorProto.FLOAT)
    node("Unsqueeze", ["weights", constant("two", np.array([2]))], "weights3")
    node("Mul", [last, "weights3"], "counted")
    node("ReduceSum", ["counted", constant("one", np.array([1]))], "sum", keepdims=0)
    # The mean's length does not matter where it is made 1.
    node("LpNormalization", ["sum"], "vectors", axis=1, p=2)

    def tensor(name, kind, *shape):
        return helper.make_tensor_value_info(name, kind, shape)

    inputs = [tensor(name, TensorProto.INT64, "batch", "tokens") for name in ("ids", "mask")]
    outputs = [tensor("vectors", TensorProto.FLOAT, "batch", config["hidden_size"])]
    made = helper.make_graph(nodes, "encoder", inputs, outputs, list(constants.values()))
    operators = [helper.make_opsetid("", 17), helper.make_opsetid(FUSED, 1)]
    onnx.save(helper.make_model(made, opset_imports=operators, ir_version=9), to)


def quantize(model: Path, to: Path) -> None:
    """Dynamic 8-bit quantisation, as ONNX Runtime does it: weights by output channel, activations by tensor."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    # Shapes behind the fused operators cannot be inferred, but all of them are of this type.
    quantize_dynamic(model, to, per_channel=True, weight_type=QuantType.QInt8, extra_options={"DefaultTensorType": TensorProto.FLOAT})


class Encoder:
    """Embeds texts with an ONNX model made by `graph`."""

    def __init__(self, folder: Path, model: Path, threads: int, batch: int = 8, most: int = 256):
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        self.session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self.pool = ThreadPoolExecutor(threads)
        self.batch = batch
        self.tokens = 0
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        # The file carries the settings of the day it was saved.
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(most)

    def count(self, text: str) -> list[int]:
        """A text's tokens, without special ones and uncut, for cutting by tokens."""
        if not hasattr(self, "_plain"):
            self._plain = Tokenizer.from_str(self.tokenizer.to_str())
            self._plain.no_truncation()
        return self._plain.encode(text, add_special_tokens=False).ids

    def embed(self, texts: list[str]) -> np.ndarray:
        encoded = [encoding.ids for encoding in self.tokenizer.encode_batch(texts)]
        self.tokens += sum(map(len, encoded))
        order = sorted(range(len(texts)), key=lambda index: len(encoded[index]))
        batches = [order[start : start + self.batch] for start in range(0, len(order), self.batch)]
        vectors = [None] * len(texts)
        for batch, rows in zip(batches, self.pool.map(lambda batch: self._run([encoded[index] for index in batch]), batches)):
            for index, row in zip(batch, rows):
                vectors[index] = row
        return np.stack(vectors)

    def _run(self, batch: list[list[int]]) -> np.ndarray:
        longest = max(map(len, batch))
        ids = np.zeros((len(batch), longest), np.int64)
        mask = np.zeros_like(ids)
        for row, tokens in enumerate(batch):
            ids[row, : len(tokens)] = tokens
            mask[row, : len(tokens)] = 1
        return self.session.run(["vectors"], {"ids": ids, "mask": mask})[0]
