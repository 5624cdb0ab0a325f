"""The encoder beside ONNX Runtime: the same token ids in the same batches, in turns, on as many threads.

    python encoder.py --binary target/release/raglan-load-tests --dataset SCIFACT --model MODEL [--rounds 3] [--sample 800] [--threads 2]

Both run a batch on each thread, on one thread each. ONNX Runtime gets its fused operators (`minilm.py`), each batch padded to its longest text.
"""

import argparse
import json
import statistics
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime as ort

import minilm

QUESTIONS = 500


def theirs(encoder, pool, batches, question_tokens):
    list(pool.map(encoder._run, batches[-2:]))
    begun = time.perf_counter()
    vectors = list(pool.map(encoder._run, batches))
    seconds = time.perf_counter() - begun
    questions = [text[: question_tokens - 1] + text[-1:] for batch in batches for text in batch if len(text) >= question_tokens]
    took = []
    for number in range(QUESTIONS):
        begun = time.perf_counter()
        encoder._run([questions[number % len(questions)]])
        took.append((time.perf_counter() - begun) * 1e3)
    return seconds, np.concatenate(vectors), statistics.median(took)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--binary", type=Path, required=True)
    parser.add_argument("--dataset", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sample", type=int, default=800)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--question-tokens", type=int, default=20)
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        minilm.graph(arguments.model, folder / "f32.onnx")
        minilm.quantize(folder / "f32.onnx", folder / "int8.onnx")
        sessions = {name: minilm.Encoder(arguments.model, folder / f"{name}.onnx", arguments.threads) for name in ("f32", "int8")}
        pool = ThreadPoolExecutor(arguments.threads)
        command = [arguments.binary, "encoder", "--json", "--dataset", arguments.dataset, "--model", arguments.model]
        command += ["--sample", str(arguments.sample), "--threads", str(arguments.threads), "--question-tokens", str(arguments.question_tokens)]
        command += ["--batches", folder / "batches.json", "--vectors", folder / "vectors"]
        speeds, questions, kernels = {}, {}, ""
        for number in range(arguments.rounds):
            for precision, encoder in sessions.items():
                ours = json.loads(subprocess.run([*command, "--precision", precision], check=True, capture_output=True).stdout)[0]
                batches = json.loads((folder / "batches.json").read_text())
                seconds, vectors, question = theirs(encoder, pool, batches, arguments.question_tokens)
                speeds.setdefault(precision, []).append((ours["tokens_per_s"], ours["tokens"] / seconds))
                questions.setdefault(precision, []).append((ours["question_p50_ms"], ours["question_p99_ms"], question))
                kernels = ours["kernels"]
                mine = np.fromfile(folder / "vectors", np.float32).reshape(vectors.shape)
                cosines = (mine * vectors).sum(1)
                print(f"round {number + 1}, {precision}: {ours['tokens_per_s']:.0f} tokens/s, ONNX Runtime {ours['tokens'] / seconds:.0f}; "
                      f"cosine of the two {cosines.min():.5f} at least, {cosines.mean():.5f} in the mean", flush=True)
        print(f"{ours['texts']} texts, {ours['tokens']} tokens, batches of 8, {arguments.threads} threads; kernels {kernels}; ONNX Runtime {ort.__version__}")
        for precision, pairs in speeds.items():
            mine, other = (statistics.median(side) for side in zip(*pairs))
            ratio = statistics.median(a / b for a, b in pairs)
            p50, p99, other_p50 = (statistics.median(side) for side in zip(*questions[precision]))
            print(f"{precision}: {mine:.0f} tokens/s, ONNX Runtime {other:.0f}, {ratio:.2f} times as many; "
                  f"a question of {arguments.question_tokens} tokens {p50:.2f} ms (p99 {p99:.2f} ms), ONNX Runtime {other_p50:.2f} ms")


if __name__ == "__main__":
    main()
