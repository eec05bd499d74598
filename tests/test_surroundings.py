"""Processes of our own in surroundings that work against them: files that stand in for libraries, an ASCII locale, a machine
whose name does not resolve, a process that never meets the others."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from nanochat.training import distributed
from nanochat.workflow import launch
from tests import toy_corpus
from tests.decoys import lay_decoys
from tests.paths import ROOT
from tests.prefect_server import eventually

NAMELESS = ("unshare", "--user", "--map-root-user", "--uts")  # in a machine name of one's own
UNKNOWN_NAME = "hostname no-such-name.invalid"


@pytest.fixture
def decoys(tmp_path, monkeypatch):
    """A working directory with files named like modules of the standard library, of libraries, and of ours."""
    lay_decoys(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def said_by_child(*words, code, **more):
    command = [*launch.python_command("nanochat")[:-2], *words, "-c", code]
    environment = launch.child_environment(**more)
    return subprocess.run(command, env=environment, capture_output=True, text=True, encoding="utf-8", check=True).stdout


def test_a_child_takes_no_code_from_the_working_directory(decoys, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["", "/somewhere", ""]))  # empty means the working directory
    code = "import copy, json, pyarrow, numpy, nanochat.workflow.launch as n, sys; print(n.__file__, '' in sys.path, sys.path)"
    where, has_working_directory, path = said_by_child(code=code).split(maxsplit=2)
    assert Path(where) == ROOT / "nanochat" / "workflow" / "launch.py"
    assert has_working_directory == "False"
    assert "/somewhere" in path, "the user's own entries are kept"
    assert str(decoys) not in path


def test_a_child_of_a_child_takes_none_either(decoys):
    code = "import subprocess, sys; sys.exit(subprocess.call([sys.executable, '-c', 'import copy, pyarrow, nanochat']))"
    said_by_child(code=code)


def test_a_child_speaks_utf_8_in_an_ascii_locale(tmp_path, monkeypatch):
    for name, value in {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}.items():
        monkeypatch.setenv(name, value)
    code = "from pathlib import Path; Path('x').write_text('é\\ufffd'); print(Path('x').read_text())"
    monkeypatch.chdir(tmp_path)
    assert said_by_child(code=code) == "é\ufffd\n"


@pytest.mark.parametrize("own", [{}, {"GOMP_SPINCOUNT": "7"}, {"OMP_WAIT_POLICY": "ACTIVE"}, {"GOMP_SPINCOUNT": ""}])
def test_openmp_s_spin_is_bounded_unless_the_user_says_otherwise(own, monkeypatch):
    for name in launch.OWN_SPIN:
        monkeypatch.delenv(name, raising=False)
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    environment = launch.child_environment()
    if any(own.values()):
        assert {name: environment[name] for name in own} == own
        assert environment.get("GOMP_SPINCOUNT") == own.get("GOMP_SPINCOUNT")
    else:
        assert environment["GOMP_SPINCOUNT"] == launch.SPIN_COUNT


def test_what_torchrun_set_for_others_does_not_reach_a_child(monkeypatch):
    foreign = {"RANK": "3", "TORCHELASTIC_RUN_ID": "other", "PET_NNODES": "2", "PYTHON_EXEC": "/no/python"}
    foreign["PYTHONIOENCODING"] = "utf-16"
    for name, value in {**foreign, "RANKING": "theirs"}.items():
        monkeypatch.setenv(name, value)
    environment = launch.child_environment()
    assert not set(foreign) & set(environment)
    assert environment["RANKING"] == "theirs"


def test_a_home_whose_name_is_no_utf8_has_its_leftovers_found(tmp_path):
    mark = os.fsdecode(os.fsencode(tmp_path) + b"/h\xe9")
    child = subprocess.Popen(["sleep", "60"], env={**os.environ, launch.MARK: mark})
    try:
        eventually(lambda: launch.marked(mark) == [child.pid], 10)  # the kernel shows a new environment a moment later
    finally:
        child.kill()
        child.wait()


def has_namespaces():
    done = subprocess.run([*NAMELESS, "bash", "-c", UNKNOWN_NAME], capture_output=True, check=False)
    return done.returncode == 0


def test_two_ranks_train_where_nothing_is_as_it_should_be(decoys, tmp_path, monkeypatch):
    """The command, with decoys in the working directory, an ASCII locale and a machine name that does not resolve."""
    if sys.platform != "linux" or not has_namespaces():
        pytest.skip("needs `unshare --uts`, to take a name that does not resolve")
    odd = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PET_NNODES": "2"}
    for name, value in odd.items():
        monkeypatch.setenv(name, value)
    home, settings = tmp_path / "home", toy_corpus.make(tmp_path / "corpus")
    code = "import sys; from nanochat.cli import main; sys.exit(main(sys.argv[1:]))"
    words = ["run", "micro", *settings, "num_ranks=2", "--only", "pretrain", "--home", str(home)]
    command = [sys.executable, "-P", "-c", code, *words, "--store", f"file://{home}/store"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    script = f'{UNKNOWN_NAME} && exec "$0" "$@"'
    done = subprocess.run(
        [*NAMELESS, "bash", "-c", script, *command],
        env=environment,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (record,) = (home / "store" / "pretrain").glob("*/record.json")
    (used,) = json.loads(record.read_text(encoding="utf-8"))["arithmetic"]
    assert re.fullmatch(r"(float32|bfloat16) on cpu \(.+\)", used)


def test_a_rank_that_meets_nobody_says_so(monkeypatch):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    around = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    for name, value in around.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(distributed, "MEETING", distributed.timedelta(seconds=1))
    with pytest.raises(RuntimeError, match=f"rank 1 of 2 did not meet the others at 127.0.0.1:{port} within") as raised:
        distributed.start("cpu")
    report = {"type": "RuntimeError", "message": str(raised.value), "rank": 1}
    assert launch.cause(1, report, Path("none")).startswith("communication between ranks: ")


@pytest.mark.parametrize(("under", "code"), [((), -signal.SIGTERM), (("nohup",), 0)])
def test_a_closed_terminal_ends_a_process_as_sigterm_does_and_nothing_under_nohup(under, code):
    program = "import sys; from nanochat.workflow import launch\nwith launch.hanging_up_terminates(): print(flush=True); input()"
    command = [*under, sys.executable, "-c", program]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, **pipes) as child:
        child.stdout.readline()
        child.send_signal(signal.SIGHUP)
        with contextlib.suppress(BrokenPipeError):
            child.communicate(b"\n", timeout=30)
        assert child.returncode == code
