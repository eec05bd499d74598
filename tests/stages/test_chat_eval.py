"""Verdicts on a chat model: independent of the batch, held-out problems only, code judged in the sandbox or not at all."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from nanochat.artifacts.metrics import FILE, Metrics, read
from nanochat.data.tokenizer import Tokenizer
from nanochat.evaluation import scores
from nanochat.evaluation.chat_questions import Decoding, ask, last_logits
from nanochat.evaluation.scores import TaskScore
from nanochat.inference.engine import Engine
from nanochat.model.config import GPTConfig
from nanochat.model.gpt import GPT
from nanochat.model.weights import save_model
from nanochat.pipeline import ChatEvalRl, ChatEvalSft
from nanochat.stages.chat_eval import run as chat_eval
from nanochat.tasks import make
from nanochat.tasks.arithmetic import Arithmetic
from nanochat.tools import sandbox
from nanochat.training.distributed import World
from nanochat.workflow.launch import FOREIGN
from nanochat.workflow.stage import StageContext
from tests.paths import ROOT

BYTES = Tokenizer(tuple(bytes([byte]) for byte in range(256)))
STAGE = ChatEvalSft(
    tasks="arithmetic, mmlu", max_problems=9, max_new_tokens=6, device="cpu", dtype="float32", device_batch_size=4
)
GREEDY: dict[str, float] = {"temperature": 0.0, "num_samples": 1}
SAMPLED: dict[str, float] = {"temperature": 1.0, "num_samples": 2, "top_k": 20}


def random_model(sequence_len: int) -> GPT:
    model = GPT(GPTConfig(sequence_len, BYTES.vocab_size, 2, 2, 1, 32))
    model.init_weights(seed=3)
    with torch.no_grad():
        model.lm_head.weight.copy_(torch.randn(model.lm_head.weight.shape, generator=torch.Generator().manual_seed(1)))
    return model


def place_in(folder: Path, sequence_len: int = 256, stage: str = "sft") -> StageContext:
    artifact, data, out = folder / stage, folder / "data", folder / "out"
    for directory in (artifact, data, out):
        directory.mkdir()
    save_model(random_model(sequence_len), artifact, stage=stage)
    BYTES.save(artifact / "tokenizer.json")
    np.save(artifact / "token_bytes.npy", BYTES.token_bytes())
    rows = [
        {"question": f"Which is {n}?", "choices": ["0", "1", "2", str(n)][: 3 + n % 2], "answer": n % 3}
        for n in range(12)
    ]
    (data / "mmlu_test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    row = {"task_id": "a/0", "prompt": "def one():\n", "entry_point": "one", "canonical_solution": "    return 1\n"}
    (data / "humaneval_test.jsonl").write_text(
        json.dumps({**row, "test": "def check(f):\n    assert f() == 1\n"}) + "\n", encoding="utf-8"
    )
    return StageContext({stage: artifact, "task_data": data}, {}, out, folder / "work", Metrics(folder / FILE))


def test_scores_samples_and_progress_are_written(tmp_path):
    place = place_in(tmp_path)
    numbers = chat_eval(STAGE, place)
    assert set(numbers) == {"arithmetic", "mmlu", "chatcore", "arithmetic_tool_call_share"}
    score = scores.read(place.out)
    assert score["tasks"]["mmlu"] == {
        "n": 9,
        "baseline": 0.25,
        "correct": round(9 * numbers["mmlu"]),
        "accuracy": numbers["mmlu"],
        **dict(zip(("low", "high"), TaskScore(round(9 * numbers["mmlu"]), 9).interval, strict=True)),
    }
    results = [TaskScore(task["correct"], task["n"], task["baseline"]) for task in score["tasks"].values()]
    assert score["errors"] == {"chatcore": scores.standard_error(results)}
    assert numbers["chatcore"] == pytest.approx((numbers["arithmetic"] + (numbers["mmlu"] - 0.25) / 0.75) / 2)
    samples = (place.out / "samples.md").read_text(encoding="utf-8")
    assert "## arithmetic: 0 of 9 right, 9 not finished" in samples
    assert "Which is" in samples
    assert list(read(place.metrics.path))[-1]["done"] == 18


@pytest.mark.parametrize("decoding", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_answers_do_not_depend_on_the_batch(tmp_path, decoding):
    place = place_in(tmp_path)
    said = []
    for device_batch_size in (1, 4, 64):
        chat_eval(STAGE.replaced(device_batch_size=device_batch_size, **decoding), place)
        said.append({path.name: path.read_bytes() for path in place.out.iterdir()})
    assert said[0] == said[1] == said[2]


@pytest.mark.parametrize("decoding", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_the_shares_of_the_ranks_are_the_answers_of_one(tmp_path, decoding):
    place, engine = place_in(tmp_path), Engine(random_model(256), BYTES)
    how = Decoding(max_new_tokens=6, **decoding)
    tasks = {"arithmetic": make("arithmetic", "test"), "mmlu": make("mmlu", "test", place["task_data"])}
    sizes = dict.fromkeys(tasks, 9)
    alone = ask(engine, tasks, sizes, batch_size=64, decoding=how)
    assert [{len(given) for given in alone[name]} for name in tasks] == [{how.num_samples}, {1}]
    for size in (2, 3, 10):
        for batch_size in (2, 5):
            shares = [
                ask(engine, tasks, sizes, batch_size=batch_size, decoding=how, world=World(rank, size))
                for rank in range(size)
            ]
            for name in tasks:
                assert [shares[i % size][name][i // size] for i in range(9)] == alone[name]
                assert sum(len(share[name]) for share in shares) == 9


def test_two_ranks_write_what_one_does(tmp_path):
    stage, place = STAGE.replaced(**SAMPLED), place_in(tmp_path)
    expected = chat_eval(stage, place)
    work = tmp_path / "ranks"
    (work / "out").mkdir(parents=True)
    spec = {"stage": "chat_eval_sft", "knobs": stage.values("identity") | stage.values("execution"), "part": None}
    spec |= {"inputs": {name: str(path) for name, path in place.inputs.items()}, "work": str(work), "gather": False}
    (work / "spec.json").write_text(json.dumps({**spec, "parts": {}, "addresses": {}}), encoding="utf-8")
    command = [sys.executable, "-m", "nanochat", "ranks", "2", str(work / "spec.json"), "--logs", str(work / "logs")]
    environment = {name: value for name, value in os.environ.items() if name not in FOREIGN}
    subprocess.run(command, cwd=ROOT, env=environment | {"OMP_NUM_THREADS": "1"}, check=True, timeout=120)
    assert json.loads((work / "result.json").read_text(encoding="utf-8"))["numbers"] == expected
    made, alone = ({path.name: path.read_bytes() for path in folder.iterdir()} for folder in (work / "out", place.out))
    assert made == alone
    told = [row["done"] for row in read(work / FILE)]
    assert told == [8, 16, 18]  # of both ranks, after every four problems of one


def test_of_several_answers_the_accuracy_is_the_mean_and_there_is_pass_at_k(tmp_path, monkeypatch):
    """The truth is what the answers say: half of the first problem's are right, all of the second's, none of the third's."""
    right = {0: 2, 1: 4}
    asked = Counter()

    def verdict(self: Arithmetic, index: int, completion: str) -> bool:
        asked[index] += 1
        return asked[index] <= right.get(index, 0)

    monkeypatch.setattr(Arithmetic, "correct", verdict)
    place = place_in(tmp_path)
    numbers = chat_eval(STAGE.replaced(tasks="arithmetic", max_problems=3, num_samples=4, temperature=1.0), place)
    assert numbers["arithmetic"] == 0.5
    assert numbers["arithmetic_pass_at_2"] == pytest.approx((1 - 1 / 6 + 1 + 0) / 3)
    assert numbers["arithmetic_pass_at_4"] == pytest.approx(2 / 3)
    assert scores.read(place.out)["tasks"]["arithmetic"]["samples"] == 4
    assert "## arithmetic: 6 of 12 right" in (place.out / "samples.md").read_text(encoding="utf-8")


def test_the_likeliest_tokens_alone_are_drawn_among(tmp_path):
    place = place_in(tmp_path)
    chat_eval(STAGE, place)
    greedy = (place.out / "samples.md").read_bytes()
    chat_eval(STAGE.replaced(temperature=1.0, top_k=1), place)
    assert (place.out / "samples.md").read_bytes() == greedy
    chat_eval(STAGE.replaced(temperature=1.0), place)
    assert (place.out / "samples.md").read_bytes() != greedy


def test_what_temperature_0_makes_meaningless_is_refused():
    with pytest.raises(
        ValueError, match=r"chat_eval_sft\.num_samples = 4: .* set chat_eval_sft\.temperature above 0, or"
    ):
        STAGE.replaced(num_samples=4)
    with pytest.raises(ValueError, match=r"chat_eval_sft\.top_k = 50: .* or top_k = 0"):
        STAGE.replaced(top_k=50)


def test_a_task_may_have_a_limit_of_its_own(tmp_path):
    place = place_in(tmp_path)
    chat_eval(STAGE.replaced(tasks="arithmetic:2, mmlu"), place)
    assert {name: task["n"] for name, task in scores.read(place.out)["tasks"].items()} == {"arithmetic": 2, "mmlu": 9}
    chat_eval(STAGE.replaced(tasks="mmlu:500, arithmetic:2", max_problems=500), place)
    assert {name: task["n"] for name, task in scores.read(place.out)["tasks"].items()} == {"mmlu": 12, "arithmetic": 2}
    for wrong in ("mmlu:", "mmlu:0", "mmlu:some", "mmlu:-1"):
        with pytest.raises(ValueError, match=rf"chat_eval_sft\.tasks: '{wrong}': .* e\.g\. mmlu:256"):
            STAGE.replaced(tasks=wrong)
    with pytest.raises(ValueError, match=r"chat_eval_sft\.tasks: task 'mmlu' is there twice: name it once"):
        STAGE.replaced(tasks="mmlu, mmlu:4")


def test_multiple_choice_takes_the_likeliest_offered_letter(tmp_path):
    place = place_in(tmp_path)
    chat_eval(STAGE.replaced(tasks="mmlu"), place)
    model = random_model(256)
    from nanochat.data.chat_template import render_prompt
    from nanochat.tasks import make

    task, right = make("mmlu", "test", place["task_data"]), 0
    with torch.no_grad():
        for i in range(9):
            logits = model(torch.tensor([render_prompt(BYTES, task[i]["messages"][:-1])]))[0, -1]
            letter = max(task.choices(i), key=lambda letter: logits[ord(letter)].item())
            right += letter == task[i]["messages"][-1]["content"]
    assert scores.read(place.out)["tasks"]["mmlu"]["correct"] == right


def test_logits_after_prompts_of_different_lengths_equal_those_one_by_one():
    model, prompts = random_model(64), [[1, 2, 3], [4], [5, 6, 7, 8, 9]]
    together = last_logits(model, prompts)
    for row, prompt in zip(together, prompts, strict=True):
        torch.testing.assert_close(row, last_logits(model, [prompt])[0])


def test_greedy_answers_are_those_of_the_plain_loop(tmp_path):
    place = place_in(tmp_path)
    chat_eval(STAGE.replaced(tasks="arithmetic", max_problems=3), place)
    model, task = random_model(256), Arithmetic("test")
    from nanochat.data.chat_template import render_prompt

    engine = Engine(model, BYTES)
    for index in range(3):
        prompt = render_prompt(BYTES, task[index]["messages"][:-1])
        (alone,) = engine.generate([prompt], 6)
        assert " ".join(alone.text.replace("`", "'").split()) in (place.out / "samples.md").read_text(encoding="utf-8")


def test_equal_questions_have_equal_digests_whatever_the_model(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one, other = place_in(tmp_path / "a"), place_in(tmp_path / "b", sequence_len=128, stage="rl")
    chat_eval(STAGE, one)
    rl = ChatEvalRl(**{**STAGE.values("identity"), **STAGE.values("execution")})
    chat_eval(rl, other)
    assert scores.read(one.out)["digest"] == scores.read(other.out)["digest"]
    seen = {scores.read(one.out)["digest"]}
    assert set(scores.read(one.out)["asked"]["decoding"]) == {
        "temperature",
        "max_new_tokens",
    }  # as before there were more
    warm = {"temperature": 0.5}
    changes = [{"max_new_tokens": 7}, {"max_problems": 8}, warm, {"tasks": "arithmetic"}]
    changes += [{**warm, "num_samples": 2}, {**warm, "top_k": 3}]
    for number, knobs in enumerate(changes, 2):
        chat_eval(rl.replaced(**knobs), other)
        seen.add(scores.read(other.out)["digest"])
        assert len(seen) == number


def test_a_question_that_does_not_fit_is_wrong_and_said_so(tmp_path):
    place = place_in(tmp_path, sequence_len=32)
    numbers = chat_eval(STAGE.replaced(tasks="mmlu"), place)
    assert numbers["mmlu"] == 0
    assert "does not fit the context" in (place.out / "samples.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("tasks", ["", " , "])
def test_no_task_is_refused(tmp_path, tasks):
    with pytest.raises(ValueError, match=r"chat_eval_sft\.tasks = .*: name at least one task"):
        chat_eval(STAGE.replaced(tasks=tasks), place_in(tmp_path))


def test_an_unknown_task_or_one_without_data_is_refused(tmp_path):
    place = place_in(tmp_path)
    with pytest.raises(ValueError, match="unknown task 'arithmetics': did you mean 'arithmetic'"):
        chat_eval(STAGE.replaced(tasks="arithmetics"), place)
    with pytest.raises(ValueError, match=r"gsm8k_test\.jsonl is missing; add gsm8k to task_data\.tasks"):
        chat_eval(STAGE.replaced(tasks="gsm8k"), place)


def test_without_a_sandbox_code_is_reported_as_not_run(tmp_path, monkeypatch):
    place = place_in(tmp_path)
    monkeypatch.setenv("PATH", "")
    sandbox.unavailable.cache_clear()
    try:
        numbers = chat_eval(STAGE.replaced(tasks="mmlu, humaneval"), place)
        assert "humaneval" not in numbers
        score = scores.read(place.out)
        assert "bwrap" in score["not_run"]["humaneval"]
        assert "not run: bubblewrap" in (place.out / "samples.md").read_text(encoding="utf-8")
        with pytest.raises(ValueError, match=r"none can be asked here .*bwrap"):
            chat_eval(STAGE.replaced(tasks="humaneval"), place)
    finally:
        sandbox.unavailable.cache_clear()


@pytest.mark.skipif(sandbox.unavailable() is not None, reason=f"no sandbox: {sandbox.unavailable()}")
def test_with_a_sandbox_code_is_run(tmp_path):
    numbers = chat_eval(STAGE.replaced(tasks="humaneval"), place_in(tmp_path))
    assert numbers["humaneval"] == 0.0
