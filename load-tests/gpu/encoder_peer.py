#!/usr/bin/env python3
"""Embeddings by sentence-transformers and scores of pairs by its cross-encoder, of the texts and with the weights that `encoder_bench make` wrote.

    encoder_peer.py FOLDER [--device cuda] [--sizes 64 256 1024]

Prints a line of JSON: embeddings and pairs a second, in half precision on a GPU, each at the best of several batch sizes. Where `encoder_bench run` has
left its own vectors and scores of the first texts, also how far those of both are apart.
"""

import argparse
import json
import pathlib
import time

import numpy
import sentence_transformers
import torch


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
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--sizes", nargs="+", type=int, default=[64, 256, 1024])
    arguments = parser.parse_args()
    on_gpu = arguments.device.startswith("cuda")
    synchronize = torch.cuda.synchronize if on_gpu else lambda: None
    made = json.loads((arguments.folder / "texts.json").read_text())
    texts, pairs = made["texts"], [(made["query"], passage) for passage in made["passages"]]
    tokens = json.loads((arguments.folder / "embedder/tokenizer_config.json").read_text())["model_max_length"]

    # A folder without modules of its own: the mean of its states.
    embedder = sentence_transformers.SentenceTransformer(str(arguments.folder / "embedder"), device=arguments.device)
    # One label, and its logit as it is.
    ranker = sentence_transformers.CrossEncoder(
        str(arguments.folder / "reranker"),
        num_labels=1,
        device=arguments.device,
        max_length=tokens,
        activation_fn=torch.nn.Identity(),
    )
    if on_gpu:
        embedder.half()
        ranker.model.half()
    # It measures nothing else than what it means to.
    assert {len(ids) for ids in embedder.tokenizer(texts[:64])["input_ids"]} == {tokens}
    assert {len(ids) for ids in ranker.tokenizer(pairs[:64])["input_ids"]} == {tokens}

    quiet = {"show_progress_bar": False}
    encode = lambda texts, size: embedder.encode(texts, batch_size=size, normalize_embeddings=True, **quiet)
    predict = lambda pairs, size: ranker.predict(pairs, batch_size=size, **quiet)
    report = {"sentence_transformers": sentence_transformers.__version__, "torch": torch.__version__}
    report["embeddings_per_s"], report["embedding_batch"] = best(encode, texts, arguments.sizes, synchronize)
    report["pairs_per_s"], report["pair_batch"] = best(predict, pairs, arguments.sizes, synchronize)

    left = arguments.folder / "ours.json"
    if left.exists():
        ours = json.loads(left.read_text())
        vectors, scores = numpy.array(ours["vectors"]), numpy.array(ours["scores"])
        theirs = encode(texts[: len(vectors)], len(vectors)).astype(float)
        report["least_cosine"] = float((vectors * theirs).sum(axis=1).min())
        theirs = predict(pairs[: len(scores)], len(scores)).astype(float)
        report["scores_apart"] = float(numpy.linalg.norm(scores - theirs) / numpy.linalg.norm(theirs))
    print(json.dumps(report))


if __name__ == "__main__":
    main()
