"""The README is true: every command in it is executed by a test or by CI."""

import argparse
import json
import re
import shlex

import pytest

from flows import cli
from nanochat import cli as library
from nanochat import recipes
from tests import toy_corpus
from tests.paths import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [
    line.split("#")[0].strip()
    for block in re.findall(r"^```sh\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    for line in block.splitlines()
    if line.split("#")[0].strip()
]
# Where a command is executed as it stands, if not here: (how it begins, the file that runs it).
ELSEWHERE = {
    "make demo": ".ci/run",
    "make test": ".ci/run",
    ".venv/bin/nanochat ui": "tests/flows/test_ui.py",
    "prefect work-pool create": "deployments/README.md",  # which test_deployments.py executes word for word
    "prefect work-pool set-concurrency-limit": "deployments/README.md",
    "prefect deploy --all": "deployments/README.md",
    "prefect worker start": "tests/flows/test_remote.py",
    "nanochat run tiny --only longest": "tests/test_promises.py",
    "nanochat identity": "tests/data/test_identity_writer.py",
    "nanochat run": "tests/flows/test_flow.py",
    "nanochat chat": "tests/inference/test_chat.py",
    "nanochat serve": "tests/serve/test_command.py",
    "make chat": "tests/serve/test_docs.py",
    "python -m nanochat run": "tests/test_promises.py",
}
HERE = ("nanochat plan", "nanochat knobs", "nanochat explain", "nanochat ls")


def test_every_command_is_executed_somewhere():
    for command in COMMANDS:
        if command.startswith(HERE):
            continue
        begin = next((begin for begin in ELSEWHERE if command.startswith(begin)), None)
        assert begin, f"nothing executes `{command}`"
        text = (ROOT / ELSEWHERE[begin]).read_text(encoding="utf-8")
        verbs = set(begin.split()) - {"nanochat", ".venv/bin/nanochat", "python", "-m", "prefect", "tiny", "longest"}
        assert all(verb in text for verb in verbs), f"{ELSEWHERE[begin]} does not seem to execute `{command}`"


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.startswith(HERE)])
def test_commands_that_only_look_run_as_they_stand(command, tmp_path, capsys):
    assert cli.main([*shlex.split(command)[1:], *([] if " knobs" in command else ["--home", str(tmp_path)])]) == 0
    assert capsys.readouterr().out or command.endswith("ls")


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith(("nanochat run", "python -m nanochat run"))])
def test_the_arguments_of_every_run_are_accepted(command, tmp_path, monkeypatch):
    """The run itself is test_flow's; here its words are parsed and planned exactly as they stand."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "mine.txt").write_text("Some text.\n\n" * 500, encoding="utf-8")
    turns = [[{"role": "user", "content": str(i)}, {"role": "assistant", "content": "Yes."}] for i in range(3)]
    (tmp_path / "chats.jsonl").write_text("\n".join(map(json.dumps, turns)), encoding="utf-8")
    words = shlex.split(command.replace("--only longest", ""))
    parser = argparse.ArgumentParser()
    made = library.add_run(parser.add_subparsers())
    made.add_argument("--demo", action="store_true")
    args = parser.parse_args([*words[words.index("run") :], "--home", str(tmp_path)])
    steps = library.planned(args)
    assert library.forced(args, steps) <= {step.name for step in steps}


def test_every_recipe_is_in_the_readme_and_the_toy_settings_fit_micro(tmp_path):
    for name in recipes.RECIPES:
        assert f"`{name}`" in README
    assert recipes.apply(recipes.stages_of("micro"), toy_corpus.make(tmp_path))
