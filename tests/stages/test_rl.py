"""Reinforcement learning follows the gradient it says, learns what it can, and starts again where it was killed.

Oracles: a policy gradient written out answer by answer, and models whose weights are a table of what follows what. Not
covered: the loop itself (test_train.py), what a real model learns (the end-to-end test).
"""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from nanochat import tasks
from nanochat.artifacts.metrics import Metrics, read
from nanochat.data.chat_template import render_prompt
from nanochat.data.tokenizer import Tokenizer
from nanochat.inference import engine
from nanochat.inference.engine import Completion
from nanochat.model.config import GPTConfig
from nanochat.model.gpt import GPT
from nanochat.model.weights import save_model
from nanochat.pipeline import Rl
from nanochat.stages.rl import Rollouts
from nanochat.stages.rl import micro_batches as with_log_probs
from nanochat.stages.rl import run as rl
from nanochat.stages.rl_look import look
from nanochat.stages.rl_problems import Group, Problems
from nanochat.tasks.task import Split, Task, dialogue
from nanochat.training.distributed import World
from nanochat.training.loop import Batch
from nanochat.training.optim import OptimSettings
from nanochat.workflow.stage import StageContext
from tests.paths import ROOT

TOKENIZER = Tokenizer(tuple(bytes([byte]) for byte in range(256)))
END, START = TOKENIZER.special("<|assistant_end|>"), TOKENIZER.special("<|assistant_start|>")
CALL, CALLED = TOKENIZER.special("<|python_start|>"), TOKENIZER.special("<|python_end|>")
EXECUTION = {"compile": False, "dtype": "float32", "device": "cpu", "device_batch_size": 4, "log_every": 1}


class Arms(Task):
    """Say b: a problem with two answers, of which one is right."""

    baseline = 0.5
    size = 10

    def __init__(self, split: Split) -> None:
        super().__init__(split)
        self.name = "arms"  # not in the class, which would enter it in the list of tasks for all tests

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> dict[str, Any]:
        return dialogue("?" * (1 + index % 3), "b")

    def correct(self, index: int, completion: str) -> bool:
        return completion == "b"


@pytest.fixture(autouse=True)
def _listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(tasks.TASKS, "arms", lambda split, data: Arms(split))


def stage(**knobs: Any) -> Rl:
    small = {"task": "arms", "prompts_per_step": 3, "samples_per_prompt": 4, "max_new_tokens": 3, "num_steps": 4}
    return Rl(**{**small, **EXECUTION, "lr_frac": 1.0, **knobs})


def two_armed_model(sequence_len: int = 32) -> GPT:
    """Says a or b, as likely as not, and mostly stops."""
    model = GPT(GPTConfig.classic(1, TOKENIZER.vocab_size, sequence_len, width=272, head_dim=16))
    model.init_weights(0)
    with torch.no_grad():
        model.wte.weight.copy_(torch.eye(TOKENIZER.vocab_size, 272))
        for token, following in ((START, ord("a")), (START, ord("b")), (ord("a"), END), (ord("b"), END)):
            model.lm_head.weight[following, token] = 0.5
    return model


def place(folder: Path, model: GPT) -> StageContext:
    sft = folder / "sft"
    save_model(model, sft, stage="sft", optimizer=asdict(OptimSettings()), architecture="classic", total_batch_size=64)
    TOKENIZER.save(sft / "tokenizer.json")
    np.save(sft / "token_bytes.npy", TOKENIZER.token_bytes())
    (folder / "out").mkdir()
    inputs = {"sft": sft, "task_data": folder}
    return StageContext(inputs, {}, folder / "out", folder / "work", Metrics(folder / "metrics.jsonl"))


def rollouts(model: GPT, world: World | None = None, task: Task | None = None, **knobs: Any) -> Rollouts:
    chosen = stage(**knobs)
    problems = Problems([task or Arms("train")], TOKENIZER)
    return Rollouts(chosen, model, TOKENIZER, problems, chosen.num_steps, world or World())


def micro_batches(groups: list[Group], device_batch_size: int, width: int, sampled: float) -> list[Batch]:
    return [batch for batch, _ in with_log_probs(groups, device_batch_size, width, sampled)]


def pass_rate(model: GPT, problems: Problems, count: int, world: World) -> float:
    return look(model, TOKENIZER, problems, stage(eval_problems=count, eval_samples=1), world)["held_out_pass_rate"]


def completion(tokens: list[int], mask: list[int] | None = None) -> Completion:
    return Completion(tokens, mask or [1] * len(tokens), [0.0] * len(tokens), "", True)


def test_the_advantage_is_the_reward_above_the_groups_mean() -> None:
    four = [completion([END])] * 4
    assert Group([1], four, [1.0, 0.0, 0.0, 1.0]).advantages().tolist() == [0.5, -0.5, -0.5, 0.5]
    assert Group([1], four, [0.0, 0.0, 0.0, 3.0]).advantages().tolist() == [-0.75, -0.75, -0.75, 2.25]
    assert Group([1], four, [0.1] * 4).advantages().tolist() == [0.0] * 4


def test_only_what_the_model_chose_is_trained_and_that_includes_the_end_of_the_turn() -> None:
    answer = completion([CALL, 49, CALLED, 90, 91, 92, END], [1, 1, 1, 0, 0, 0, 1])
    group = Group([7, 8, 9], [answer, completion([66, END])], [1.0, 0.0])
    (batch,) = micro_batches([group], device_batch_size=3, width=11, sampled=6.0)
    assert batch.inputs.tolist() == [[7, 8, 9, CALL, 49, CALLED, 90, 91, 92, 0, 0], [7, 8, 9, 66] + [0] * 7, [0] * 11]
    assert batch.targets.tolist() == [
        [-1, -1, CALL, 49, CALLED, -1, -1, -1, END, -1, -1],
        [-1, -1, 66, END] + [-1] * 7,
        [-1] * 11,
    ]
    assert batch.weights.tolist() == [[0.5] * 11, [-0.5] * 11, [0.0] * 11]
    assert batch.normalizer == 6.0


def test_groups_that_fare_alike_are_not_trained_and_shapes_stay() -> None:
    answers = [completion([66, END])] * 3
    flat, useful = Group([1], answers, [1.0] * 3), Group([1], answers, [1.0, 0.0, 0.0])
    shapes = [[tuple(b.inputs.shape) for b in micro_batches(groups, 2, 8, 9.0)] for groups in ([flat], [flat, useful])]
    assert shapes == [[(2, 8)], [(2, 8), (2, 8)]]
    (empty,) = micro_batches([flat], 2, 8, 9.0)
    model = two_armed_model()
    loss = model.loss(empty.inputs, empty.targets, empty.weights)
    loss.backward()
    assert loss == 0
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


def test_the_gradient_is_that_of_the_policy_written_out() -> None:
    model = two_armed_model()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2))
    source = rollouts(model, device_batch_size=3, samples_per_prompt=6)
    batches, groups = source.batch(1), source.groups(1)
    assert len(batches) > 1
    for batch in batches:
        (model.loss(batch.inputs, batch.targets, batch.weights) / batch.normalizer).backward()
    found = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    objective, spoken = torch.zeros(()), 0
    for group in groups:
        mean = sum(group.rewards) / len(group.rewards)
        for answer, reward in zip(group.answers, group.rewards, strict=True):
            ids = torch.tensor([[*group.prompt, *answer.tokens]])
            log_probs = model(ids)[0].log_softmax(-1)
            for at, chosen in enumerate(answer.mask):
                token = len(group.prompt) + at
                objective = objective + chosen * (reward - mean) * log_probs[token - 1, ids[0, token]]
                spoken += chosen
    (-objective / spoken).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-4, atol=1e-6)


def test_the_last_token_that_fits_is_trained() -> None:
    source = rollouts(two_armed_model(sequence_len=8), max_new_tokens=100)
    assert source.width == 8
    for group in source.groups(0):
        assert all(len(group.prompt) + len(answer.tokens) <= 8 for answer in group.answers)
    source.batch(0)


def test_a_step_depends_on_its_number_and_the_seed_alone() -> None:
    source, again = rollouts(two_armed_model()), rollouts(two_armed_model())
    second = [g.answers for g in source.groups(2)]
    assert second != [g.answers for g in source.groups(3)]
    assert second == [g.answers for g in again.groups(2)]
    assert second != [g.answers for g in rollouts(two_armed_model(), seed=2).groups(2)]


def test_ranks_share_a_steps_problems(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = rollouts(two_armed_model(), prompts_per_step=5).groups(1)
    shared = [rollouts(two_armed_model(), World(rank, 2), prompts_per_step=5).groups(1) for rank in range(2)]
    assert [len(groups) for groups in shared] == [3, 2]
    for number, group in enumerate(whole):
        twin = shared[number % 2][number // 2]
        assert [a.tokens for a in twin.answers] == [a.tokens for a in group.answers]
    monkeypatch.setattr(engine, "MAX_ROWS", 8)  # two prompts at a time
    assert [g.rewards for g in rollouts(two_armed_model(), prompts_per_step=5).groups(1)] == [g.rewards for g in whole]


def test_a_rank_without_problems_still_takes_part() -> None:
    source = rollouts(two_armed_model(), World(1, 2), prompts_per_step=1)
    assert source.groups(0) == []


def test_every_epoch_asks_every_problem_once() -> None:
    problems = Problems([Arms("train")], TOKENIZER)
    order = problems.order(3, 25)
    assert len(order) == 25
    assert sorted(order[:10]) == sorted(order[10:20]) == list(range(10))
    assert order[:10].tolist() != order[10:20].tolist()


def test_the_numbers_are_those_of_the_answers() -> None:
    source = rollouts(two_armed_model(), prompts_per_step=4)
    source.batch(0)
    groups, numbers = source.groups(0), source.numbers()
    answers = [answer for group in groups for answer in group.answers]
    assert numbers["reward"] == pytest.approx(np.mean([group.rewards for group in groups]))
    assert numbers["solved_by_any"] == np.mean([any(group.rewards) for group in groups])
    assert numbers["flat_groups"] == np.mean([len(set(group.rewards)) == 1 for group in groups])
    assert numbers["truncated"] == np.mean([not answer.finished for answer in answers])
    assert numbers["answer_tokens"] == np.mean([len(answer.tokens) for answer in answers])
    assert numbers["tool_calls"] == 0


def test_it_learns_the_arm_that_pays(tmp_path: Path) -> None:
    model, where = two_armed_model(), place(tmp_path, two_armed_model())
    numbers = rl(stage(num_steps=25, prompts_per_step=4, samples_per_prompt=8, device_batch_size=32), where)
    prompt = torch.tensor([render_prompt(TOKENIZER, [{"role": "user", "content": "?"}])])
    before = model(prompt)[0, -1].softmax(-1)[ord("b")].item()
    model.load_state_dict(load_file(where.out / "model.safetensors"))
    after = model(prompt)[0, -1].softmax(-1)[ord("b")].item()
    assert before < 0.5
    assert after > 0.9
    rows = [row for row in read(where.metrics.path) if "reward" in row]
    assert len(rows) == 25
    assert rows[-1]["reward"] > 0.8 > rows[0]["reward"]
    assert numbers["held_out_pass_rate"] == 1.0


def test_the_artifact_is_a_model_that_says_where_it_comes_from(tmp_path: Path) -> None:
    where = place(tmp_path, two_armed_model())
    rl(stage(num_steps=0), where)  # one epoch: ten problems, three a step
    assert sorted(path.name for path in where.out.iterdir()) == sorted(Rl.makes)
    facts = json.loads((where.out / "model.json").read_text(encoding="utf-8"))
    assert facts["stage"] == "rl"
    assert facts["step"] == 3
    assert facts["optimizer"] == asdict(OptimSettings())


def test_killed_after_a_checkpoint_it_ends_with_the_same_bits(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    whole = place(tmp_path / "whole", two_armed_model())
    rl(stage(checkpoint_every=2), whole)
    shutil.copytree(tmp_path / "whole", tmp_path / "killed")
    killed = StageContext(
        whole.inputs, {}, tmp_path / "killed/out", tmp_path / "killed/work", Metrics(tmp_path / "killed/metrics.jsonl")
    )
    shutil.rmtree(killed.work / "checkpoints/step-000004")
    (killed.out / "model.safetensors").unlink()
    rl(stage(checkpoint_every=2), killed)
    assert (killed.out / "model.safetensors").read_bytes() == (whole.out / "model.safetensors").read_bytes()
    rewards = [[row["reward"] for row in read(p.metrics.path) if "reward" in row] for p in (whole, killed)]
    assert rewards[0] == rewards[1]
    assert len(rewards[0]) == 4
    assert not torch.equal(
        load_file(whole.out / "model.safetensors")["lm_head.weight"], two_armed_model().lm_head.weight
    )


def test_two_ranks_train_the_same_model_as_one(tmp_path: Path) -> None:
    models = {}
    for ranks in (1, 2):
        folder = tmp_path / str(ranks)
        folder.mkdir()
        place(folder, two_armed_model())
        command = [sys.executable, __file__, str(folder)]
        if ranks == 2:
            command = [
                sys.executable,
                "-m",
                "torch.distributed.run",
                "--standalone",
                "--nproc-per-node=2",
                *command[1:],
            ]
        root = ROOT
        subprocess.run(
            command, check=True, timeout=300, env=os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
        )
        models[ranks] = load_file(folder / "out/model.safetensors")
    for name, weight in models[1].items():
        torch.testing.assert_close(models[2][name], weight, rtol=1e-4, atol=1e-5)
    assert not torch.equal(models[1]["lm_head.weight"], two_armed_model().lm_head.weight)


def train_in(folder: Path) -> None:
    """The same training in a process of its own, or in two; only the first writes metrics."""
    metrics = Metrics(folder / "metrics.jsonl" if os.environ.get("RANK", "0") == "0" else None)
    where = StageContext({"sft": folder / "sft", "task_data": folder}, {}, folder / "out", folder / "work", metrics)
    tasks.TASKS["arms"] = lambda split, data: Arms(split)
    rl(stage(num_steps=3), where)


class Uneven(Arms):
    """Every third problem is as long as the context or longer."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        return dialogue("?" * (1 if index % 3 else 40), "b")


def test_a_held_out_problem_that_does_not_fit_counts_as_not_solved() -> None:
    model = two_armed_model()
    with torch.no_grad():
        model.lm_head.weight[ord("b"), START] = 5.0  # always right
    assert pass_rate(model, Problems([Arms("validation")], TOKENIZER), 64, World()) == 1.0
    assert pass_rate(model, Problems([Uneven("validation")], TOKENIZER), 64, World()) == 0.6
    assert pass_rate(model, Problems([Uneven("validation")], TOKENIZER), 2, World()) == 0.5  # of the first two
    by_rank = [World(rank, 3) for rank in range(3)]  # without a process group each says what it has: 6 of 10 in all
    shares = [pass_rate(model, Problems([Uneven("validation")], TOKENIZER), 64, world) for world in by_rank]
    assert shares == [0.0, 1.0, 1.0]
    nothing_fits = World(rank=0, size=20)  # this rank has problem 0 alone
    assert pass_rate(model, Problems([Uneven("validation")], TOKENIZER), 64, nothing_fits) == 0.0


class Choice(Arms):
    kind = "multiple_choice"


class Empty(Arms):
    size = 0


class Broken(Arms):
    def reward(self, index: int, completion: str) -> float:
        return float("nan")


def test_tasks_that_cannot_be_sampled_are_refused() -> None:
    with pytest.raises(ValueError, match="is multiple_choice: choose a task whose answers are generated"):
        Problems([Choice("train")], TOKENIZER)
    with pytest.raises(ValueError, match="has no problems in its train split"):
        Problems([Empty("train")], TOKENIZER)
    with pytest.raises(ValueError, match="rewards must be finite"):
        rollouts(two_armed_model(), task=Broken("train")).batch(0)
    with pytest.raises(ValueError, match="has 7 tokens, the context 7"):
        rollouts(two_armed_model(sequence_len=7))


def test_the_engine_samples_the_weights_of_the_step() -> None:
    model = two_armed_model()
    source = rollouts(model)
    assert len({answer.tokens[0] for group in source.groups(0) for answer in group.answers}) > 1
    with torch.no_grad():
        model.lm_head.weight[ord("b"), START] = 5.0
    assert {answer.tokens[0] for group in source.groups(0) for answer in group.answers} == {ord("b")}


if __name__ == "__main__":
    train_in(Path(sys.argv[1]))
