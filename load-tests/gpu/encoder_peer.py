#!/usr/bin/env python3
"""Embeddings of texts of 128 tokens by sentence-transformers, and scores of pairs by its cross-encoder, with random weights of MiniLM's shape.

    encoder_peer.py [--device cuda] [--texts 8192] [--layers 6]

Prints a line of JSON: embeddings a second (all-MiniLM-L6's shape) and pairs a second (ms-marco-MiniLM-L-6's), both in half precision on a GPU, at the
best of several batch sizes.
"""

import argparse
import json
import pathlib
import tempfile
import time

import sentence_transformers
import torch
import transformers

TOKENS = 128


def make(folder, layers, scores):
    """A model of MiniLM's shape, and a tokeniser that knows a few words."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *[chr(letter) for letter in range(ord("a"), ord("z") + 1)]]
    (folder / "vocab.txt").write_text("\n".join(words))
    transformers.BertTokenizerFast(vocab_file=str(folder / "vocab.txt"), model_max_length=512).save_pretrained(folder)
    config = transformers.BertConfig(
        vocab_size=30522,
        hidden_size=384,
        num_hidden_layers=layers,
        num_attention_heads=12,
        intermediate_size=1536,
        num_labels=1,
    )
    kind = transformers.BertForSequenceClassification if scores else transformers.BertModel
    kind(config).save_pretrained(folder)


def best(call, items, sizes, synchronize):
    """Items a second at the best batch size, and that size."""
    rates = []
    for size in sizes:
        call(items[:size], size)
        synchronize()
        begun = time.perf_counter()
        call(items, size)
        synchronize()
        rates.append((len(items) / (time.perf_counter() - begun), size))
    return max(rates)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--texts", type=int, default=8192)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--sizes", nargs="+", type=int, default=[64, 256, 1024])
    arguments = parser.parse_args()
    on_gpu = arguments.device.startswith("cuda")
    synchronize = torch.cuda.synchronize if on_gpu else lambda: None
    # A word is a token; the marks at both ends make it 128.
    text = " ".join("abcdefghij"[place % 10] for place in range(TOKENS - 2))
    half = " ".join("abcdefghij"[place % 10] for place in range((TOKENS - 3) // 2))
    pair = (half, half + " a")
    with tempfile.TemporaryDirectory() as path:
        folder = pathlib.Path(path)
        make(folder, arguments.layers, scores=False)
        words = sentence_transformers.models.Transformer(str(folder), max_seq_length=TOKENS)
        pooling = sentence_transformers.models.Pooling(words.get_word_embedding_dimension())
        embedder = sentence_transformers.SentenceTransformer(modules=[words, pooling], device=arguments.device)
        if on_gpu:
            embedder.half()
        encode = lambda texts, size: embedder.encode(texts, batch_size=size, show_progress_bar=False)
        embeddings, embed_size = best(encode, [text] * arguments.texts, arguments.sizes, synchronize)
    with tempfile.TemporaryDirectory() as path:
        folder = pathlib.Path(path)
        make(folder, arguments.layers, scores=True)
        ranker = sentence_transformers.CrossEncoder(str(folder), device=arguments.device, max_length=TOKENS)
        if on_gpu:
            ranker.model.half()
        predict = lambda pairs, size: ranker.predict(pairs, batch_size=size, show_progress_bar=False)
        pairs, pair_size = best(predict, [pair] * arguments.texts, arguments.sizes, synchronize)
    print(
        json.dumps(
            {
                "sentence_transformers": sentence_transformers.__version__,
                "embeddings_per_s": embeddings,
                "embedding_batch": embed_size,
                "pairs_per_s": pairs,
                "pair_batch": pair_size,
            }
        )
    )


if __name__ == "__main__":
    main()
