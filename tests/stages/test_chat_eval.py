"""Verdicts on a chat model: independent of the batch, held-out problems only, code judged in the sandbox or not at all."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from nanochat.artifacts.metrics import FILE, Metrics, read
from nanochat.data.tokenizer import Tokenizer
from nanochat.evaluation import scores
from nanochat.evaluation.chat_questions import last_logits
from nanochat.inference.engine import Engine
from nanochat.model.config import GPTConfig
from nanochat.model.gpt import GPT
from nanochat.model.weights import save_model
from nanochat.pipeline import ChatEvalRl, ChatEvalSft
from nanochat.stages.chat_eval import run as chat_eval
from nanochat.tasks.arithmetic import Arithmetic
from nanochat.tools import sandbox
from nanochat.workflow.stage import StageContext

BYTES = Tokenizer(tuple(bytes([byte]) for byte in range(256)))
STAGE = ChatEvalSft(
    tasks="arithmetic, mmlu", max_problems=9, max_new_tokens=6, device="cpu", dtype="float32", device_batch_size=4
)


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
    }
    assert numbers["chatcore"] == pytest.approx((numbers["arithmetic"] + (numbers["mmlu"] - 0.25) / 0.75) / 2)
    samples = (place.out / "samples.md").read_text(encoding="utf-8")
    assert "## arithmetic: 0 of 9 right, 9 not finished" in samples
    assert "Which is" in samples
    assert list(read(place.metrics.path))[-1]["done"] == 18


def test_answers_do_not_depend_on_the_batch(tmp_path):
    place = place_in(tmp_path)
    for temperature in (0.0, 1.0):
        said = []
        for device_batch_size in (1, 4, 64):
            chat_eval(STAGE.replaced(device_batch_size=device_batch_size, temperature=temperature), place)
            said.append(((place.out / "samples.md").read_text(encoding="utf-8"), scores.read(place.out)))
        assert said[0] == said[1] == said[2]


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
    for knob in ({"max_new_tokens": 7}, {"max_problems": 8}, {"temperature": 0.5}, {"tasks": "arithmetic"}):
        chat_eval(rl.replaced(**knob), other)
        assert scores.read(one.out)["digest"] != scores.read(other.out)["digest"]


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
