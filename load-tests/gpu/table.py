#!/usr/bin/env python3
"""The results of a run of run.sh as a table of Markdown: table.py FOLDER. What did not run has its reason in its cell."""

import json
import pathlib
import sys


class Results:
    def __init__(self, folder):
        self.folder = pathlib.Path(folder)

    def __getitem__(self, name):
        """The last line of a step's output, or none."""
        path = self.folder / f"{name}.json"
        lines = path.read_text().strip().splitlines() if path.exists() else []
        return json.loads(lines[-1]) if lines and lines[-1].startswith("{") else None

    def why_not(self, name):
        path = self.folder / f"{name}.failed"
        return path.read_text().strip().replace("|", "/") if path.exists() else "not run"

    def shapes(self):
        """Each shape, with the numbers of requests at once that it was asked for."""
        found = {}
        for path in sorted(self.folder.glob("ours-*")):
            shape, count = path.stem.removeprefix("ours-").rsplit("-", 1)
            found.setdefault(shape, set()).add(int(count))
        return {shape: sorted(counts) for shape, counts in found.items()}


def number(value, digits=0):
    return f"{value:,.{digits}f}"


def row(*cells):
    print("| " + " | ".join(str(cell) for cell in cells) + " |")


def rank(best, ours):
    return f"{ours / best:.2f}×" if best else "–"


def one_at_a_time(results, shape, count):
    """A row of the table with one sequence."""
    bandwidth = results["bandwidth"]
    name = f"ours-{shape}-{count}"
    ours, peer = results[name], results[f"peer-{shape}"]
    rate = ours and ours["one"]["decode_tokens_per_s"]
    share = "–"
    if ours and bandwidth:
        share = f"{rate * ours['weight_bytes'] / (bandwidth['copy_gb_s'] * 1e9):.0%}"
    peer_rate = peer and peer["one"]["decode_tokens_per_s"]
    row(
        shape,
        number(rate, 1) if ours else results.why_not(name),
        share,
        number(ours["one"]["first_token_ms"], 1) if ours else "–",
        number(peer_rate, 1) if peer else results.why_not(f"peer-{shape}"),
        rank(peer_rate, rate) if ours and peer else "–",
    )


def at_once(results, shape, count):
    """A row of the table with many sequences: the better of the peer's two ways."""
    name = f"ours-{shape}-{count}"
    ours, peer = results[name], results[f"peer-{shape}"]
    many = ours and ours["many"]
    best, how = None, results.why_not(f"peer-{shape}")
    for entry in peer["many"] if peer else []:
        if entry["concurrent"] == count:
            rates = {
                way: entry[way]["output_tokens_per_s"]
                for way in ("batched", "continuous")
                if "output_tokens_per_s" in entry[way]
            }
            way = max(rates, key=rates.get)
            best, how = rates[way], f"{number(rates[way])} ({way})"
            if "error" in entry["continuous"]:
                how += f"; continuous: {entry['continuous']['error']}".replace("|", "/")
    row(
        shape,
        count,
        number(many["output_tokens_per_s"]) if many else results.why_not(name),
        f"{number(many['first_token_ms_p50'])} / {number(many['first_token_ms_p99'])}" if many else "–",
        how,
        rank(best, many["output_tokens_per_s"]) if many and best else "–",
    )


def whole_models(results):
    """What the comparisons of whole models with the CPU came to."""
    engine = results["check-engine"]
    if engine:
        parts = [
            f"{numbers} logits {engine[numbers]['apart']:.1e} apart at most ({engine[numbers]['allowed']:.0e} allowed), "
            f"{engine[numbers]['same']} of {engine[numbers]['tokens']} greedy tokens the same"
            for numbers in ("f32", "bf16")
        ]
        texts = f"{engine['texts']['same']} of {engine['texts']['all']} texts of the engine the same"
        print(f"{engine['models']} whole models against the CPU: {'; '.join(parts)}; {texts}.\n")
    else:
        print(f"Whole models against the CPU: {results.why_not('check-engine')}.\n")
    encoder = results["check-encoder"]
    if encoder:
        parts = [
            f"{numbers} cosine {encoder[numbers]['least_cosine']:.6f} at least, scores {encoder[numbers]['scores_apart']:.1e} apart"
            for numbers in ("f32", "f16")
        ]
        print(f"Embedder and cross-encoder against the CPU in f32: {'; '.join(parts)}.\n")
    else:
        print(f"Embedder and cross-encoder against the CPU: {results.why_not('check-encoder')}.\n")


def encoders(results):
    """The table of embedding and re-ranking."""
    ours, peer = results["encoder"], results["peer-encoder"]
    row(f"{ours['tokens'] if ours else 128} tokens, MiniLM's shape", "Raglan", "sentence-transformers", "ratio")
    row(*["---"] * 4)
    for name, key in (("embeddings/s", "embeddings_per_s"), ("pairs re-ranked/s", "pairs_per_s")):
        row(
            name,
            number(ours[key]) if ours else results.why_not("encoder"),
            number(peer[key]) if peer else results.why_not("peer-encoder"),
            rank(peer[key], ours[key]) if ours and peer else "–",
        )
    if peer and "least_cosine" in peer:
        print(
            f"\nVectors of the two: cosine {peer['least_cosine']:.6f} at least; scores {peer['scores_apart']:.1e} apart. Each at the best of its batch sizes."
        )


def main():
    results = Results(sys.argv[1])
    date, commit, gpu, cores = (results.folder / "conditions.txt").read_text().splitlines()[:4]
    print(f"{date}, commit {commit}, {gpu}, {cores} cores. Random weights.\n")
    check = results.folder / "check.json"
    print(f"Kernels against the CPU: {check.read_text().splitlines()[-1] if check.exists() else results.why_not('check')}.\n")
    whole_models(results)
    bandwidth = results["bandwidth"]
    if bandwidth:
        print(
            f"A copy on the GPU moves {number(bandwidth['copy_gb_s'])} GB/s. Attention of 256 sequences of 1,125 tokens reads its cache at "
            f"{bandwidth['decode_share']:.0%} of that; of prompts of 1,000 tokens it does {number(bandwidth['prefill_tflop_s'])} Tflop/s; 256 tokens are "
            f"chosen out of 128,256 in {number(bandwidth['sample_256_us'])} µs, one in {number(bandwidth['sample_1_us'])} µs.\n"
        )
    row("one sequence", "tokens/s", "of copy bandwidth ÷ weights", "first token, ms", "transformers, tokens/s", "ratio")
    row(*["---"] * 6)
    shapes = results.shapes()
    for shape, counts in shapes.items():
        one_at_a_time(results, shape, counts[0])
    print()
    row("many at once", "requests", "output tokens/s", "first token p50 / p99, ms", "transformers, output tokens/s", "ratio")
    row(*["---"] * 6)
    for shape, counts in shapes.items():
        for count in counts:
            at_once(results, shape, count)
    print()
    encoders(results)


if __name__ == "__main__":
    main()
