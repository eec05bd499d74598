"""What several stages have in common: the knobs of all that run a model, that train, that learn or are asked chat.

None of these classes is a stage; nanochat/pipeline.py has those, and says where each of them is used.
"""

from __future__ import annotations

import json
from typing import Literal, Self

from nanochat.data import own_conversations
from nanochat.locations import folder
from nanochat.tasks.mixture import own_files, parse_mixture, with_own
from nanochat.tasks.task import asked_problems
from nanochat.workflow.stage import Stage, execution, identity


class ModelStage(Stage, abstract=True):
    """What all stages that run a model have in common."""

    device: Literal["auto", "cpu", "cuda"] = execution("auto", "where the model runs")
    dtype: Literal["auto", "bfloat16", "float32"] = execution(
        "auto", "of the matrix products; auto: bfloat16 where the processor has it"
    )


class Trained(ModelStage, abstract=True):
    """What all stages that train have in common."""

    seed: int = identity(1, "of the initial weights, the order of the data and the samples", at_least=0)
    num_steps: int = identity(0, "optimizer steps; 0: as the horizon or one epoch says", at_least=0)
    device_batch_size: int = execution(0, "rows per rank and forward pass; 0: as many as the card holds", at_least=0)
    num_ranks: int = execution(1, "processes, one per GPU", at_least=1)
    compile: bool = execution(True, "compile the model: seconds once, then about twice as fast")
    checkpoint_activations: bool = execution(False, "compute activations twice, to keep a tenth of them in memory")
    loss_chunk: int = execution(0, "tokens whose logits are in memory at once; 0: all of a forward pass", at_least=0)
    log_every: int = execution(10, "steps between two logged metrics", at_least=1)
    eval_every: int = execution(0, "steps between two looks at the validation loss; 0: only at the end", at_least=0)
    checkpoint_every: int = execution(0, "steps between two checkpoints; 0: as checkpoint_minutes says", at_least=0)
    checkpoint_minutes: float = execution(
        10.0, "minutes between two checkpoints, written while training goes on; 0: as checkpoint_every says", at_least=0
    )
    mirror_checkpoints: bool = execution(
        False, "keep the newest checkpoint in the store too, so that a machine that is lost costs minutes"
    )


class ChatData(Stage, abstract=True, work="chat_data"):
    """What the rows of midtraining and SFT have in common: a mixture of tasks in the conversation format."""

    mixture: str = identity("", "tasks and rows of each: `smoltalk:460000, identity:2000, jsonl:FILE-OF-YOUR-OWN`")
    sequence_len: int = identity(2048, "tokens a row: as in tokenize", at_least=8)
    part_size: int = identity(50_000, "conversations of a part, which are packed together", at_least=1)
    seed: int = identity(1, "of the order of the conversations", at_least=0)
    threads: int = execution(0, "threads; 0: one per core", at_least=0)
    own_files: str = execution("", "where the files of one's own lie: filled in from the mixture")

    def check(self) -> None:
        parse_mixture(self.mixture, f"{self.name}.mixture")

    def resolved(self) -> Self:
        places = json.loads(self.own_files or "{}")
        found = own_conversations.resolve(path for path in own_files(self.mixture) if path not in places)
        places |= {name: str(folder(path).absolute()) for path, (name, _) in found.items()}
        return self.replaced(mixture=with_own(self.mixture, found), own_files=json.dumps(places)) if found else self

    def label(self) -> str:
        return f"c{self.sequence_len}"

    def num_parts(self) -> int:
        return 1 + -(-sum(parse_mixture(self.mixture).values()) // self.part_size)  # part 0 is held out


class Chat(Trained, abstract=True):
    """What midtraining and SFT have in common."""

    total_batch_size: int = identity(
        0, "tokens per optimizer step over all ranks; 0: as in the stage before", at_least=0
    )
    lr_frac: float = identity(1.0, "learning rates as a fraction of pretraining's", at_least=0)
    warmdown_ratio: float = identity(0.5, "share of the steps in which the learning rate falls", at_least=0, at_most=1)


class PolicyGradient(Trained, abstract=True):
    """What is sampled in reinforcement learning, and how its loss is made of it; docs/rl.md."""

    prompts_per_step: int = identity(16, "problems per optimizer step over all ranks", at_least=1)
    samples_per_prompt: int = identity(16, "answers sampled for each problem: the group", at_least=2)
    max_new_tokens: int = identity(256, "tokens of a sampled answer", at_least=1)
    temperature: float = identity(1.0, "of the samples", at_least=0.01)
    kl_coef: float = identity(0.0, "weight of the KL divergence from the SFT model; 0: none", at_least=0, later=True)
    clip: float = identity(
        0.0, "ratios are bounded by 1 - clip and 1 + clip; 0: no ratio", at_least=0, at_most=1, later=True
    )
    clip_high: float = identity(0.0, "the upper bound is 1 + clip_high; 0: as clip", at_least=0, later=True)
    updates_per_rollout: int = identity(1, "optimizer steps on the same answers", at_least=1, later=True)

    def check(self) -> None:
        name = self.name
        if self.clip_high and not self.clip:
            raise ValueError(f"{name}.clip_high = {self.clip_high}: bounds nothing without {name}.clip: set that too")
        if self.updates_per_rollout > 1 and not self.clip:
            raise ValueError(
                f"{name}.updates_per_rollout = {self.updates_per_rollout}: after the first update the answers are "
                f"those of an older policy: set {name}.clip too, e.g. 0.2, or updates_per_rollout=1"
            )
        for knob, value in (("kl_coef", self.kl_coef), ("clip", self.clip)):
            if value and self.temperature != 1:
                raise ValueError(
                    f"{name}.{knob} = {value}: needs answers drawn from the model's own distribution: set "
                    f"{name}.temperature=1 (it is {self.temperature}), or {knob}=0"
                )

    def most_tokens_per_step(self) -> int:
        return self.prompts_per_step * self.samples_per_prompt * self.max_new_tokens

    def copies(self) -> int:
        """How many sets of weights are in memory beside the trained one."""
        return int(self.kl_coef > 0)


class ChatEval(ModelStage, abstract=True, work="chat_eval"):
    """What all evaluations of a chat model have in common."""

    tasks: str = identity(
        "", "tasks to ask, comma-separated; `letter_counting:256`: at most so many problems of that one"
    )
    max_problems: int = identity(200, "held-out problems of each task, or as many as there are", at_least=1)
    max_new_tokens: int = identity(512, "tokens of an answer", at_least=1)
    temperature: float = identity(0.0, "0: always the likeliest token", at_least=0)
    num_samples: int = identity(1, "answers to each generative problem", at_least=1)
    top_k: int = identity(0, "draw among so many likeliest tokens; 0: all", at_least=0)
    device_batch_size: int = execution(
        64, "answers decoded together on a rank, and at least those to one problem", at_least=1
    )
    num_ranks: int = execution(1, "processes, one per GPU", at_least=1)

    def check(self) -> None:
        asked_problems(self.tasks, f"{self.name}.tasks")
        for knob, value, off in (("num_samples", self.num_samples, 1), ("top_k", self.top_k, 0)):
            if value != off and not self.temperature:
                raise ValueError(
                    f"{self.name}.{knob} = {value}: at temperature 0 every answer is the likeliest one: set "
                    f"{self.name}.temperature above 0, or {knob} = {off}"
                )
