"""Answers for the reference implementation, in a process that has its checkout on the path and nothing of ours.

Run by peer.py with the checkout as its argument. It reads one job a line and writes one answer a line, both JSON. The
first job says the shape, the threads, the weights (ours, by name; where the checkout has no place for one, its own
initial values stay) and the tokenizer. Not covered: its calculator, its checkpoints.
"""

import dataclasses
import json
import resource
import sys
import time
from base64 import b64decode
from pathlib import Path
from typing import Any

sys.path.insert(0, sys.argv[1])

import tiktoken
import torch
from nanochat.core_eval import evaluate_example
from nanochat.engine import Engine
from nanochat.gpt import GPT, GPTConfig

NAMES = {  # of our parameters, where theirs differ
    "transformer.wte.": "wte.",
    "transformer.h.": "blocks.",
    ".c_q.": ".q_proj.",
    ".c_k.": ".k_proj.",
    ".c_v.": ".v_proj.",
    ".attn.c_proj.": ".attn.o_proj.",
    ".ve_gate.": ".value_gate.",
    ".mlp.c_fc.": ".up_proj.",
    ".mlp.c_proj.": ".down_proj.",
    "value_embeds.": "value_embeddings.",
    "resid_lambdas": "residual_lambdas",
}


class Tokens:
    """Our tokenizer's file with their face; no special token ever ends an answer, so that lengths are as asked."""

    def __init__(self, file: str) -> None:
        fields = json.loads(Path(file).read_text(encoding="utf-8"))
        ranks = {b64decode(token): rank for rank, token in enumerate(fields["tokens"])}
        self.bos = len(ranks)
        self.encoding = tiktoken.Encoding(
            "ours", pat_str=fields["pattern"], mergeable_ranks=ranks, special_tokens={"<|bos|>": self.bos}
        )
        self.ends = False

    def get_bos_token_id(self) -> int:
        return self.bos if self.ends else -1

    def encode_special(self, name: str) -> int:
        return -1

    def decode(self, ids: list[int]) -> str:
        return self.encoding.decode(ids)

    def __call__(self, texts: list[str], prepend: int) -> list[list[int]]:
        threads = torch.get_num_threads()
        return [[prepend, *ids] for ids in self.encoding.encode_ordinary_batch(texts, num_threads=threads)]


class Served:
    """A model of theirs and what is measured of it."""

    def __init__(self, job: dict[str, Any]) -> None:
        torch.set_num_threads(job["threads"])
        self.clock = {"wall": time.perf_counter, "cpu": time.process_time}[job["clock"]]
        known = {field.name for field in dataclasses.fields(GPTConfig)}
        self.model = GPT(GPTConfig(**{name: value for name, value in job["config"].items() if name in known}))
        self.model.init_weights()
        if job["weights"]:
            self._take(torch.load(job["weights"], weights_only=True))
        self.tokens = Tokens(job["tokenizer"])
        self.engine = Engine(self.model, self.tokens)
        self.data: dict[str, list[dict[str, Any]]] = {}

    def _take(self, ours: dict[str, torch.Tensor]) -> None:
        for name, parameter in self.model.named_parameters():
            for theirs, our in NAMES.items():
                name = name.replace(theirs, our)
            if name in ours and parameter.shape[1:] == ours[name].shape[1:]:  # their tables may be longer
                parameter.data[: len(ours[name])] = ours[name]

    def generate(self, prompts: list[list[int]], tokens: int, samples: int) -> dict[str, float]:
        """Answers one after another: seconds of all, and until the first token of the first."""
        begun, first = self.clock(), 0.0
        for prompt in prompts:
            for _ in self.engine.generate(prompt, num_samples=samples, max_tokens=tokens, temperature=0.0):
                first = first or self.clock() - begun
        return {"seconds": self.clock() - begun, "first": first}

    def answers(self, prompts: list[list[int]], lengths: list[int]) -> dict[str, float]:
        """Answers one after another, each of its own length."""
        pairs = zip(prompts, lengths, strict=True)
        return {"seconds": sum(self.generate([prompt], length, 1)["seconds"] for prompt, length in pairs)}

    def load(self, arrivals: list[float], prompts: list[list[int]], lengths: list[int]) -> dict[str, list[float]]:
        """First come, first served; seconds since the beginning of each first and last token."""
        begun, first, last = time.perf_counter(), [], []
        for arrival, prompt, length in zip(arrivals, prompts, lengths, strict=True):
            time.sleep(max(0.0, arrival - (time.perf_counter() - begun)))
            for at, _ in enumerate(self.engine.generate(prompt, max_tokens=length, temperature=0.0)):
                if not at:
                    first.append(time.perf_counter() - begun)
            last.append(time.perf_counter() - begun)
        return {"first": first, "last": last}

    def core(self, name: str, meta: dict[str, Any], count: int, examples: Any = None) -> dict[str, Any]:
        """The first `count` questions of a task, one after another; its examples come with the first call."""
        self.data[name] = examples or self.data[name]
        self.tokens.ends = True
        begun = self.clock()
        device = torch.device("cpu")
        found = [evaluate_example(i, self.model, self.tokens, self.data[name], device, meta) for i in range(count)]
        seconds, self.tokens.ends = self.clock() - begun, False
        return {"seconds": seconds, "right": [bool(one[0] if isinstance(one, tuple) else one) for one in found]}

    def peak(self) -> dict[str, float]:
        """Most memory that the process ever held, in bytes."""
        return {"bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0}


def main() -> None:
    """One answer a line, for ever."""
    answers, sys.stdout = sys.stdout, sys.stderr
    served = Served(json.loads(sys.stdin.readline()))
    print("{}", file=answers, flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        with torch.inference_mode():
            print(json.dumps(getattr(served, job.pop("do"))(**job)), file=answers, flush=True)


if __name__ == "__main__":
    main()
