"""Which rows of docs/hyperparameters.md hold in a short run: bits per byte of variants side by side, over seeds.

    python -m benchmarks.hyperparameters --corpus FOLDER [--seeds 3] [--variants 5] [--home .nanochat/hyperparameters]

d4 at width 256, 400 steps of 4,096 tokens, rows of 512 tokens, vocabulary 4,096: same text, same held-out text. Each
variant is the recipe `tiny` up to its base evaluation with knobs on top; what a run made before is not made again, so
that it can be stopped and goes on.
"""

import argparse
import statistics
from pathlib import Path

from nanochat import recipes
from nanochat.artifacts.store import FileStore
from nanochat.workflow.plan import plan
from nanochat.workflow.runner import Observer, RunContext, run_plan

SIZE = ["sequence_len=512", "tokenizer.vocab_size=4096", "pretrain.aspect_ratio=64", "base_eval.eval_rows=2048"]
TABLE = ["warmup_steps=-1", "warmdown_ratio=-1", "final_lr_frac=-1", "scalar_lr=-1"]  # as the architecture says
VARIANTS = {
    "the table whole": TABLE,
    "20 steps of warm-up, warm-down 0.4 to 0, scalar_lr 0.1 (the recipe tiny)": [],
    "that with the table's scalar_lr 0.5": ["scalar_lr=-1"],
    "that at embedding rates 0.2 / 0.004": ["embedding_lr=0.2", "unembedding_lr=0.004"],
    "classic": [*TABLE, "architecture=classic"],
}


def main() -> None:
    """Prints a row for each variant: its seeds, their mean and spread."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--corpus", required=True, help="folder of text, or the name of a corpus")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--variants", type=int, default=len(VARIANTS), help="so many of them, from the first on")
    parser.add_argument("--home", type=Path, default=Path(".nanochat/hyperparameters"))
    arguments = parser.parse_args()
    context = RunContext(FileStore(arguments.home / "store"), arguments.home)
    seeds = range(1, arguments.seeds + 1)
    found: dict[str, list[float]] = {name: [] for name in list(VARIANTS)[: arguments.variants]}
    for seed in seeds:
        for name in found:
            found[name].append(bits_per_byte(arguments.corpus, seed, VARIANTS[name], context))
            print(f"  seed {seed}, {name}: {found[name][-1]:.4f}", flush=True)
    print("| variant | " + " | ".join(f"seed {seed}" for seed in seeds) + " | mean | spread |")
    print("|---" * (len(seeds) + 3) + "|")
    for name, values in found.items():
        cells = [f"{value:.4f}" for value in (*values, statistics.mean(values), max(values) - min(values))]
        print(f"| {name} | " + " | ".join(cells) + " |")


def bits_per_byte(corpus: str, seed: int, knobs: list[str], context: RunContext) -> float:
    """Of the recipe's base model, on the held-out text."""
    settings = [f"download.corpus={corpus}", f"pretrain.seed={seed}", *SIZE, *(f"pretrain.{knob}" for knob in knobs)]
    steps = plan(recipes.apply(recipes.stages_of("tiny"), settings), ["base_eval"])
    return run_plan(steps, context, Observer())[-1].numbers["bits_per_byte"]


if __name__ == "__main__":
    main()
