"""The options of reinforcement learning: distance to the start, bounded ratios, several updates, several tasks, looks.

Oracles: the loss written out token by token with plain torch and a second model, counts over all samples of a problem.
The plain policy gradient, its kill and its ranks are in test_rl.py, the formulas in tests/training/test_policy_loss.py.
"""

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from flows.plots import CURVES
from nanochat import tasks
from nanochat.artifacts.metrics import Metrics, read
from nanochat.inference.engine import Engine
from nanochat.model.gpt import GPT
from nanochat.pipeline import Rl
from nanochat.recipes import stages_of
from nanochat.stages.rl import Rollouts
from nanochat.stages.rl import run as rl
from nanochat.stages.rl_look import look
from nanochat.stages.rl_problems import Group, Problems, answers_to, turns
from nanochat.tasks.task import Split, Task, weighted_tasks
from nanochat.tools import sandbox
from nanochat.training.distributed import World
from nanochat.training.policy_loss import PolicyOptions, policy_terms
from nanochat.workflow.plan import plan
from nanochat.workflow.stage import StageContext
from tests.paths import ROOT
from tests.stages.test_rl import END, START, TOKENIZER, Arms, place, rollouts, stage, two_armed_model

OPTIONS: dict[str, Any] = {"kl_coef": 0.1, "clip": 0.2, "clip_high": 0.3, "updates_per_rollout": 2}


class Legs(Arms):
    """The other answer is right: what one task teaches the other forbids."""

    def __init__(self, split: Split) -> None:
        super().__init__(split)
        self.name = "legs"

    def correct(self, index: int, completion: str) -> bool:
        return completion == "a"


@pytest.fixture(autouse=True)
def _listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(tasks.TASKS, "arms", lambda split, data: Arms(split))
    monkeypatch.setitem(tasks.TASKS, "legs", lambda split, data: Legs(split))


def moved(model: GPT) -> GPT:
    """The model a few updates later."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2))
    return model


def written_out(model: GPT, start: GPT, groups: list[Group], options: PolicyOptions) -> torch.Tensor:
    """The loss answer by answer and token by token."""
    total, spoken = torch.zeros(()), 0
    for group in groups:
        mean = sum(group.rewards) / len(group.rewards)
        for answer, reward in zip(group.answers, group.rewards, strict=True):
            ids = torch.tensor([[*group.prompt, *answer.tokens]])
            now, then = (each(ids)[0].log_softmax(-1) for each in (model, start))
            for at, (chosen, sampled) in enumerate(zip(answer.mask, answer.log_probs, strict=True)):
                place = len(group.prompt) + at - 1, ids[0, len(group.prompt) + at]
                if chosen:
                    token = now[place], torch.tensor(reward - mean), torch.tensor(sampled), then[place].detach()
                    total, spoken = total + policy_terms(*token, options)[0], spoken + 1
    return total / spoken


@pytest.mark.parametrize("knobs", [{"kl_coef": 0.5}, {"clip": 0.1}, {"kl_coef": 0.5, "clip": 0.1, "clip_high": 0.3}])
def test_the_gradient_is_that_of_the_loss_written_out(knobs: dict[str, float]) -> None:
    start, model = two_armed_model(), two_armed_model()
    source = rollouts(model, device_batch_size=3, samples_per_prompt=6, **knobs)
    moved(model)
    batches, groups = source.batch(1), source.groups(1)
    moved(model)  # an update later the ratio is not 1
    assert any(group.flat for group in groups)  # whose tokens still have a distance
    assert source.loss is not None
    loss = sum(source.loss(*batch.to(torch.device("cpu"))) / batch.normalizer for batch in batches)
    loss.backward()
    found = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    expected = written_out(model, start, groups, PolicyOptions(**knobs))
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-6)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-3, atol=1e-6)


def test_flat_groups_cost_no_training_without_a_distance() -> None:
    model = two_armed_model()
    with torch.no_grad():
        model.lm_head.weight[ord("b"), START] = model.lm_head.weight[END, ord("b")] = 9.0  # always right
    (empty,) = rollouts(model, clip=0.2).batch(0)
    assert (empty.targets == -1).all()
    whole = rollouts(model, kl_coef=0.1, device_batch_size=12).batch(0)
    assert [(batch.targets >= 0).any(1).sum() for batch in whole] == [12]


def test_without_options_the_batch_is_what_it_was() -> None:
    source = rollouts(two_armed_model())
    assert source.loss is None
    assert source.reference_losses is None
    assert all(batch.more == () for batch in source.batch(0))


def test_the_distance_starts_at_nothing_and_is_of_the_weights_at_the_start(tmp_path: Path) -> None:
    where = place(tmp_path, two_armed_model())
    rl(stage(num_steps=8, kl_coef=0.01, clip=0.2), where)
    rows = [row for row in read(where.metrics.path) if "reward" in row]
    assert set(CURVES[CURVES.index("reward") :]) <= {name for row in read(where.metrics.path) for name in row}
    distances = [row["kl_to_start"] for row in rows]
    assert distances[0] == pytest.approx(0, abs=1e-6)
    assert distances[-1] > 1e-3
    assert all(row["clipped"] == 0 for row in rows)  # one update a rollout: the ratio is 1


def test_a_heavy_distance_keeps_the_policy_where_it_was(tmp_path: Path) -> None:
    ends = []
    for kl_coef in (0.0, 20.0):
        (tmp_path / str(kl_coef)).mkdir()
        where = place(tmp_path / str(kl_coef), two_armed_model())
        numbers = rl(stage(num_steps=15, prompts_per_step=4, samples_per_prompt=8, kl_coef=kl_coef), where)
        ends.append(numbers["held_out_pass_at_1"])
    assert ends[0] > 0.8
    assert ends[1] < 0.7


def test_more_updates_on_the_same_answers_are_bounded_and_learn_more(tmp_path: Path) -> None:
    rewards, clipped = [], []
    for updates in (1, 3):
        (tmp_path / str(updates)).mkdir()
        where = place(tmp_path / str(updates), two_armed_model())
        rl(stage(num_steps=12, prompts_per_step=4, samples_per_prompt=8, clip=0.2, updates_per_rollout=updates), where)
        rows = [row for row in read(where.metrics.path) if "reward" in row]
        rewards.append(np.mean([row["reward"] for row in rows]))
        clipped.append(max(row["clipped"] for row in rows))
    assert rewards[1] > rewards[0]
    assert clipped[1] > clipped[0] == 0


def killed_after(folder: Path, whole: StageContext, last: int) -> StageContext:
    """The same run as far as a checkpoint earlier."""
    shutil.copytree(whole.out.parent, folder)
    again = StageContext(whole.inputs, {}, folder / "out", folder / "work", Metrics(folder / "metrics.jsonl"))
    shutil.rmtree(again.work / f"checkpoints/step-{last:06d}")
    (again.out / "model.safetensors").unlink()
    return again


def test_with_all_options_it_ends_with_the_same_bits_after_a_kill(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    whole, knobs = place(tmp_path / "whole", two_armed_model()), {**OPTIONS, "task": "arms, legs:0.5"}
    rl(stage(checkpoint_every=2, **knobs), whole)
    killed = killed_after(tmp_path / "killed", whole, 4)
    rl(stage(checkpoint_every=2, **knobs), killed)
    assert (killed.out / "model.safetensors").read_bytes() == (whole.out / "model.safetensors").read_bytes()
    logged = [[row for row in read(each.metrics.path) if "reward" in row] for each in (whole, killed)]
    measured = [[{name: value for name, value in row.items() if not timed(name)} for row in rows] for rows in logged]
    assert measured[0] == measured[1]
    assert len(measured[0]) == 4
    assert measured[0][-1]["kl_to_start"] > 0  # of the start of the run, not of where it went on


def timed(name: str) -> bool:
    return name in ("time", "tok_per_s", "eta_seconds", "checkpoint_stall") or name.startswith("rollout_")


def test_two_ranks_take_the_same_steps_as_one(tmp_path: Path) -> None:
    models, rows = {}, {}
    for ranks in (1, 2):
        folder = tmp_path / str(ranks)
        folder.mkdir()
        place(folder, two_armed_model())
        launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"] if ranks > 1 else []
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        subprocess.run([sys.executable, *launch, __file__, str(folder)], check=True, timeout=300, env=environment)
        models[ranks] = load_file(folder / "out/model.safetensors")
        rows[ranks] = [row for row in read(folder / "metrics.jsonl") if "reward" in row or "held_out_pass_rate" in row]
    for name, weight in models[
        1
    ].items():  # AdamW divides a gradient that is nearly nothing by itself: a few may differ
        alike = torch.isclose(models[2][name], weight, rtol=1e-3, atol=1e-4)
        assert alike.float().mean() > 0.998, name
    assert len(rows[1]) == len(rows[2]) == 5
    for one, two in zip(rows[1], rows[2], strict=True):
        assert {name for name in one if not timed(name)} == {name for name in two if not timed(name)}
        for name in filter(lambda name: not timed(name), one):
            assert two[name] == pytest.approx(one[name], rel=1e-3, abs=1e-5), name


def train_in(folder: Path) -> None:
    """The same training in a process of its own, or in two; only the first writes metrics."""
    metrics = Metrics(folder / "metrics.jsonl" if os.environ.get("RANK", "0") == "0" else None)
    where = StageContext({"sft": folder / "sft", "task_data": folder}, {}, folder / "out", folder / "work", metrics)
    for name, task in (("arms", Arms), ("legs", Legs)):
        tasks.TASKS[name] = lambda split, data, task=task: task(split)  # type: ignore[misc,assignment]
    rl(stage(num_steps=3, task="arms, legs:2", eval_problems=3, **OPTIONS), where)


def test_the_numbers_are_those_of_the_answers() -> None:
    source = mixed({"arms": 1.0, "legs": 1.0}, prompts_per_step=6)
    source.batch(0)
    groups, numbers = source.groups(0), source.numbers()
    answers = [answer for group in groups for answer in group.answers]
    rewards = [reward for group in groups for reward in group.rewards]
    chosen = [p for answer in answers for p, mask in zip(answer.log_probs, answer.mask, strict=True) if mask]
    assert numbers["reward_std"] == pytest.approx(np.std(rewards))
    assert numbers["answer_tokens_max"] == max(len(answer.tokens) for answer in answers)
    assert numbers["entropy_estimate"] == pytest.approx(-np.mean(chosen))
    assert numbers["flat_right"] == np.mean([all(group.rewards) for group in groups])
    assert numbers["flat_wrong"] == np.mean([not any(group.rewards) for group in groups])
    assert numbers["flat_right"] + numbers["flat_wrong"] == numbers["flat_groups"] > 0
    assert numbers["rollout_tok_per_s"] > 0
    for name in ("arms", "legs"):
        own = [group.rewards for group in groups if group.task == name]
        assert numbers[f"reward_{name}"] == pytest.approx(np.mean(own))


def test_the_entropy_is_estimated_without_bias() -> None:
    """Over many samples of a one-token answer it is the entropy of the distribution that they are drawn from."""
    model = two_armed_model()
    source = rollouts(model, samples_per_prompt=400, max_new_tokens=1, prompts_per_step=1)
    source.batch(0)
    prompt = torch.tensor([source.problems.prompt(int(source.order[0]))])
    p = model(prompt)[0, -1].softmax(-1)
    assert source.numbers()["entropy_estimate"] == pytest.approx(-(p * p.log()).sum().item(), rel=0.1)


def mixed(weights: dict[str, float], **knobs: Any) -> Rollouts:
    chosen = stage(**knobs)
    total = sum(weights.values())
    made = [tasks.make(name, "train") for name in weights]
    problems = Problems(made, TOKENIZER, [weight / total for weight in weights.values()])
    return Rollouts(chosen, two_armed_model(), TOKENIZER, problems, chosen.num_steps, World())


@given(st.lists(st.floats(0.05, 1.0), min_size=1, max_size=4), st.integers(0, 60))
def test_at_every_position_each_task_has_had_its_share(weights: list[float], count: int) -> None:
    shares = [weight / sum(weights) for weight in weights]
    found = turns(shares, count)
    for at in range(count + 1):
        had = Counter(found[:at].tolist())
        assert all(abs(had[number] - share * at) < len(shares) for number, share in enumerate(shares))


def test_every_epoch_of_every_task_asks_each_of_its_problems_once() -> None:
    source = mixed({"arms": 2.0, "legs": 1.0}, prompts_per_step=3, num_steps=10)
    asked = [source.problems.place(int(problem)) for problem in source.order]
    arms, legs = ([index for which, index in asked if which == number] for number in (0, 1))
    assert (len(arms), len(legs)) == (20, 10)
    assert sorted(arms[:10]) == sorted(arms[10:]) == sorted(legs) == list(range(10))
    assert arms[:10] != legs
    alone = Problems([Arms("train")], TOKENIZER).order(1, 20)
    assert arms == alone.tolist()  # a task is asked as if it were alone


def test_each_task_judges_its_own_problems() -> None:
    for group in mixed({"arms": 1.0, "legs": 1.0}, prompts_per_step=4).groups(0):
        right = {"arms": "b", "legs": "a"}[group.task]
        assert group.rewards == [float(answer.text == right) for answer in group.answers]


def test_pass_at_k_is_the_share_of_draws_with_a_right_answer() -> None:
    model, problems = two_armed_model(), Problems([Arms("validation"), Legs("validation")], TOKENIZER)
    asked = stage(eval_problems=7, eval_samples=6)
    numbers = look(model, TOKENIZER, problems, asked, World())
    chosen = problems.first(7)
    assert len(chosen) == 14
    prompts = {problem: problems.prompt(problem) for problem in chosen}
    drawn = answers_to(Engine(model, TOKENIZER), prompts, asked.max_new_tokens, 1.0, chosen, 6)
    rights = [[reward > 0 for reward in problems.rewards([problem] * 6, drawn[problem])] for problem in chosen]
    for k in (1, 2, 4, 6):
        expected = np.mean([[any(some) for some in combinations(right, k)] for right in rights])
        assert numbers[f"held_out_pass_at_{k}"] == pytest.approx(expected)
    assert not {f"held_out_pass_at_{k}" for k in (3, 5, 8)} & set(numbers)
    both = [numbers[f"held_out_pass_rate_{name}"] for name in ("arms", "legs")]
    assert numbers["held_out_pass_rate"] == pytest.approx(np.mean(both))


def test_looks_are_at_validation_problems_as_often_as_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Split] = []

    def arms(split: Split, data: Path) -> Task:
        made.append(split)
        return Arms(split)

    monkeypatch.setitem(tasks.TASKS, "arms", arms)
    where = place(tmp_path, two_armed_model())
    rl(stage(num_steps=4, eval_every=2, eval_samples=2), where)
    rows = [row for row in read(where.metrics.path) if "held_out_pass_at_2" in row]
    assert [row["step"] for row in rows] == [0, 2, 4]
    assert made == ["train", "validation"]


@pytest.mark.parametrize(
    ("knobs", "said"),
    [
        ({"clip_high": 0.3}, r"rl.clip_high = 0.3: bounds nothing without rl.clip: set that too"),
        ({"updates_per_rollout": 2}, r"rl.updates_per_rollout = 2: .* set rl.clip too, e.g. 0.2"),
        (
            {"kl_coef": 0.1, "temperature": 0.7},
            r"rl.kl_coef = 0.1: .* set rl.temperature=1 \(it is 0.7\), or kl_coef=0",
        ),
        ({"clip": 0.1, "temperature": 0.7}, r"rl.clip = 0.1: .* set rl.temperature=1 \(it is 0.7\), or clip=0"),
        ({"task": ""}, r"rl.task = '': name at least one task, e.g. arithmetic, spelling:0.5"),
        ({"task": "arms:0"}, "rl.task: 'arms:0': after the colon stands a weight above 0, e.g. arms:0.5"),
        ({"task": "arms:much"}, "rl.task: 'arms:much': after the colon stands a weight"),
        ({"task": "arms:nan"}, "rl.task: 'arms:nan': after the colon stands a weight"),
        ({"task": "arms, arms:2"}, "rl.task: task 'arms' is there twice: name it once"),
    ],
)
def test_options_that_do_not_go_together_are_refused(knobs: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        stage(**knobs)


def test_weights_are_shares() -> None:
    assert weighted_tasks("arithmetic, spelling:0.5 , counting:.5", "rl.task") == {
        "arithmetic": 0.5,
        "spelling": 0.25,
        "counting": 0.25,
    }


def test_programs_are_not_learned_without_a_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    class Programs(Arms):
        runs_code = True

    monkeypatch.setattr(sandbox, "unavailable", lambda: "it is raining")
    with pytest.raises(ValueError, match="there is no sandbox to run them in: it is raining; install bubblewrap"):
        Problems([Programs("train")], TOKENIZER)
    monkeypatch.setattr(sandbox, "unavailable", lambda: None)
    source = rollouts(two_armed_model(), task=Programs("train"))  # judged in threads, in order
    assert [group.rewards for group in source.groups(1)] == [g.rewards for g in rollouts(two_armed_model()).groups(1)]


def test_an_option_that_is_off_is_in_no_address() -> None:
    micro = {each.name: each for each in stages_of("micro")}
    changed = {**micro, "rl": micro["rl"].replaced(kl_coef=0.1)}
    plans = [{step.name: step for step in plan(each.values())} for each in (micro, changed)]
    assert not {"kl_coef", "clip", "clip_high", "updates_per_rollout"} & set(plans[0]["rl"].preimage["knobs"])
    assert plans[1]["rl"].preimage["knobs"] == plans[0]["rl"].preimage["knobs"] | {"kl_coef": 0.1}
    assert plans[1]["rl"].address != plans[0]["rl"].address
    assert plans[1]["sft"].address == plans[0]["sft"].address
    assert json.dumps(Rl().values("identity"))  # where all of them stand


if __name__ == "__main__":
    train_in(Path(sys.argv[1]))
