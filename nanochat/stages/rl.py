"""Reinforcement learning: sample answers to a problem, and make those likelier that beat the others of their group.

REINFORCE with the group's mean as baseline (arXiv:2402.03300 without division by the standard deviation, as
arXiv:2503.20783 argues): advantage = reward - mean reward of the problem's samples, and loss = -sum(advantage *
log-probability) / number of tokens sampled in the whole step; a bounded ratio and the distance to the start are options
(training/policy_loss.py). Promises: tokens of the prompt and of tools are never trained, the one that ends the turn is;
problems whose samples all fare alike cost no training, unless the distance is part of the loss; a step is a function of
the weights, the seed and its number, however many ranks share it, so that a resume is exact. Only temperature 1 is
strictly on-policy: the trained distribution is the model's own. Not here: the loop, rewards, which problems are asked.
"""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from nanochat import tasks
from nanochat.data.tokenizer import Tokenizer
from nanochat.inference.engine import Completion, Engine
from nanochat.model.gpt import GPT
from nanochat.stages.rl_look import look
from nanochat.stages.rl_numbers import counted
from nanochat.stages.rl_problems import Group, Problems, answers_to
from nanochat.stages.trainer import from_artifact, process_group
from nanochat.tasks.task import Split, weighted_tasks
from nanochat.training.distributed import World
from nanochat.training.loop import Batch, Numbers
from nanochat.training.policy_loss import PolicyLoss, PolicyOptions
from nanochat.training.schedule import Schedule

if TYPE_CHECKING:
    from nanochat.pipeline import Rl
    from nanochat.workflow.stage import StageContext

WIDTH_MULTIPLE = 16  # of the rows, so that nearly equal prompts share one compiled shape


def run(stage: "Rl", ctx: "StageContext") -> Numbers:
    """The stage's work: improves the SFT model on `stage.task` and writes it; returns the last numbers.

    Raises:
        ValueError: a task cannot be sampled, has no data, or trains on a problem that does not fit into the context.
    """
    with process_group(stage) as world:
        answers = stage.prompts_per_step * stage.samples_per_prompt
        batch, copies = stage.most_tokens_per_step(), stage.copies()
        training = from_artifact(stage, ctx, world, ctx["sft"], batch, answers, copies)
        tokenizer = Tokenizer.from_file(ctx["sft"] / "tokenizer.json")
        problems, held_out = (problems_of(stage, split, ctx, tokenizer) for split in ("train", "validation"))
        num_steps = stage.num_steps or max(1, len(problems) // stage.prompts_per_step)
        fixed = stage.replaced(device_batch_size=training.device_batch_size)
        source = Rollouts(fixed, training.model, tokenizer, problems, num_steps, world)

        def evaluate(step: int) -> Numbers:
            return look(training.model, tokenizer, held_out, stage, world)

        numbers = training.fit(
            source,
            Schedule(num_steps, warmdown_ratio=1.0),
            tokens_per_step=stage.prompts_per_step * stage.samples_per_prompt * source.width,
            evaluate=evaluate,
            loss=source.loss,
            updates_per_step=stage.updates_per_rollout,
        )
        training.write_artifact(numbers)
    return numbers


def problems_of(stage: "Rl", split: Split, ctx: "StageContext", tokenizer: Tokenizer) -> Problems:
    """The problems of a split of all tasks that `stage.task` names, in their shares."""
    shares = weighted_tasks(stage.task, "rl.task")
    return Problems([tasks.make(name, split, ctx["task_data"]) for name in shares], tokenizer, list(shares.values()))


class Rollouts:
    """The source of RL's batches: each is sampled from the model as it is. `width` is the length of all rows.

    `loss` is what the options make of it, None for the model's own. Build it before the first update: with a `kl_coef`
    it keeps a copy of the weights as they are, in the precision of the matrix products.
    """

    def __init__(
        self, stage: "Rl", model: GPT, tokenizer: Tokenizer, problems: Problems, num_steps: int, world: World
    ) -> None:
        self.stage, self.model, self.tokenizer, self.problems, self.world = stage, model, tokenizer, problems, world
        self.order = problems.order(stage.seed, num_steps * stage.prompts_per_step)
        self.width = self._width()
        self.said: Numbers = {}
        rows = -(-stage.prompts_per_step // world.size) * stage.samples_per_prompt
        longest = min(self.width + 1, model.config.sequence_len)  # an answer's last token is only a target
        compile = stage.compile or None  # None: as the engine sees fit
        self.engine = Engine(model, tokenizer, max_rows=rows, max_len=longest, compile=compile)
        options = PolicyOptions(stage.clip, stage.clip_high, stage.kl_coef)
        self.loss = PolicyLoss(model, options, world, stage.compile) if options else None
        self.reference_losses = None
        if stage.kl_coef:
            start = model.inference_copy()
            start.loss_chunk = stage.loss_chunk
            self.reference_losses = (
                torch.compile(start.token_losses, dynamic=False) if stage.compile else start.token_losses
            )

    def batch(self, step: int) -> list[Batch]:
        """This rank's micro-batches of (device_batch_size, width); one at least, even if empty."""
        began = time.perf_counter()
        groups = self.groups(step)
        names = [task.name for task in self.problems.tasks]
        self.said, sampled = counted(groups, self.tokenizer, time.perf_counter() - began, self.world, names)
        batches = micro_batches(
            groups, self.stage.device_batch_size, self.width, sampled, also_flat=self.stage.kl_coef > 0
        )
        if self.loss is None:
            return [batch for batch, _ in batches]
        self.loss.start(sampled * self.stage.updates_per_rollout)
        return [self._with_policies(batch, log_probs) for batch, log_probs in batches]

    def numbers(self) -> Numbers:
        """Of the last step, over all ranks: mean reward, share of problems that some sample solves, and more."""
        return self.said | (self.loss.numbers() if self.loss else {})

    def groups(self, step: int) -> list[Group]:
        """This rank's share of the step's problems, every rank-size-th, with sampled and rewarded answers."""
        count, samples = self.stage.prompts_per_step, self.stage.samples_per_prompt
        mine = range(self.world.rank, count, self.world.size)
        asked = {position: int(self.order[step * count + position]) for position in mine}
        prompts = {position: self.problems.prompt(problem) for position, problem in asked.items()}
        self.engine.update(self.model)
        answers = answers_to(
            self.engine,
            prompts,
            self.stage.max_new_tokens,
            self.stage.temperature,
            [_seed(self.stage.seed, step, position) for position in mine],
            samples,
        )
        every = [answer for position in mine for answer in answers[position]]
        of = [asked[position] for position in mine for _ in range(samples)]
        rewards = self.problems.rewards(of, every, self.world.size)
        return [
            Group(prompts[p], answers[p], rewards[at * samples : (at + 1) * samples], self.problems.name(asked[p]))
            for at, p in enumerate(mine)
        ]

    @torch.no_grad()
    def _with_policies(self, batch: Batch, sampled: Tensor) -> Batch:
        """The batch with its targets' log-probabilities when they were drawn and under the policy at the start."""
        reference = torch.zeros_like(sampled)
        if self.reference_losses is not None:
            inputs, targets = batch.inputs.to(self.world.device), batch.targets.to(self.world.device)
            reference = -self.reference_losses(inputs, targets).cpu()
        return Batch(batch.inputs, batch.targets, batch.weights, batch.normalizer, (sampled, reference))

    def _width(self) -> int:
        context = self.model.config.sequence_len
        lengths = {int(problem): len(self.problems.prompt(int(problem))) for problem in np.unique(self.order)}
        problem, longest = max(lengths.items(), key=lambda item: item[1])
        if longest >= context:
            raise ValueError(
                f"rl.task = {self.problems.name(problem)!r}: problem {self.problems.place(problem)[1]} has {longest} "
                f"tokens, the context {context}: choose another task, or a longer tokenize.sequence_len"
            )
        needed = longest + self.stage.max_new_tokens - 1  # the last token is only a target
        return min(context, -(-needed // WIDTH_MULTIPLE) * WIDTH_MULTIPLE)


def micro_batches(
    groups: Sequence[Group], device_batch_size: int, width: int, sampled: float, *, also_flat: bool = False
) -> list[tuple[Batch, Tensor]]:
    """The rows that teach something, in micro-batches of one shape: at least one, filled up with empty rows.

    Beside each the log-probabilities (b, T) with which its targets were drawn. `also_flat`: those of all groups.
    """
    rows = [
        (group.prompt, answer, advantage)
        for group in groups
        for answer, advantage in zip(group.answers, group.advantages(), strict=True)
        if advantage != 0 or also_flat
    ]
    count = max(1, -(-len(rows) // device_batch_size))
    inputs = torch.zeros(count * device_batch_size, width, dtype=torch.int64)
    targets = torch.full_like(inputs, -1)
    weights, log_probs = torch.zeros(inputs.shape), torch.zeros(inputs.shape)
    for row, (prompt, answer, advantage) in enumerate(rows):
        _fill(inputs[row], targets[row], log_probs[row], prompt, answer)
        weights[row] = float(advantage)
    pieces = (x.split(device_batch_size) for x in (inputs, targets, weights, log_probs))
    return [(Batch(x, y, weight, normalizer=sampled), p) for x, y, weight, p in zip(*pieces, strict=True)]


def _fill(inputs: Tensor, targets: Tensor, log_probs: Tensor, prompt: Sequence[int], answer: Completion) -> None:
    """One row (T,), in place: position t reads token t and predicts token t + 1, where the model chose that one."""
    ids = torch.tensor([*prompt, *answer.tokens])
    chosen = torch.tensor([0] * len(prompt) + answer.mask).bool()
    inputs[: len(ids) - 1] = ids[:-1]
    targets[: len(ids) - 1] = torch.where(chosen, ids, -1)[1:]
    log_probs[len(prompt) - 1 : len(ids) - 1] = torch.tensor(answer.log_probs)


def _seed(seed: int, step: int, position: int) -> int:
    return int(np.random.SeedSequence((seed, step, position)).generate_state(1, np.uint64)[0])
