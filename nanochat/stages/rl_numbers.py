"""What a step of reinforcement learning tells of its answers: rewards, lengths, entropy, flat groups, speed.

Promises: the numbers are those of all ranks' answers together. docs/rl.md says what each of them means. Not here: what
only the loss knows (training/policy_loss.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import sqrt

import torch

from nanochat.data.tokenizer import Tokenizer
from nanochat.stages.rl_problems import Group
from nanochat.training.distributed import World, all_reduce_sum
from nanochat.training.state import Numbers


def counted(
    groups: Sequence[Group], tokenizer: Tokenizer, seconds: float, world: World, tasks: Sequence[str] = ()
) -> tuple[Numbers, float]:
    """The numbers of a step, and how many tokens the model chose in it.

    It took this rank so many seconds. Of several `tasks` each has its mean reward, where it was asked.
    """
    ranks = by_rank(_local(groups, tokenizer, seconds) | _by_task(groups, tasks), world)
    total = {name: sum(values) for name, values in ranks.items()}
    answers, mean = total["answers"], total["reward"] / total["answers"]
    return {
        "reward": mean,
        "reward_std": sqrt(max(0.0, total["squares"] / answers - mean**2)),
        "solved_by_any": total["solved"] / total["groups"],
        "flat_groups": (total["flat_right"] + total["flat_wrong"]) / total["groups"],
        "flat_right": total["flat_right"] / total["groups"],
        "flat_wrong": total["flat_wrong"] / total["groups"],
        "answer_tokens": total["tokens"] / answers,
        "answer_tokens_max": max(ranks["longest"]),
        "truncated": total["truncated"] / answers,
        "tool_calls": total["calls"] / answers,
        "entropy_estimate": total["surprise"] / total["sampled"],
        "rollout_seconds": total["seconds"] / world.size,
        "rollout_tok_per_s": total["tokens"] / max(ranks["seconds"]),
        **{
            f"reward_{name}": total[f"reward_{name}"] / total[f"answers_{name}"]
            for name in tasks
            if total.get(f"answers_{name}")
        },
    }, total["sampled"]


def _local(groups: Sequence[Group], tokenizer: Tokenizer, seconds: float) -> dict[str, float]:
    """Of this rank's groups."""
    answers = [answer for group in groups for answer in group.answers]
    rewards = [reward for group in groups for reward in group.rewards]
    call = tokenizer.special("<|python_end|>")
    return {
        "groups": len(groups),
        "answers": len(answers),
        "sampled": sum(sum(answer.mask) for answer in answers),
        "surprise": -sum(sum(answer.log_probs) for answer in answers),  # where a tool answered they are 0
        "reward": sum(rewards),
        "squares": sum(reward**2 for reward in rewards),
        "solved": sum(max(group.rewards) > 0 for group in groups),
        "flat_right": sum(group.flat and group.rewards[0] > 0 for group in groups),
        "flat_wrong": sum(group.flat and group.rewards[0] <= 0 for group in groups),
        "tokens": sum(len(answer.tokens) for answer in answers),
        "longest": max((len(answer.tokens) for answer in answers), default=0),
        "truncated": sum(not answer.finished for answer in answers),
        "calls": sum(call in answer.tokens for answer in answers),
        "seconds": seconds,
    }


def _by_task(groups: Sequence[Group], tasks: Sequence[str]) -> dict[str, float]:
    local: dict[str, float] = {}
    for name in tasks if len(tasks) > 1 else ():
        rewards = [reward for group in groups if group.task == name for reward in group.rewards]
        local |= {f"reward_{name}": sum(rewards), f"answers_{name}": len(rewards)}
    return local


def by_rank(local: Mapping[str, float], world: World) -> dict[str, list[float]]:
    """Every rank's value of each of the numbers, in the order of ranks."""
    table = torch.zeros(len(local), world.size, dtype=torch.float64, device=world.device)
    table[:, world.rank] = torch.tensor(list(local.values()), dtype=torch.float64)
    return dict(zip(local, all_reduce_sum(table).tolist(), strict=True))
