"""Chat problems per second: `python -m benchmarks.chat_eval [--peer CHECKOUT]`.

The generative tasks of an evaluation in one queue, as the stage asks them (evaluation/chat_questions.py), beside the
same engine with a problem at a time and, with `--peer`, the reference's engine, which is asked for answers of the same
lengths to the same prompts, one after another. Contestants take turns; medians, ratios, and on how many problems queue
and one at a time say the same. With random weights an answer is as long as it may be; `--directory` takes a trained
model. Not covered: multiple choice, code in a sandbox, several ranks, GPUs.
"""

import argparse
import statistics
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from benchmarks.peer import Peer
from benchmarks.small_model import CLOCKS, add_shape, described, model_and_tokenizer
from nanochat.data.chat_template import render_prompt
from nanochat.evaluation.chat_questions import Decoding, ask
from nanochat.inference.engine import Engine
from nanochat.tasks import make
from nanochat.tasks.task import Task

Calls = dict[str, Callable[[], float]]


def prompts_of(engine: Engine, task: Task, count: int) -> list[list[int]]:
    """What the model reads of each problem."""
    return [render_prompt(engine.tokenizer, task[index]["messages"][:-1]) for index in range(count)]


def one_at_a_time(
    engine: Engine, tasks: dict[str, Task], count: int, decoding: Decoding
) -> tuple[list[str], list[int]]:
    """Texts of the answers and their lengths, the verdict of each waited for."""
    texts, lengths = [], []
    for task in tasks.values():
        for index, prompt in enumerate(prompts_of(engine, task, count)):
            (said,) = engine.answers([prompt], [decoding.sampling(index)])
            task.correct(index, said.text)
            texts.append(said.text)
            lengths.append(len(said.tokens))
    return texts, lengths


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_shape(parser, sequence_len=512)
    parser.add_argument("--tasks", default="spelling,arithmetic", help="generative ones that need no data")
    parser.add_argument("--problems", type=int, default=32, help="of each task")
    parser.add_argument("--tokens", type=int, default=64, help="that an answer may have")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--eager", action="store_true", help="our step is not compiled")
    parser.add_argument("--peer", type=Path, help="a checkout of karpathy's nanochat to measure beside")
    options = parser.parse_args()
    model, tokenizer = model_and_tokenizer(options)
    print(described(options, model))
    engine, clock = Engine(model, tokenizer, compile=not options.eager), CLOCKS[options.clock]
    tasks = {name: make(name, "test", None) for name in options.tasks.split(",")}
    count, decoding = options.problems, Decoding(options.tokens)
    sizes = dict.fromkeys(tasks, count)
    queued = ask(engine, tasks, sizes, batch_size=64, decoding=decoding)  # compiles, too
    alone, lengths = one_at_a_time(engine, tasks, count, decoding)
    same = sum(a == b[0].text for a, b in zip(alone, (one for name in tasks for one in queued[name]), strict=True))
    prompts = [prompt for task in tasks.values() for prompt in prompts_of(engine, task, count)]

    def timed(call: Callable[[], object]) -> Callable[[], float]:
        def seconds() -> float:
            engine.scheduler.forget()
            begun = clock()
            call()
            return clock() - begun

        return seconds

    with ExitStack() as stack:
        calls: Calls = {
            "one queue": timed(lambda: ask(engine, tasks, sizes, batch_size=64, decoding=decoding)),
            "one at a time": timed(lambda: one_at_a_time(engine, tasks, count, decoding)),
        }
        if options.peer:
            dtype = model.compute_dtype
            peer = stack.enter_context(Peer(options.peer, model, tokenizer, dtype, options.threads, options.clock))
            calls["peer"] = lambda: peer.ask("answers", prompts=prompts, lengths=lengths)["seconds"]
        rounds = [{name: call() for name, call in calls.items()} for _ in range(options.rounds)]
    seconds = {name: statistics.median(each[name] for each in rounds) for name in calls}
    print("| | problems/s | tokens/s | one queue / this |\n|---|---|---|---|")
    for name, each in seconds.items():
        figures = f"{len(prompts) / each:,.1f} | {sum(lengths) / each:,.0f} | {each / seconds['one queue']:.2f}"
        print(f"| {name} | {figures} |")
    print(f"\nthe queue says the same as one at a time on {same} of {len(prompts)} problems")


if __name__ == "__main__":
    main()
