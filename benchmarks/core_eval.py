"""CORE's questions per second, ours beside the reference's: `python -m benchmarks.core_eval [--peer CHECKOUT]`.

Three kinds of questions with 0, 2 and 10 shots, from a folder with the published bundle's files (`--bundle`) or, where
there is none, written from a seed at like lengths; random weights of one shape, or a trained model's (`--directory`).
Three contestants take turns: `ours` (evaluation/core_metric.py), `plain` (the same questions one at a time, every row
read whole, written from the rules alone) and the reference's own evaluate_example in a process of its own, one question
at a time, with our weights. Prints medians, ratios, and on how many questions the verdicts are the same. Not covered:
several ranks, GPUs, the time to read the files.
"""

import argparse
import random
import statistics
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.peer import Peer
from benchmarks.small_model import CLOCKS, add_shape, described, model_and_tokenizer
from nanochat.data.tokenizer import Tokenizer
from nanochat.evaluation.core_bundle import CoreTask, load_examples, prompts
from nanochat.evaluation.core_metric import question, verdicts
from nanochat.model.gpt import GPT

BUNDLE = Path("../shared/data/core")
FILES = {  # kind: file of the bundle, delimiter
    "multiple_choice": ("arc_easy", "\nAnswer: "),
    "schema": ("winogrande", " "),
    "language_modeling": ("jeopardy", "\nAnswer: "),
}
SHOTS = (0, 2, 10)
TOKENS_PER_BATCH = 32 * 2048
Answered = Callable[[], tuple[float, list[bool]]]  # seconds and verdicts


@dataclass(frozen=True)
class Asked:
    """A task with the questions that are timed: the first ones."""

    task: CoreTask
    examples: list[dict[str, Any]]
    count: int

    @property
    def golds(self) -> list[int]:
        return [example.get("gold", 0) for example in self.examples[: self.count]]

    def ours(self, model: GPT, tokenizer: Tokenizer) -> list[bool]:
        """Prompts, tokens and answers."""
        texts = [prompts(self.task, self.examples, index) for index in range(self.count)]
        return verdicts(model, tokenizer, self.task.kind, texts, self.golds, TOKENS_PER_BATCH)

    @torch.inference_mode()
    def plain(self, model: GPT, tokenizer: Tokenizer) -> list[bool]:
        """Every row of every question in a forward of its own, with the logits of all its tokens."""
        found = []
        for index, gold in enumerate(self.golds):
            rows = [[tokenizer.bos, *tokenizer.encode(text)] for text in prompts(self.task, self.examples, index)]
            asked = question(self.task.kind, rows, gold, model.config.sequence_len)
            means, exact = [], True
            for row, (start, end) in zip(asked.rows, asked.spans, strict=True):
                tokens = torch.tensor([row])
                logits = model(tokens[:, :-1])[0]
                losses = torch.nn.functional.cross_entropy(logits, tokens[0, 1:], reduction="none")
                means.append(losses[start - 1 : end - 1].mean().item())
                exact = bool((logits.argmax(-1) == tokens[0, 1:])[start - 1 : end - 1].all())
            found.append(exact if len(asked.rows) == 1 else means.index(min(means)) == asked.gold)
        return found

    def by(self, peer: Peer) -> Answered:
        """The reference's answers; it is given the examples now."""
        meta = {
            "task_type": self.task.kind,
            "num_fewshot": self.task.shots,
            "continuation_delimiter": self.task.delimiter,
        }
        name = f"{self.task.label} {self.task.shots}"
        peer.ask("core", name=name, meta=meta, count=1, examples=self.examples)

        def answer() -> tuple[float, list[bool]]:
            found = peer.ask("core", name=name, meta=meta, count=self.count)
            return found["seconds"], found["right"]

        return answer


def written(kind: str, count: int) -> list[dict[str, Any]]:
    """Examples from a seed, about as long as those of the bundle."""
    dice = random.Random(kind)
    words = ["the", "of", "river", "light", "which", "carries", "seven", "old", "stone", "because", "quickly", "green"]

    def text(least: int, most: int) -> str:
        return " ".join(dice.choice(words) for _ in range(dice.randint(least, most)))

    made: list[dict[str, Any]] = []
    for _ in range(count):
        if kind == "multiple_choice":
            made.append({"query": text(10, 40), "choices": [text(1, 8) for _ in range(4)], "gold": dice.randrange(4)})
        elif kind == "schema":
            options = [text(8, 16) for _ in range(2)]
            made.append({"context_options": options, "continuation": text(3, 9), "gold": dice.randrange(2)})
        else:
            made.append({"context": text(15, 40), "continuation": text(1, 4)})
    return made


def asked(bundle: Path, count: int) -> list[Asked]:
    """Every kind with every number of shots."""
    tasks = []
    for kind, (file, delimiter) in FILES.items():
        for shots in SHOTS:
            task = CoreTask(file, bundle / f"{file}.jsonl", kind, shots, delimiter, 0.0)
            examples = load_examples(task, count + 500) if bundle.is_dir() else written(kind, count + 500)
            tasks.append(Asked(task, examples, min(count, len(examples))))
    return tasks


def by_us(answer: Callable[[GPT, Tokenizer], list[bool]], model: GPT, tokenizer: Tokenizer, clock: str) -> Answered:
    """The call with the time that it takes."""

    def measured() -> tuple[float, list[bool]]:
        begun = CLOCKS[clock]()
        found = answer(model, tokenizer)
        return CLOCKS[clock]() - begun, found

    return measured


def medians(calls: dict[str, Answered], rounds: int) -> dict[str, tuple[float, list[bool]]]:
    """Median seconds of each call, which take turns, and what it found; the first round warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    found = {}
    for turn in range(rounds + 1):
        for name, call in calls.items():
            taken, found[name] = call()
            if turn:
                seconds[name].append(taken)
    return {name: (statistics.median(each), found[name]) for name, each in seconds.items()}


def line(task: CoreTask, found: dict[str, tuple[float, list[bool]]]) -> str:
    """One row of the table."""
    seconds, right = found["ours"]
    cells = [task.kind, str(task.shots)]
    cells += [f"{len(right) / each:,.1f}" for each, _ in found.values()]
    cells += [f"{each / seconds:.2f}" for name, (each, _) in found.items() if name != "ours"]
    for name, (_, theirs) in found.items():
        if name != "ours":
            same = sum(a == b for a, b in zip(right, theirs, strict=True))
            cells.append("yes" if same == len(right) else f"{same} of {len(right)}")
    return "| " + " | ".join(cells) + " |"


def titles(names: Sequence[str]) -> str:
    """The head of the table."""
    others = [name for name in names if name != "ours"]
    cells = ["kind", "shots", *(f"{name}, examples/s" for name in names)]
    cells += [*(f"ours / {name}" for name in others), *(f"verdicts as {name}" for name in others)]
    return "| " + " | ".join(cells) + " |\n|" + "---|" * len(cells)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_shape(parser, sequence_len=2048)
    parser.add_argument("--bundle", type=Path, default=BUNDLE, help="a folder with the published JSON lines")
    parser.add_argument("--examples", type=int, default=60, help="questions of each kind and number of shots")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peer", type=Path, help="a checkout of karpathy's nanochat to measure beside")
    parser.add_argument("--only", choices=FILES, help="one kind")
    options = parser.parse_args()
    model, tokenizer = model_and_tokenizer(options)
    print(described(options, model))
    with ExitStack() as stack:
        peer = None
        if options.peer:
            peer = stack.enter_context(
                Peer(options.peer, model, tokenizer, model.compute_dtype, options.threads, options.clock)
            )
        names = ["ours", "plain", *(["peer"] if peer else [])]
        print(titles(names))
        total = dict.fromkeys(names, 0.0)
        for one in asked(options.bundle, options.examples):
            if options.only not in (None, one.task.kind):
                continue
            calls = {name: by_us(getattr(one, name), model, tokenizer, options.clock) for name in ("ours", "plain")}
            found = medians(calls | ({"peer": one.by(peer)} if peer else {}), options.rounds)
            print(line(one.task, found), flush=True)
            if one.task.shots == max(SHOTS):
                for name, (seconds, _) in found.items():
                    total[name] += seconds
        ratios = ", ".join(f"{total[name] / total['ours']:.2f} times {name}" for name in names[1:])
        print(f"\nall kinds with {max(SHOTS)} shots, as many of each: ours is {ratios}")


if __name__ == "__main__":
    main()
