"""Code of a model sees nothing, changes nothing, ends in time, and passes tests only by being right."""

import json
import os
import time
from pathlib import Path

import pytest

from nanochat.tasks.humaneval import EMPTY_BODY
from nanochat.tools import sandbox
from nanochat.tools.sandbox import Limits
from tests.paths import SHARED

HUMANEVAL = SHARED / "data" / "humaneval.jsonl"
walled = pytest.mark.skipif(sandbox.unavailable() is not None, reason=f"no sandbox: {sandbox.unavailable()}")
TESTS = "def check(candidate):\n    assert candidate(2) == 4\n    assert candidate([1]) == [1, 1]\n"
DOUBLE = "def double(x):\n    return x * 2\n"


@walled
def test_a_program_reads_its_input_and_its_output_comes_back():
    result = sandbox.run("import sys\nprint(input()[::-1])\nprint('to stderr', file=sys.stderr)", stdin="abc\n")
    assert (result.outcome, result.exit_code, result.stdout, result.stderr) == ("finished", 0, "cba\n", "to stderr\n")
    assert sandbox.run("raise SystemExit(3)").exit_code == 3


@walled
def test_there_is_no_file_variable_or_network_of_this_machine(tmp_path, monkeypatch):
    (tmp_path / "secret").write_text("found", encoding="utf-8")
    monkeypatch.setenv("NANOCHAT_SECRET", "found")
    seen = sandbox.run(
        "import os, socket\n"
        f"print(os.path.exists({str(tmp_path)!r}), os.environ.get('NANOCHAT_SECRET'), os.listdir('/tmp'))\n"
        "print(os.path.exists('/etc/passwd'), os.path.exists('/home'), os.path.exists('/var'))\n"
        "try:\n    socket.create_connection(('1.1.1.1', 53), 1)\nexcept OSError as error:\n    print(error.errno)\n"
        "print(socket.if_nameindex())\n"
    )
    assert seen.stdout == "False None []\nFalse False False\n101\n[(1, 'lo')]\n"  # 101: the network is unreachable


@walled
def test_only_its_own_tmp_can_be_written():
    code = "import sys\nopen('/tmp/mine', 'w').write('x')\nopen(sys.prefix + '/theirs', 'w')"
    result = sandbox.run(code)
    assert "Read-only file system" in result.stderr
    assert not Path("/tmp/mine").exists()


@walled
@pytest.mark.parametrize(
    "code",
    [
        "import os; os.fork()",
        "import subprocess; subprocess.run(['/bin/true'])",
        "import os; os.posix_spawn('/bin/true', ['x'], {})",
    ],
)
def test_there_is_one_process_and_no_second(code):
    assert "not permitted" in sandbox.run(code).stderr


@walled
def test_threads_are_allowed():
    code = "import threading\nt = threading.Thread(target=print, args=('thread',))\nt.start()\nt.join()"
    assert sandbox.run(code).stdout == "thread\n"


@walled
def test_processes_of_this_machine_are_out_of_reach():
    code = f"import os\nprint(sorted(p for p in os.listdir('/proc') if p.isdigit()))\nos.kill({os.getpid()}, 9)"
    result = sandbox.run(code)
    assert "No such process" in result.stderr
    assert len(result.stdout.split(",")) <= 2  # bubblewrap's own and the program


@walled
def test_memory_files_and_output_are_bounded():
    assert "MemoryError" in sandbox.run("bytearray(1 << 30)", limits=Limits(memory_bytes=256 << 20)).stderr
    assert (
        "File too large"
        in sandbox.run("open('/tmp/x', 'wb').write(bytes(2 << 20))", limits=Limits(file_bytes=1 << 20)).stderr
    )
    flood = sandbox.run("while True: print('x' * 1000)", limits=Limits(seconds=20, output_bytes=5000))
    assert (flood.outcome, len(flood.stdout)) == ("failed", 5000)


@walled
def test_limits_cannot_be_raised_again():
    code = "import resource\nresource.setrlimit(resource.RLIMIT_AS, (-1, -1))"
    assert "not allowed to raise maximum limit" in sandbox.run(code).stderr


@walled
@pytest.mark.parametrize(
    "code",
    ["while True: pass", "import time; time.sleep(60)", "import sys; sys.stdin.read()\nimport time; time.sleep(60)"],
)
def test_time_is_bounded(code):
    assert sandbox.run(code, limits=Limits(seconds=0.7)).outcome in ("timed_out", "failed")


@walled
def test_a_right_function_passes_and_a_wrong_one_says_why():
    assert sandbox.passes(DOUBLE, "double", TESTS).outcome == "finished"
    wrong = sandbox.passes("def double(x):\n    return x + 2\n", "double", TESTS)
    assert wrong.outcome == "failed"
    assert "TypeError: can only concatenate" in wrong.stderr  # 2 + 2 is right, the list is not


EQUAL = "class Equal:\n    def __eq__(self, other): return True\n    def __ne__(self, other): return False\n"
TRICKS = {
    "exit": "import sys\nsys.exit(0)",
    "exit when called": "import sys\ndef double(x):\n    sys.exit(0)",
    "raise SystemExit": "raise SystemExit",
    "os._exit": "import os\ndef double(x):\n    os._exit(0)",
    "exit at exit": "import atexit, os\natexit.register(os._exit, 0)\ndef double(x):\n    return 0",
    "equal to everything": EQUAL + "def double(x):\n    return Equal()",
    "equal to everything, a number": EQUAL + "class Number(Equal, int): pass\ndef double(x):\n    return Number(7)",
    "no assertions": "import builtins\nbuiltins.AssertionError = type('Quiet', (Exception,), {})\ndef double(x):\n    return 0",
    "prints its own verdict": "def double(x):\n    print('passed', flush=True)\n    return 0",
    "writes to every descriptor": (
        "import os\nfor n in range(64):\n    try: os.write(n, b'{\"value\": 4}\\n')\n    except OSError: pass\ndef double(x):\n    return 0"
    ),
    "another name": "def triple(x):\n    return x * 3",
    "no program": "here is the function you asked for:",
    "endless": "def double(x):\n    while True: pass",
    "deep": "def double(x):\n    y = []\n    for _ in range(100000): y = [y]\n    return y",
    "kills everything": "import os\ndef double(x):\n    os.kill(-1, 9)",
}


@walled
@pytest.mark.parametrize("code", TRICKS.values(), ids=TRICKS)
def test_no_trick_passes(code):
    assert sandbox.passes(code, "double", TESTS, Limits(seconds=2)).outcome != "finished"


@walled
def test_plain_data_travels_unchanged():
    echo = "def echo(*args, **kwargs):\n    return args, kwargs"
    data = "((1, -2.5, float('inf'), 'ü\\n', None, True, [1, (2,)], {3: {4}, (5,): 'x'}, frozenset({6})), {'k': []})"
    tests = f"def check(candidate):\n    args, kwargs = {data}\n    got = candidate(*args, **kwargs)\n    assert repr(got) == repr((args, kwargs)), got"
    result = sandbox.passes(echo, "echo", tests)
    assert result.outcome == "finished", result.stderr


@walled
def test_what_is_not_plain_data_is_named():
    result = sandbox.passes("def double(x):\n    return object()", "double", TESTS)
    assert "object is not plain data" in result.stderr


@walled
@pytest.mark.skipif(not HUMANEVAL.is_file(), reason="HumanEval is not at hand")
def test_reference_solutions_pass_and_empty_ones_do_not():
    rows = [json.loads(line) for line in HUMANEVAL.read_text(encoding="utf-8").splitlines()]
    for row in (rows[i] for i in (0, 32, 33, 38, 50, 163)):  # 32, 38 and 50 test with helpers of the prompt, 33 by name
        tests = row["prompt"] + EMPTY_BODY + row["test"]
        judge = lambda body: sandbox.passes(row["prompt"] + body, row["entry_point"], tests)  # noqa: B023, E731
        assert judge(row["canonical_solution"]).outcome == "finished"
        assert judge("\n    return None\n").outcome == "failed"


@walled
def test_nothing_is_left_running():
    started = time.time()
    mark = f"sleeper {started}"
    sandbox.run(f"import time\n'{mark}'\ntime.sleep(60)", limits=Limits(seconds=0.5))
    alive = [p for p in Path("/proc").glob("[0-9]*") if _is_sandbox_of_this_test(p)]
    assert alive == []


def _is_sandbox_of_this_test(process: Path) -> bool:
    try:
        fields = (process / "stat").read_text(encoding="utf-8")
    except OSError:
        return False
    name, rest = fields.split("(", 1)[1].rsplit(")", 1)
    return name == "bwrap" and int(rest.split()[1]) == os.getpid()


def test_without_bubblewrap_nothing_is_run(monkeypatch):
    monkeypatch.setenv("PATH", "")
    sandbox.unavailable.cache_clear()
    try:
        assert "not installed" in sandbox.unavailable()
        for attempt in (lambda: sandbox.run("print(1)"), lambda: sandbox.passes(DOUBLE, "double", TESTS)):
            with pytest.raises(
                RuntimeError, match=r"bwrap.* is not installed; install bubblewrap or leave the task out"
            ):
                attempt()
    finally:
        sandbox.unavailable.cache_clear()


def test_where_bubblewrap_does_not_work_the_reason_is_told(monkeypatch, tmp_path):
    broken = tmp_path / "bwrap"
    broken.write_text("#!/bin/sh\necho 'No permissions to create new namespace' >&2\nexit 1\n", encoding="utf-8")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    sandbox.unavailable.cache_clear()
    try:
        assert sandbox.unavailable() == "bubblewrap does not work here: No permissions to create new namespace"
        monkeypatch.setattr("platform.machine", lambda: "riscv64")
        sandbox.unavailable.cache_clear()
        assert sandbox.unavailable() == "there is no process filter for riscv64"
    finally:
        sandbox.unavailable.cache_clear()
