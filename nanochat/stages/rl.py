"""Reinforcement learning: sample answers to a problem, and make those likelier that beat the others of their group.

REINFORCE with the group's mean as baseline (arXiv:2402.03300 without division by the standard deviation, clipping or
reference model, as arXiv:2503.20783 argues): advantage = reward - mean reward of the problem's samples, and
loss = -sum(advantage * log-probability) / number of tokens sampled in the whole step. Promises: tokens of the prompt
and of tools are never trained, the one that ends the turn is; problems whose samples all fare alike cost no training;
a step is a function of the weights, the seed and its number, however many ranks share it, so that a resume is exact.
Only temperature 1 is strictly on-policy: the trained distribution is the model's own. Not here: the loop, rewards.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from nanochat import tasks
from nanochat.data.chat_template import render_prompt
from nanochat.data.tokenizer import Tokenizer
from nanochat.inference.engine import Completion, Engine
from nanochat.model.gpt import GPT
from nanochat.stages.trainer import from_artifact, process_group
from nanochat.tasks.task import Task
from nanochat.training.distributed import World, all_reduce_sum
from nanochat.training.loop import Batch, Numbers
from nanochat.training.schedule import Schedule

if TYPE_CHECKING:
    from nanochat.pipeline import Rl
    from nanochat.workflow.stage import StageContext

ROLLOUT_ROWS = 512  # answers decoded together: bounds the memory of the cache
WIDTH_MULTIPLE = 16  # of the rows, so that nearly equal prompts share one compiled shape


def run(stage: "Rl", ctx: "StageContext") -> Numbers:
    """The stage's work: improves the SFT model on `stage.task` and writes it; returns the last numbers.

    Raises:
        ValueError: the task cannot be sampled, has no data, or trains on a problem that does not fit into the context.
    """
    with process_group(stage) as world:
        answers = stage.prompts_per_step * stage.samples_per_prompt
        training = from_artifact(stage, ctx, world, ctx["sft"], stage.most_tokens_per_step(), answers)
        tokenizer = Tokenizer.from_file(ctx["sft"] / "tokenizer.json")
        problems = Problems(tasks.make(stage.task, "train", ctx["task_data"]), tokenizer)
        held_out = Problems(tasks.make(stage.task, "test", ctx["task_data"]), tokenizer)
        num_steps = stage.num_steps or max(1, len(problems.task) // stage.prompts_per_step)
        fixed = stage.replaced(device_batch_size=training.device_batch_size)
        source = Rollouts(fixed, training.model, tokenizer, problems, num_steps, world)

        def evaluate(step: int) -> Numbers:
            asked = stage.eval_problems, stage.max_new_tokens
            return {"held_out_pass_rate": pass_rate(training.model, tokenizer, held_out, *asked, world)}

        numbers = training.fit(
            source,
            Schedule(num_steps, warmdown_ratio=1.0),
            tokens_per_step=stage.prompts_per_step * stage.samples_per_prompt * source.width,
            evaluate=evaluate,
        )
        training.write_artifact(numbers)
    return numbers


class Problems:
    """The problems of a task as prompts. Raises ValueError for a task whose answers are not sampled."""

    def __init__(self, task: Task, tokenizer: Tokenizer) -> None:
        if task.kind != "generative":
            raise ValueError(f"rl.task = {task.name!r} is {task.kind}: choose a task whose answers are generated")
        if not len(task):
            raise ValueError(f"rl.task = {task.name!r} has no problems in its {task.split} split: check its data")
        self.task, self.tokenizer = task, tokenizer

    def prompt(self, index: int) -> list[int]:
        """Everything before the reference answer, up to <|assistant_start|>."""
        return render_prompt(self.tokenizer, self.task[index]["messages"][:-1])

    def order(self, seed: int, count: int) -> np.ndarray:
        """The first `count` problems to ask, every epoch in an order of its own: (count,) int."""
        epochs = -(-count // len(self.task))
        return np.concatenate([np.random.default_rng((seed, e)).permutation(len(self.task)) for e in range(epochs)])[
            :count
        ]

    def reward(self, index: int, answer: Completion) -> float:
        """The task's verdict. Raises ValueError where it is not a finite number."""
        value = float(self.task.reward(index, answer.text))
        if not isfinite(value):
            raise ValueError(f"task {self.task.name!r} rewards problem {index} with {value}: rewards must be finite")
        return value


@dataclass(frozen=True)
class Group:
    """A problem's prompt, its sampled answers and their rewards."""

    prompt: list[int]
    answers: list[Completion]
    rewards: list[float]

    def advantages(self) -> np.ndarray:
        """Reward above the group's mean, (S,) float64; exactly zero where all fared alike."""
        rewards = np.array(self.rewards)
        return np.zeros(len(rewards)) if self.flat else rewards - rewards.mean()

    @property
    def flat(self) -> bool:
        return min(self.rewards) == max(self.rewards)


class Rollouts:
    """The source of RL's batches: each is sampled from the model as it is. `width` is the length of all rows."""

    def __init__(
        self, stage: "Rl", model: GPT, tokenizer: Tokenizer, problems: Problems, num_steps: int, world: World
    ) -> None:
        self.stage, self.model, self.tokenizer, self.problems, self.world = stage, model, tokenizer, problems, world
        self.order = problems.order(stage.seed, num_steps * stage.prompts_per_step)
        self.width = self._width()
        self.said: Numbers = {}

    def batch(self, step: int) -> list[Batch]:
        """This rank's micro-batches of (device_batch_size, width); one at least, even if empty."""
        began = time.perf_counter()
        groups = self.groups(step)
        sampled = self._count(groups, time.perf_counter() - began)
        return micro_batches(groups, self.stage.device_batch_size, self.width, sampled)

    def numbers(self) -> Numbers:
        """Of the last step, over all ranks: mean reward, share of problems that some sample solves, and more."""
        return self.said

    def groups(self, step: int) -> list[Group]:
        """This rank's share of the step's problems, every rank-size-th, with sampled and rewarded answers."""
        count = self.stage.prompts_per_step
        mine = range(self.world.rank, count, self.world.size)
        indices = [int(self.order[step * count + position]) for position in mine]
        seeds = [_seed(self.stage.seed, step, position) for position in mine]
        prompts = [self.problems.prompt(index) for index in indices]
        engine, samples = Engine(self.model, self.tokenizer), self.stage.samples_per_prompt
        together = max(1, ROLLOUT_ROWS // samples)
        answers: list[Completion] = []
        for at in range(0, len(prompts), together):
            part = slice(at, at + together)
            answers += engine.generate(
                prompts[part], self.stage.max_new_tokens, self.stage.temperature, seed=seeds[part], num_samples=samples
            )
        groups = []
        for number, (index, prompt) in enumerate(zip(indices, prompts, strict=True)):
            own = answers[number * samples : (number + 1) * samples]
            groups.append(Group(prompt, own, [self.problems.reward(index, answer) for answer in own]))
        return groups

    def _count(self, groups: list[Group], seconds: float) -> float:
        """Sums up what all ranks sampled, keeps the means for `numbers`, returns the tokens that the model chose."""
        answers = [answer for group in groups for answer in group.answers]
        call = self.tokenizer.special("<|python_end|>")
        local = {
            "groups": len(groups),
            "answers": len(answers),
            "sampled": sum(sum(answer.mask) for answer in answers),
            "reward": sum(sum(group.rewards) for group in groups),
            "solved": sum(max(group.rewards) > 0 for group in groups),
            "flat": sum(group.flat for group in groups),
            "tokens": sum(len(answer.tokens) for answer in answers),
            "truncated": sum(not answer.finished for answer in answers),
            "calls": sum(call in answer.tokens for answer in answers),
            "seconds": seconds,
        }
        sums = torch.tensor(list(local.values()), dtype=torch.float64, device=self.world.device)
        total = dict(zip(local, all_reduce_sum(sums).tolist(), strict=True))
        self.said = {
            "reward": total["reward"] / total["answers"],
            "solved_by_any": total["solved"] / total["groups"],
            "flat_groups": total["flat"] / total["groups"],
            "answer_tokens": total["tokens"] / total["answers"],
            "truncated": total["truncated"] / total["answers"],
            "tool_calls": total["calls"] / total["answers"],
            "rollout_seconds": total["seconds"] / self.world.size,
        }
        return total["sampled"]

    def _width(self) -> int:
        context = self.model.config.sequence_len
        lengths = {int(index): len(self.problems.prompt(int(index))) for index in np.unique(self.order)}
        index, longest = max(lengths.items(), key=lambda item: item[1])
        if longest >= context:
            raise ValueError(
                f"rl.task = {self.stage.task!r}: problem {index} has {longest} tokens, the context {context}: "
                "choose another task, or a longer tokenize.sequence_len"
            )
        needed = longest + self.stage.max_new_tokens - 1  # the last token is only a target
        return min(context, -(-needed // WIDTH_MULTIPLE) * WIDTH_MULTIPLE)


def micro_batches(groups: Sequence[Group], device_batch_size: int, width: int, sampled: float) -> list[Batch]:
    """The rows that teach something, in micro-batches of one shape: at least one, filled up with empty rows."""
    rows = [
        (group.prompt, answer, advantage)
        for group in groups
        for answer, advantage in zip(group.answers, group.advantages(), strict=True)
        if advantage != 0
    ]
    count = max(1, -(-len(rows) // device_batch_size))
    inputs = torch.zeros(count * device_batch_size, width, dtype=torch.int64)
    targets, weights = torch.full_like(inputs, -1), torch.zeros(inputs.shape)
    for row, (prompt, answer, advantage) in enumerate(rows):
        _fill(inputs[row], targets[row], prompt, answer)
        weights[row] = float(advantage)
    pieces = (x.split(device_batch_size) for x in (inputs, targets, weights))
    return [Batch(x, y, weight, normalizer=sampled) for x, y, weight in zip(*pieces, strict=True)]


def _fill(inputs: Tensor, targets: Tensor, prompt: Sequence[int], answer: Completion) -> None:
    """One row (T,), in place: position t reads token t and predicts token t + 1, where the model chose that one."""
    ids = torch.tensor([*prompt, *answer.tokens])
    chosen = torch.tensor([0] * len(prompt) + answer.mask).bool()
    inputs[: len(ids) - 1] = ids[:-1]
    targets[: len(ids) - 1] = torch.where(chosen, ids, -1)[1:]


def pass_rate(
    model: GPT, tokenizer: Tokenizer, problems: Problems, count: int, max_new_tokens: int, world: World
) -> float:
    """Mean reward of the likeliest answers to the first `count` problems, shared out over the ranks.

    A problem that does not fit into the context is not answered and rewarded with 0, as in chat_eval.py.
    """
    mine = range(world.rank, min(count, len(problems.task)), world.size)
    prompts = {index: problems.prompt(index) for index in mine}
    fitting = {index: prompt for index, prompt in prompts.items() if len(prompt) < model.config.sequence_len}
    engine, asked = Engine(model, tokenizer), list(fitting.values())
    together = (asked[at : at + ROLLOUT_ROWS] for at in range(0, len(asked), ROLLOUT_ROWS))
    answers = [answer for some in together for answer in engine.generate(some, max_new_tokens)]
    rewards = [problems.reward(index, answer) for index, answer in zip(fitting, answers, strict=True)]
    total = all_reduce_sum(torch.tensor([sum(rewards), float(len(prompts))], dtype=torch.float64, device=world.device))
    return float(total[0] / total[1])


def _seed(seed: int, step: int, position: int) -> int:
    return int(np.random.SeedSequence((seed, step, position)).generate_state(1, np.uint64)[0])
