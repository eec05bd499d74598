"""The rollouts of benchmarks/rollouts.py by karpathy's nanochat; it runs `rollouts_peer.py CHECKOUT SPEC`.

It is imported under its own name, `nanochat`, so nothing of this library is loaded here. What is taken of it is
`nanochat.gpt.GPTConfig` and `GPT`, and `nanochat.engine.Engine.generate_batch`, or `generate` where a checkout has only
that. Its model gets the weights of ours. For every line that comes in, one goes out: [tokens, seconds] of a round.
"""

import dataclasses
import importlib
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
TOGETHER = 8  # samples in one call: its RL's device_batch_size
# its name for each of ours; what is not here is called alike
RENAMED = {
    "wte": "transformer.wte",
    "blocks": "transformer.h",
    "q_proj": "c_q",
    "k_proj": "c_k",
    "v_proj": "c_v",
    "o_proj": "c_proj",
    "up_proj": "mlp.c_fc",
    "down_proj": "mlp.c_proj",
    "value_gate": "ve_gate",
    "value_embeddings": "value_embeds",
    "residual_lambdas": "resid_lambdas",
}


class Special:
    """As much of a tokenizer as its engine asks for where no tool is called."""

    def __init__(self, ids: Mapping[str, int]) -> None:
        self.ids = ids

    def encode_special(self, name: str) -> int:
        """The id of a special token."""
        return self.ids[name]

    def get_bos_token_id(self) -> int:
        """The id of the token that begins a document."""
        return self.ids["<|bos|>"]

    def decode(self, tokens: list[int]) -> str:
        """Nothing that a calculator could work on."""
        return ""


def main() -> None:
    """Answers until the input ends."""
    root, spec = Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text(encoding="utf-8"))
    torch.set_num_threads(spec["threads"])
    sys.path[:0] = [str(root)]
    theirs = importlib.import_module("nanochat.gpt")
    if root not in Path(theirs.__file__ or "").resolve().parents:
        raise ImportError(f"nanochat.gpt came from {theirs.__file__}, not from {root}: give the root of a checkout")
    engine_class = importlib.import_module("nanochat.engine").Engine
    engine = engine_class(model_of(theirs, Path(spec["directory"])), Special(spec["special"]))
    clock = CLOCKS[spec["clock"]]
    for line in sys.stdin:
        began = clock()
        tokens = rollouts(engine, spec, int(line))
        print(json.dumps([tokens, clock() - began]), flush=True)


def model_of(theirs: Any, directory: Path) -> Any:
    """Its model of our shape with our weights. Raises ValueError where they do not fit it."""
    config = json.loads((directory / "model.json").read_text(encoding="utf-8"))
    fields = {field.name for field in dataclasses.fields(theirs.GPTConfig)}
    model = theirs.GPT(theirs.GPTConfig(**{name: value for name, value in config.items() if name in fields}))
    model.init_weights()
    ours = {_renamed(name): weight for name, weight in load_file(directory / "model.safetensors").items()}
    for name, parameter in model.state_dict().items():
        if name not in ours or ours[name].shape != parameter.shape:
            found = tuple(ours[name].shape) if name in ours else "nothing"
            raise ValueError(f"{name}: the reference has {tuple(parameter.shape)}, our model {found}")
        parameter.copy_(ours[name])
    return model.eval()


def _renamed(name: str) -> str:
    return ".".join(RENAMED.get(part, part) for part in name.split("."))


def rollouts(engine: Any, spec: Mapping[str, Any], turn: int) -> int:
    """Tokens of all answers of a step."""
    tokens = 0
    for number, prompt in enumerate(spec["prompts"]):
        for first in range(0, spec["samples"], TOGETHER):
            samples = min(TOGETHER, spec["samples"] - first)
            seed = hash((turn, number, first)) & 0x7FFFFFFF
            tokens += _answers(engine, prompt, spec, samples, seed)
    return tokens


def _answers(engine: Any, prompt: list[int], spec: Mapping[str, Any], samples: int, seed: int) -> int:
    settings = {"num_samples": samples, "max_tokens": spec["max_new_tokens"], "temperature": 1.0, "seed": seed}
    ends = (spec["special"]["<|assistant_end|>"], spec["special"]["<|bos|>"])
    if hasattr(engine, "generate_batch"):
        rows, _ = engine.generate_batch(prompt, **settings)
        # it drops the token that ends an answer; one is there unless the answer was cut
        lengths = [len(row) - len(prompt) for row in rows]
        return sum(length + (length < spec["max_new_tokens"]) for length in lengths)
    tokens, running = 0, [True] * samples
    for column, _ in engine.generate(prompt, **settings):
        tokens += sum(running)
        running = [alive and token not in ends for alive, token in zip(running, column, strict=True)]
    return tokens


if __name__ == "__main__":
    main()
