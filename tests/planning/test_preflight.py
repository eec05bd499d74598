"""What only a later stage would refuse is refused before any work, with the knob, the value and the remedy."""

from pathlib import Path

import pytest

from nanochat import recipes
from nanochat.artifacts.store import FileStore
from nanochat.planning.preflight import preflight
from nanochat.tasks import TASKS
from nanochat.tasks.task import Task
from nanochat.workflow.plan import plan
from nanochat.workflow.runner import Observer, RunContext, run_plan
from tests import published_core, toy_corpus


@pytest.fixture
def looked_at(tmp_path):
    """Looks at the recipe `micro` with some settings; nothing of it is made."""
    toy, store = toy_corpus.make(tmp_path / "corpus"), FileStore(tmp_path / "store")

    def look(*settings: str) -> None:
        preflight(plan(recipes.apply(recipes.stages_of("micro"), [*toy, *settings])), store)

    return look


@pytest.fixture
def fetched(tmp_path):
    """Settings with which the data of real tasks is fetched from a folder."""
    for name in ("smoltalk", "gsm8k", "mmlu", "humaneval"):
        for split in ("train", "test"):
            (tmp_path / f"{name}_{split}.jsonl").touch()
    return "task_data.tasks=smoltalk, gsm8k, mmlu, humaneval", f"task_data.source={tmp_path}"


def test_what_can_be_carried_out_is_not_refused(looked_at, fetched):
    looked_at()
    looked_at(*fetched, "rl.task=gsm8k", "chat_eval_rl.tasks=arithmetic, mmlu, humaneval")
    looked_at(*fetched, "rl.task=gsm8k, arithmetic:0.5, spelling")
    looked_at("register.metric=arithmetic")
    looked_at("task_data.words=english")
    looked_at("task_data.words_source=nowhere")  # which nobody asks for
    looked_at("register.metric=arithmetic_tool_call_share")
    looked_at(
        "num_samples=4",
        "chat_eval_mid.temperature=1",
        "chat_eval_sft.temperature=1",
        "chat_eval_rl.temperature=1",
        "register.metric=arithmetic_pass_at_4",
    )
    looked_at(*fetched, "chat_eval_rl.tasks=arithmetic:3, humaneval:2")


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("rl.task=mmlu", "rl.task names 'mmlu', which is multiple_choice: .* take one of arithmetic, .*gsm8k"),
        ("rl.task=gsm8k, mmlu:0.5", "rl.task names 'mmlu', which is multiple_choice"),
        ("rl.task=arithmetic, mbpp", "rl.task names 'mbpp', whose data nobody fetches: add it to task_data.tasks"),
        ("rl.task=humaneval", "rl.task names 'humaneval', which has no train split: take one of arithmetic"),
        ("rl.task=smoltalk", "rl.task names 'smoltalk', which has no right answers: take one of"),
        ("rl.task=identity_conversations", "rl.task names 'identity_conversations', which has no right answers"),
        (
            "chat_eval_sft.tasks=smoltalk:5",
            "chat_eval_sft.tasks names 'smoltalk', which has no right answers: take one",
        ),
        ("chat_eval_sft.tasks=smoltalk", "chat_eval_sft.tasks names 'smoltalk', which has no right answers: take one"),
    ],
)
def test_a_task_that_cannot_do_what_is_asked_of_it_is_refused(looked_at, fetched, setting, said):
    with pytest.raises(ValueError, match=said):
        looked_at(*fetched, setting)


def test_a_task_that_is_only_trained_on_is_not_asked(looked_at, monkeypatch):
    class Lectures(Task):
        baseline = 0.0
        splits = ("train",)

        def correct(self, index: int, completion: str) -> bool:
            raise NotImplementedError

    monkeypatch.setitem(TASKS, "lectures", Lectures)
    for knob, split in (("chat_eval_mid.tasks", "test"), ("rl.task", "validation")):
        with pytest.raises(ValueError, match=f"{knob} names 'lectures', which has no {split} split"):
            looked_at(f"{knob}=lectures")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["midtrain.total_batch_size=100"], r"midtrain\.total_batch_size = 100: .*= 64 \* 1 = 64; 128 is"),
        (["sft.total_batch_size=192", "sft.num_ranks=2"], r"sft\.total_batch_size = 192: .*= 64 \* 2 = 128; "),
        (["sft.total_batch_size=0", "sft.num_ranks=4"], r"sft\.total_batch_size = 128: .*; 256 is"),  # midtraining's
    ],
)
def test_a_batch_that_is_no_whole_rows_on_every_rank_is_refused(looked_at, settings, said):
    with pytest.raises(ValueError, match=said):
        looked_at(*settings)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["task_data.tasks=gsm8"], "task_data.tasks: unknown task with data 'gsm8': did you mean 'gsm8k'"),
        (["task_data.tasks=arithmetic"], "task_data.tasks names 'arithmetic', which needs no data: take it out"),
        (["task_data.source=nowhere"], "task_data.source = 'nowhere': is not a folder; give one with"),
        (
            ["task_data.words=english", "task_data.words_source=nowhere"],
            "task_data.words_source = 'nowhere': there is no",
        ),
        (
            ["task_data.words=english", "task_data.words_source=s3://a/b"],
            "task_data.words_source = 's3://a/b': there is no",
        ),
    ],
)
def test_data_that_cannot_be_fetched_is_refused(looked_at, settings, said):
    with pytest.raises(ValueError, match=said):
        looked_at(*settings)


def test_a_file_of_task_data_that_is_not_there_is_refused(looked_at, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "rows").mkdir()
    with pytest.raises(ValueError, match=r"task_data\.source = .*there is no gsm8k_train\.jsonl"):
        looked_at("task_data.tasks=gsm8k", "task_data.source=~/rows")


def test_core_that_is_not_at_hand_is_refused(looked_at, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    published_core.write(tmp_path / "bundle")
    looked_at("core_data.tasks=sums, letters", "core_data.source=~/bundle")
    (tmp_path / "bundle" / "eval_data" / "letters.jsonl").unlink()
    with pytest.raises(ValueError, match=r"task 'letters': .*letters\.jsonl is missing"):
        looked_at("core_data.tasks=all", "core_data.source=~/bundle")
    looked_at("core_data.tasks=all", "core_data.source=http://127.0.0.1:1/bundle.zip")  # not fetched for that


def test_looks_at_core_without_tasks_are_refused(looked_at, tmp_path):
    looks = ["pretrain.core_every=2", f"pretrain.core_source={tmp_path / 'core' / 'out'}"]
    with pytest.raises(ValueError, match=r"pretrain\.core_source = .*core/out': .*is no artifact of core_data"):
        looked_at(*looks)
    published_core.artifact(tmp_path / "core", "")
    with pytest.raises(ValueError, match=r"pretrain\.core_source = .*core/out': was made without tasks: set core_data"):
        looked_at(*looks)
    published_core.artifact(tmp_path / "core")
    looked_at(*looks)


def test_code_of_a_model_without_a_sandbox_is_refused_where_it_would_run(tmp_path, monkeypatch):
    monkeypatch.setattr("nanochat.tools.sandbox.unavailable", lambda: "bubblewrap (bwrap) is not installed")
    toy, store = toy_corpus.make(tmp_path / "corpus"), FileStore(tmp_path / "store")
    (tmp_path / "humaneval_test.jsonl").touch()
    data = ["task_data.tasks=humaneval", f"task_data.source={tmp_path}", "chat_eval_sft.tasks=humaneval"]
    steps = plan(recipes.apply(recipes.stages_of("micro"), [*toy, *data]), ["chat_eval_sft"])
    with pytest.raises(ValueError, match=r"chat_eval_sft\.tasks = 'humaneval': .*bwrap.*install bubblewrap, or"):
        preflight(steps, store)
    preflight(steps, store, gpu_stages_here=False)
    data[-1] += ", arithmetic"  # which then is the only one that is asked
    preflight(plan(recipes.apply(recipes.stages_of("micro"), [*toy, *data]), ["chat_eval_sft"]), store)


def test_programs_are_not_learned_without_a_sandbox(tmp_path, monkeypatch):
    toy, store = toy_corpus.make(tmp_path / "corpus"), FileStore(tmp_path / "store")
    for split in ("train", "validation", "test"):
        (tmp_path / f"mbpp_{split}.jsonl").touch()
    data = ["task_data.tasks=mbpp", f"task_data.source={tmp_path}", "rl.task=arithmetic, mbpp:0.5"]
    steps = plan(recipes.apply(recipes.stages_of("micro"), [*toy, *data]), ["rl"])
    monkeypatch.setattr("nanochat.tools.sandbox.unavailable", lambda: None)
    preflight(steps, store)
    monkeypatch.setattr("nanochat.tools.sandbox.unavailable", lambda: "bubblewrap (bwrap) is not installed")
    with pytest.raises(ValueError, match=r"rl\.task = 'arithmetic, mbpp:0\.5': .*bwrap.*, or take another task"):
        preflight(steps, store)
    preflight(steps, store, gpu_stages_here=False)


def test_the_plain_runner_refuses_a_corpus_in_a_bucket(tmp_path):
    web = ["download.corpus=mine", "download.url=s3://bucket/s_{index}.parquet", "download.validation_shard=9"]
    steps = plan(recipes.apply(recipes.stages_of("micro"), web), ["download"])
    with pytest.raises(ValueError, match=r"only the flow reads s3://: start it with `nanochat run`"):
        preflight(steps, FileStore(tmp_path / "store"), reads_buckets=False)
    preflight(steps, FileStore(tmp_path / "store"))


def test_a_score_that_some_evaluation_does_not_measure_is_refused(looked_at):
    with pytest.raises(ValueError, match=r"register\.metric = 'charm': chat_eval_mid does not .* chatcore, arithmetic"):
        looked_at("register.metric=charm")
    with pytest.raises(ValueError, match=r"'spelling': chat_eval_mid does .* add its task to chat_eval_mid\.tasks"):
        looked_at("register.metric=spelling", "chat_eval_rl.tasks=spelling")
    with pytest.raises(ValueError, match=r"'arithmetic_pass_at_4': chat_eval_mid does not measure it"):
        looked_at("register.metric=arithmetic_pass_at_4")


def test_what_is_there_is_looked_at_only_if_it_is_made_again(tmp_path: Path):
    data, store = tmp_path / "data", FileStore(tmp_path / "store")
    data.mkdir()
    settings = [f"task_data.source={data}"]
    steps = plan(recipes.apply(recipes.stages_of("micro"), settings), ["task_data"])
    run_plan(steps, RunContext(store, tmp_path), Observer())
    data.rmdir()
    preflight(steps, store)
    with pytest.raises(ValueError, match=r"task_data\.source = .*: is not a folder"):
        preflight(steps, store, force=frozenset({"task_data"}))


def test_ranks_of_a_pretraining_that_is_done_do_not_matter(tmp_path: Path):
    toy, store = toy_corpus.make(tmp_path / "corpus"), FileStore(tmp_path / "store")
    steps = plan(recipes.apply(recipes.stages_of("micro"), [*toy, "pretrain.num_ranks=3"]), ["sft"])
    with pytest.raises(ValueError, match=r"pretrain\.total_batch_size = 128"):
        preflight(steps, store)
    done = next(step for step in steps if step.name == "pretrain")
    store.publish(done.address, {}, {"preimage": done.preimage})
    preflight(steps, store)
