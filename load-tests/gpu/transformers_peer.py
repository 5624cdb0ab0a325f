#!/usr/bin/env python3
"""The same requests through Python's transformers, on the same weights and the same GPU: one at a time, all of a batch in one `generate`, and through
its own continuous batching where that is there and works.

    transformers_peer.py FOLDER [--device cuda] [--dtype bfloat16] [--concurrent 64 …] [--prompt 1000] [--answer 250]

FOLDER is what `engine_bench make` wrote. Prints a line of JSON. A batch that does not fit into memory is sent in halves, one after the other.
"""

import argparse
import json
import random
import statistics
import time

import torch
import transformers


class FirstToken(transformers.LogitsProcessor):
    """Notes when the first token's scores are there."""

    def __init__(self, synchronize):
        self.synchronize, self.at = synchronize, None

    def __call__(self, input_ids, scores):
        if self.at is None:
            self.synchronize()
            self.at = time.perf_counter()
        return scores


class Peer:
    def __init__(self, arguments):
        self.device = torch.device(arguments.device)
        self.prompt, self.answer = arguments.prompt, arguments.answer
        self.model = transformers.AutoModelForCausalLM.from_pretrained(
            arguments.folder, dtype=getattr(torch, arguments.dtype), attn_implementation="sdpa"
        ).to(self.device)
        self.model.eval()
        # Nothing ends before its time: the weights are random, and so would the ends be.
        self.options = dict(
            max_new_tokens=self.answer, min_new_tokens=self.answer, do_sample=False, eos_token_id=None, pad_token_id=0
        )
        self.numbers = random.Random(1)

    def synchronize(self):
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def prompts(self, count):
        """No two begin alike."""
        most = self.model.config.vocab_size - 1
        return [[self.numbers.randint(1, most) for _ in range(self.prompt)] for _ in range(count)]

    def generate(self, prompts):
        """Seconds of a batch, and seconds until its first tokens are there."""
        batch = torch.tensor(prompts, device=self.device)
        first = FirstToken(self.synchronize)
        self.synchronize()
        begun = time.perf_counter()
        with torch.inference_mode():
            written = self.model.generate(
                batch, attention_mask=torch.ones_like(batch), logits_processor=[first], **self.options
            )
        self.synchronize()
        ended = time.perf_counter()
        assert written.shape[1] == self.prompt + self.answer
        return ended - begun, first.at - begun

    def one(self):
        self.generate(self.prompts(1))
        times = [self.generate(self.prompts(1)) for _ in range(2)]
        seconds, first = min(times)
        return {"decode_tokens_per_s": (self.answer - 1) / (seconds - first), "first_token_ms": first * 1e3}

    def batched(self, count, size=None):
        """All at once; where they do not fit, in parts. Requests of a later part wait for the earlier ones."""
        size = size or count
        prompts = self.prompts(count)
        begun, firsts = time.perf_counter(), []
        try:
            for start in range(0, count, size):
                waited = time.perf_counter() - begun
                part = prompts[start : start + size]
                _, first = self.generate(part)
                firsts += [(waited + first) * 1e3] * len(part)
        except torch.OutOfMemoryError:
            if size == 1:
                raise
            torch.cuda.empty_cache()
            return self.batched(count, size // 2)
        return self.report(count, time.perf_counter() - begun, firsts) | {"batch": size}

    def continuous(self, count):
        """All at once through its continuous batching. What it prepares before the first request is there is not counted."""
        if not hasattr(self.model, "generate_batch"):
            return {"error": f"transformers {transformers.__version__} has none"}
        try:
            if self.device.type == "cuda":
                torch.cuda.empty_cache()  # what the batch before has left is room for its cache
            options = {"generation_config": transformers.GenerationConfig(**self.options), "record_timestamps": True}
            if self.device.type == "cpu":
                # Else its cache would take most of the machine's memory.
                options["continuous_batching_config"] = transformers.ContinuousBatchingConfig(num_blocks=64)
            with torch.inference_mode():
                answers = list(self.model.generate_batch(inputs=self.prompts(count), **options).values())
            written = sum(len(answer.generated_tokens) for answer in answers)
            if written < count * self.answer:
                return {"error": f"only {written} of {count * self.answer} tokens came"}
            begun = min(answer.created_time for answer in answers)
            seconds = max(answer.lifespan[1] for answer in answers) - begun
            return self.report(count, seconds, [(answer.timestamps[0] - begun) * 1e3 for answer in answers])
        except Exception as error:  # whatever a library that changes often comes up with
            return {"error": f"{type(error).__name__}: {error}"[:300]}

    def report(self, count, seconds, firsts):
        return {
            "output_tokens_per_s": count * self.answer / seconds,
            "seconds": seconds,
            "first_token_ms_p50": statistics.median(firsts),
            "first_token_ms_p99": sorted(firsts)[int(len(firsts) * 0.99)],
        }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--concurrent", nargs="+", type=int, default=[64])
    parser.add_argument("--prompt", type=int, default=1000)
    parser.add_argument("--answer", type=int, default=250)
    arguments = parser.parse_args()
    peer = Peer(arguments)
    result = {"transformers": transformers.__version__, "torch": torch.__version__, "one": peer.one(), "many": []}
    for count in arguments.concurrent:
        result["many"].append(
            {"concurrent": count, "batched": peer.batched(count), "continuous": peer.continuous(count)}
        )
    print(json.dumps(result))


if __name__ == "__main__":
    main()
