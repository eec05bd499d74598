"""docs/serve.md is true: its commands and its program run as they stand, and every option and code is in it.

The port is the only thing that is changed. `make chat` is parsed and what it starts is run.
"""

import argparse
import contextlib
import io
import os
import re
import shlex
import shutil
import subprocess
import sys

import pytest

from nanochat.serve import arguments
from nanochat.serve.schema import ChatRequest
from tests.paths import ROOT
from tests.serve.server import make_model, served

TEXT = (ROOT / "docs" / "serve.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)


COMMANDS = [
    command.split("  #")[0].strip()
    for block in blocks("sh")
    for command in block.replace("\\\n", "").splitlines()
    if command.strip()
]
ASKING = [command for command in COMMANDS if command.startswith("curl")]
SERVING = [command for command in COMMANDS if "nanochat serve" in command]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with served(make_model(tmp_path_factory.mktemp("table"))) as server:
        yield server


def parsed(words):
    """The options that a command line comes to; the command's own parser reads it."""
    parser = argparse.ArgumentParser()
    arguments.add_serve(parser.add_subparsers())
    return arguments.options_of(parser.parse_args(words))


def test_every_command_is_of_a_kind_that_is_run_here():
    assert sorted(COMMANDS) == sorted(ASKING + SERVING)
    assert len(ASKING) > 5
    assert len(SERVING) > 5


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
@pytest.mark.parametrize("command", ASKING)
def test_what_is_asked_is_answered(server, command):
    command = command.replace("curl ", "curl --fail-with-body --noproxy '*' ").replace(":8000", f":{server.port}")
    done = subprocess.run(command, shell=True, capture_output=True, text=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip()
    if '"stream": true' in command:
        assert done.stdout.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize("command", SERVING)
def test_the_options_of_every_server_are_accepted(command, monkeypatch):
    words = shlex.split(command)
    while "=" in words[0]:
        name, _, value = words.pop(0).partition("=")
        monkeypatch.setenv(name, value)
    assert words[0] == "nanochat"
    options = parsed(words[1:])
    assert options.key == os.environ.get("NANOCHAT_API_KEY", "")


def test_the_program_runs(server):
    (program,) = blocks("python")
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(compile(program.replace(":8000", f":{server.port}"), "docs/serve.md", "exec"), {})
    assert said.getvalue().startswith("[6*7 = 42] OK. ")
    assert said.getvalue().endswith("{'input': '6*7', 'output': '42'}OK.")


def test_every_option_field_and_code_is_named():
    made = arguments.add_serve(argparse.ArgumentParser().add_subparsers())
    options = [option for action in made._actions for option in action.option_strings if option not in ("-h", "--help")]
    missing = [option for option in options if not re.search(rf"{option}\b", TEXT)]
    assert missing == []
    ours = set(ChatRequest.model_fields) - {"user"}
    assert [name for name in ours if f"`{name}`" not in TEXT and f"`{name}." not in TEXT] == []
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "nanochat" / "serve").glob("*.py"))
    raised = set(re.findall(r'ApiError\(\s*\d+,[^)]*?"([a-z_]+)"[,)]', sources, re.DOTALL))
    assert {"queue_full", "model_not_found", "context_length_exceeded"} <= raised
    assert [code for code in raised if f"`{code}`" not in TEXT] == []


def test_make_chat_serves_the_newest_model_and_opens_the_page(tmp_path):
    if shutil.which("make") is None:
        pytest.skip("needs make")
    said = subprocess.run(
        ["make", "--dry-run", "--no-print-directory", "chat", "PORT=8123", f"PYTHON={sys.executable}"],
        cwd=ROOT, capture_output=True, text=True, encoding="utf-8", check=True,
    ).stdout.splitlines()[-1]  # fmt: skip
    program, *words = shlex.split(said)
    assert program == ".venv/bin/nanochat"
    options = parsed(words)
    assert (options.port, options.open_page) == (8123, True)
