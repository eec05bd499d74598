"""A look at what reinforcement learning has learned so far: the validation problems, asked greedily and sampled.

`held_out_pass_rate` is the mean reward of the likeliest answers, `held_out_pass_at_K` the chance that one of K sampled
answers is right (above 0), by the unbiased estimator of arXiv:2107.03374. Promises: the numbers are those of the
problems, however many ranks share them; a problem that does not fit into the context is not answered and not solved;
the same samples are drawn at every look, as far as the weights are the same. Not here: when it is looked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from nanochat.data.tokenizer import Tokenizer
from nanochat.evaluation.scores import pass_at_k, pass_counts, pass_name
from nanochat.inference.engine import Engine
from nanochat.model.gpt import GPT
from nanochat.stages.rl_problems import Problems, answers_to
from nanochat.training.distributed import World, all_reduce_sum
from nanochat.training.state import Numbers

if TYPE_CHECKING:
    from nanochat.pipeline import Rl

NAME = "held_out"


def look(model: GPT, tokenizer: Tokenizer, problems: Problems, stage: Rl, world: World) -> Numbers:
    """Asks the first `stage.eval_problems` problems of each task, shared out over the ranks."""
    samples = stage.eval_samples
    mine = problems.first(stage.eval_problems)[world.rank :: world.size]
    prompts = {problem: problems.prompt(problem) for problem in mine}
    fitting = {problem: prompt for problem, prompt in prompts.items() if len(prompt) < model.config.sequence_len}
    needed = max(map(len, fitting.values()), default=1) + stage.max_new_tokens  # no memory for more beside training
    most = max(1, len(fitting) * samples)
    engine = Engine(model, tokenizer, max_rows=most, max_len=min(needed, model.config.sequence_len))
    greedy = answers_to(engine, fitting, stage.max_new_tokens)
    drawn = answers_to(engine, fitting, stage.max_new_tokens, stage.temperature, list(fitting), samples)
    asked = [problem for problem in fitting for _ in range(1 + samples)]
    every = [answer for problem in fitting for answer in (*greedy[problem], *drawn[problem])]
    rewards = problems.rewards(asked, every, world.size)
    by_problem = {problem: rewards[at * (1 + samples) : (at + 1) * (1 + samples)] for at, problem in enumerate(fitting)}
    return _means(problems, mine, by_problem, samples, world)


def _means(problems: Problems, mine: list[int], rewards: dict[int, list[float]], samples: int, world: World) -> Numbers:
    """Over all ranks; `rewards` of a problem are those of the greedy answer and of the samples."""
    ks = [1, *pass_counts(samples)]
    table = torch.zeros(len(problems.tasks), 2 + len(ks), dtype=torch.float64)  # problems, greedy reward, pass@k
    for problem in mine:
        row = table[problems.place(problem)[0]]
        row[0] += 1
        if problem in rewards:
            greedy, *drawn = rewards[problem]
            right = sum(reward > 0 for reward in drawn)
            row[1:] += torch.tensor([greedy, *(pass_at_k(samples, right, k) for k in ks)], dtype=torch.float64)
    table = all_reduce_sum(table.to(world.device)).cpu()
    count, greedy, *passed = table.sum(0).tolist()
    found = {f"{NAME}_pass_rate": greedy / count}
    found |= {pass_name(NAME, k): value / count for k, value in zip(ks, passed, strict=True)}
    if len(problems.tasks) > 1:
        by_task = {task.name: row.tolist() for task, row in zip(problems.tasks, table, strict=True)}
        found |= {f"{NAME}_pass_rate_{name}": row[1] / row[0] for name, row in by_task.items() if row[0]}
    return found
