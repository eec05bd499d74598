"""The command line: what cannot end well is refused in one line before any stage starts; plans are data."""

import json
import shutil

import pytest

from flows import cli, settings
from nanochat import cli as library
from nanochat.artifacts.store import FileStore
from nanochat.planning import estimate
from tests import toy_corpus
from tests.paths import ROOT


@pytest.fixture
def toy(tmp_path):
    return toy_corpus.make(tmp_path / "corpus")


def refused(capsys, *argv, main=cli.main):
    """The one line with which a command was refused (exit code 2)."""
    assert main(list(argv)) == 2
    said = capsys.readouterr().err.strip()
    assert "\n" not in said
    return said


def without(settings, prefix):
    return [setting for setting in settings if not setting.startswith(prefix)]


@pytest.mark.parametrize("main", [cli.main, library.main], ids=["nanochat", "python -m nanochat"])
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["pretrain.depth=0"], ["pretrain.depth = 0", "at least 1"]),
        (["rl.nun_steps=3"], ["unknown knob of rl 'nun_steps'", "did you mean 'num_steps'"]),
        (["tokenizer.vocab_size=264"], ["tokenizer.vocab_size = 264", "at least 265"]),
        (["pretrain.num_steps=1000000"], ["pretrain needs 128,000,000 tokens", "lower pretrain.num_steps"]),
        (["pretrain.total_batch_size=100"], ["pretrain.total_batch_size = 100", "multiple of sequence_len"]),
        (["sft_data.mixture=aritmetic:4"], ["sft_data.mixture", "'aritmetic'", "did you mean 'arithmetic'"]),
        (["sft_data.mixture=gsm8k:4"], ["sft_data.mixture names 'gsm8k'", "add it to task_data.tasks"]),
        (["rl.task=chess"], ["rl.task", "'chess'"]),
        (["chat_eval_rl.tasks="], ["chat_eval_rl.tasks is empty"]),
        (["download.url=file:///nowhere/shard_{index:05d}.parquet"], ["download.url", "/nowhere/shard_0000"]),
        (["download.url=ftp://host/shard_{index:05d}.parquet"], ["download.url", "ftp"]),
        (["download.text_column=prose"], ["prose", "text"]),
        (["core_data.tasks=hellaswagg"], ["core_data.tasks", "'hellaswagg'", "did you mean 'hellaswag'"]),
        (["core_data.tasks=all", "core_data.source=nowhere"], ["core_data.source = 'nowhere'", "there is no such folder"]),
    ],
)  # fmt: skip
def test_bad_settings_are_refused_before_any_stage_starts(tmp_path, toy, capsys, main, changes, words):
    settings = without(toy, changes[0].split("=")[0] + "=")
    said = refused(capsys, "run", "micro", *settings, *changes, "--home", str(tmp_path / "home"), main=main)
    for word in words:
        assert word in said
    assert FileStore(tmp_path / "home" / "store").addresses() == []


def test_an_unknown_recipe_is_refused(tmp_path, capsys):
    assert "did you mean 'tiny'" in refused(capsys, "run", "tinny", "--home", str(tmp_path))


def test_an_unknown_stage_is_refused_wherever_it_is_named(tmp_path, toy, capsys):
    for option in ("--only", "--force"):
        said = refused(capsys, "run", "micro", *toy, option, "pretrian", "--home", str(tmp_path))
        assert "unknown stage 'pretrian': did you mean 'pretrain'" in said


def test_a_store_that_cannot_be_written_is_refused(tmp_path, toy, capsys):
    (tmp_path / "file").write_text("", encoding="utf-8")
    said = refused(
        capsys, "run", "micro", *toy, "--store", f"file://{tmp_path}/file/store", "--home", str(tmp_path / "home")
    )
    assert f"store = 'file://{tmp_path}/file/store': cannot be written" in said


def test_the_plain_runner_says_what_it_cannot_reach(tmp_path, toy, capsys):
    said = refused(capsys, "run", "micro", *toy, "--store", "s3://bucket/x", "--home", str(tmp_path), main=library.main)
    assert "the plain runner has folders only" in said


def test_a_plan_is_data(tmp_path, toy, capsys):
    assert cli.main(["plan", "micro", *toy, "--json", "--home", str(tmp_path)]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["recipe"] == "micro"
    assert [step["stage"] for step in plan["steps"]][-1] == "register"
    assert not any(step["done"] for step in plan["steps"])
    assert plan["parameters"] > 0


def test_classic_d20_has_the_parameters_of_the_write_ups(tmp_path, capsys):
    assert library.main(["plan", "classic-d20", "--json", "--home", str(tmp_path)]) == 0
    assert json.loads(capsys.readouterr().out)["parameters"] == 560_988_160


def test_a_plan_tells_hours_and_cost(tmp_path, capsys):
    assert cli.main(["plan", "speedrun", "--gpus", "8xH100", "--home", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "recipe speedrun on 8xH100" in said
    assert "all of it" in said
    assert "because" in said
    assert "write it as 8xH100" in refused(capsys, "plan", "speedrun", "--gpus", "eight", "--home", str(tmp_path))
    assert "unknown GPU 'H10'" in refused(capsys, "plan", "speedrun", "--gpus", "8xH10", "--home", str(tmp_path))


def test_a_plan_without_pretraining_has_no_model(tmp_path, toy, capsys):
    assert cli.main(["plan", "micro", *toy, "--only", "tokenizer", "--home", str(tmp_path)]) == 0
    assert "parameters" not in capsys.readouterr().out
    assert estimate.describe("micro", [], [])["steps"] == []


def test_knobs_are_listed_with_their_meaning(capsys):
    assert cli.main(["knobs", "rl"]) == 0
    said = capsys.readouterr().out
    assert "samples_per_prompt=16" in said
    assert "num_ranks=1 (execution)" in said
    assert cli.main(["knobs"]) == 0
    assert "unknown stage 'rrl': did you mean 'rl'" in refused(capsys, "knobs", "rrl")


def test_chat_without_a_model_says_what_to_do(tmp_path, capsys):
    said = refused(capsys, "chat", "--home", str(tmp_path))
    assert "no chat model" in said
    assert "nanochat run tiny" in said


def test_explain_says_what_an_address_is_made_of_and_why_a_stage_is_new(tmp_path, toy, capsys):
    home = ["--home", str(tmp_path)]
    assert library.main(["run", "micro", *toy, "--only", "task_data", *home]) == 0
    assert "made    task_data/generated-" in capsys.readouterr().out
    assert library.main(["run", "micro", *toy, "--only", "task_data", *home]) == 0
    assert "cached  task_data/generated-" in capsys.readouterr().out
    assert cli.main(["explain", "micro", *toy, "task_data.revision=2", *home]) == 0
    assert "knobs.revision: '' -> '2' (since task_data/generated-" in capsys.readouterr().out
    assert cli.main(["explain", "micro", *toy, "task_data.source=elsewhere", *home]) == 0
    assert "source: '' -> 'elsewhere' changes only how it is reached" in capsys.readouterr().out
    (address,) = FileStore(tmp_path / "store").addresses()
    assert cli.main(["explain", address, *home]) == 0
    assert "knobs.tasks = ''" in capsys.readouterr().out
    assert cli.main(["explain", address, address, *home]) == 0
    assert "no difference" in capsys.readouterr().out
    assert "unknown artifact 'rl/d1-0'" in refused(capsys, "explain", "rl/d1-0", *home)


def test_a_folder_of_ones_own_goes_all_the_way_to_tokens(tmp_path, capsys):
    (tmp_path / "notes").mkdir()
    for name in ("one.md", "two.txt"):
        text = "\n\n".join(" ".join(toy_corpus.TEXT.split()[shift:]) * 20 for shift in range(20))
        (tmp_path / "notes" / name).write_text(text, encoding="utf-8")
    run = ["run", "micro", f"corpus={tmp_path}/notes", "--only", "tokenize", "--home", str(tmp_path / "home")]
    assert library.main(run) == 0
    assert "made    download/notes-" in capsys.readouterr().out
    assert library.main(run) == 0
    assert "made" not in capsys.readouterr().out
    long = ["run", "micro", f"corpus={tmp_path}/notes", "pretrain.num_steps=9999", "--home", str(tmp_path / "other")]
    assert "take more text" in refused(capsys, *long, main=library.main)
    (tmp_path / "empty").mkdir()
    assert "no readable file" in refused(capsys, *run, f"corpus={tmp_path}/empty", main=library.main)


def test_ls_lists_what_the_store_holds(tmp_path, toy, capsys):
    home = ["--home", str(tmp_path)]
    assert library.main(["run", "micro", *toy, "--only", "task_data", *home]) == 0
    capsys.readouterr()
    assert cli.main(["ls", *home]) == 0
    assert "task_data/generated-" in capsys.readouterr().out
    assert cli.main(["ls", "rl", "--json", *home]) == 0
    assert json.loads(capsys.readouterr().out) == []


def test_ui_without_a_server_has_nothing_to_stop(tmp_path, capsys):
    assert cli.main(["ui", "--stop", "--home", str(tmp_path)]) == 0
    assert "no server was running" in capsys.readouterr().out


def test_settings_are_read_once_and_checked(tmp_path):
    read = settings.read({"NANOCHAT_HOME": str(tmp_path), "NANOCHAT_CACHE_GB": "0.5"})
    assert read.store == f"file://{tmp_path}/store"
    assert read.cache_bytes == 2**29
    assert read.tracking_uri == f"sqlite:///{tmp_path}/mlflow.db"
    with pytest.raises(ValueError, match="NANOCHAT_CACHE_GB = 'much'"):
        settings.read({"NANOCHAT_CACHE_GB": "much"})


def test_every_command_has_help(capsys):
    for command in ("run", "plan", "explain", "knobs", "chat", "ui", "ls", "stage", "ranks", "readme"):
        with pytest.raises(SystemExit) as end:
            cli.main([command, "--help"])
        assert end.value.code == 0
        assert command in capsys.readouterr().out


def test_the_readme_s_generated_parts_are_fresh(tmp_path, capsys):
    readme = tmp_path / "README.md"
    shutil.copyfile(ROOT / "README.md", readme)
    assert library.main(["readme", "--file", str(readme), "--check"]) == 0
    readme.write_text(readme.read_text(encoding="utf-8").replace("**rl**", "**lr**"), encoding="utf-8")
    assert library.main(["readme", "--file", str(readme), "--check"]) == 1
    assert "out of date" in capsys.readouterr().err
    assert library.main(["readme", "--file", str(readme)]) == 0
    assert "**rl**" in readme.read_text(encoding="utf-8")
    readme.write_text("nothing", encoding="utf-8")
    assert "the markers" in refused(capsys, "readme", "--file", str(readme), main=library.main)
