"""Starts a stage as a process of its own, follows it, and leaves nothing behind.

A spec file goes in, files come out. Promises: the output of every rank goes to files (no pipe that could block the
trainer or hold a dead run open); the whole process group ends when asked, by TERM, then KILL; a stage whose parent dies
ends too; the cause of a failure comes back in one line. It does not know what a stage is about.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import signal
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from nanochat.artifacts.lease import started_at
from nanochat.workflow.out_of_memory import is_about_memory

MARK = "NANOCHAT_LAUNCH"  # in the environment of every process of a stage: how leftovers are found
PARENT = "NANOCHAT_PARENT"
RESUME_EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h: "try again later"
RESUME = "resume.json"  # written by a stage that saved and wants to be resumed
# What a pod or job may have set for another group of processes; torchrun sets its own. It reads a default of each of
# its options from PET_OPTION, and the ranks' interpreter from PYTHON_EXEC.
FOREIGN = {"RANK", "LOCAL_RANK", "GROUP_RANK", "ROLE_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE"}
FOREIGN |= {"ROLE_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "PYTHON_EXEC"}
FOREIGN_KINDS = ("TORCHELASTIC_", "PET_")
ROOT = Path(__file__).resolve().parents[2]  # where `import nanochat` finds this code
# A user's own word on how OpenMP's threads wait (manuals of libgomp and of LLVM's OpenMP).
OWN_SPIN = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "KMP_BLOCKTIME")
SPIN_COUNT = "10000"  # measured by benchmarks/model_cpu.py, see docs/log.md
GRACE_SECONDS = 60.0
ORPHAN_SECONDS = 20.0
PR_SET_PDEATHSIG = 1  # linux/prctl.h


class StageFailed(Exception):
    """A stage's process failed; the message is the cause."""


class Stopped(Exception):
    """A stage was stopped on request; what it had saved lies in its work directory."""


@dataclass(frozen=True)
class Process:
    """What is started: the spec, how many ranks, and where output goes."""

    spec: Path
    num_ranks: int
    logs: Path
    mark: str

    def command(self) -> list[str]:
        """One rank runs the stage directly; several through torchrun, which gives each its own log file."""
        if self.num_ranks == 1:
            return python_command("nanochat", "stage", str(self.spec))
        ranks = ("ranks", str(self.num_ranks), str(self.spec), "--logs", str(self.logs / "ranks"))
        return python_command("nanochat", *ranks)


def python_command(module: str, *words: str) -> list[str]:
    """Runs a module with this Python: -P keeps the working directory's files from standing in for libraries."""
    return [sys.executable, "-P", "-X", "utf8", "-m", module, *words]


def child_environment(**more: str) -> dict[str, str]:
    """This process's environment for a Python of our own: our code is found by path, text is UTF-8.

    What torchrun set for this process is left out. OpenMP's threads wait for each other spinning, and without a bound
    they take the processor from whoever they wait for; a bound of the user's own goes before ours.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in FOREIGN and not name.startswith(FOREIGN_KINDS) and name != "PYTHONIOENCODING"  # beats UTF-8 mode
    }
    paths = [path for path in kept.get("PYTHONPATH", "").split(os.pathsep) if path]  # an empty one is the directory
    if str(ROOT) not in (*paths, sysconfig.get_path("purelib")):
        paths.insert(0, str(ROOT))
    ours = {"PYTHONUTF8": "1", "PYTHONSAFEPATH": "1", "PYTHONUNBUFFERED": "1", "PYTHONPATH": os.pathsep.join(paths)}
    return {**kept, **ours, **bounded_spin(kept), **growing_segments(kept), **more}


def growing_segments(environment: Mapping[str, str]) -> dict[str, str]:
    """torch's allocator on GPUs lets its segments grow, so that sizes that change leave no holes; a user's word goes
    before.
    """
    said = any(environment.get(name) for name in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"))
    return {} if said else {"PYTORCH_ALLOC_CONF": "expandable_segments:True"}


def bounded_spin(environment: Mapping[str, str]) -> dict[str, str]:
    """What bounds the spin of OpenMP's threads, if nothing says how they wait; it is read when torch is loaded."""
    return {} if any(environment.get(name) for name in OWN_SPIN) else {"GOMP_SPINCOUNT": SPIN_COUNT}


@contextmanager
def hanging_up_terminates() -> Iterator[None]:
    """A closed terminal ends this process as SIGTERM does, while the block runs; under nohup it ends nothing."""
    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or signal.getsignal(signal.SIGHUP) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGHUP, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


def run(process: Process, tick: Callable[[], str | None], *, grace: float = GRACE_SECONDS) -> int:
    """Runs to the end and returns the exit code.

    `tick` is called five times a second; a text from it is the reason to stop (Stopped is raised then).
    """
    sweep(process.mark)
    process.logs.mkdir(parents=True, exist_ok=True)
    environment = child_environment(**{MARK: process.mark, PARENT: str(os.getpid())})
    log = (process.logs / "stage.log").open("ab")
    with log:
        child = subprocess.Popen(
            process.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
        )
    reason = None
    try:
        while (code := child.poll()) is None:
            if (reason := tick()) is not None:
                break
            time.sleep(0.2)
    finally:
        end(child, grace, partial(_signal_group, child.pid))
        sweep(process.mark)
    tick()
    if reason is not None:
        raise Stopped(reason)
    return code if code is not None else child.returncode


def end(child: subprocess.Popen[bytes], grace: float, send: Callable[[signal.Signals], None]) -> None:
    """TERM, time to save, then KILL; `send` says to whom: the child alone, or its group."""
    if child.poll() is not None:
        return
    send(signal.SIGTERM)
    try:
        child.wait(grace)
    except subprocess.TimeoutExpired:
        send(signal.SIGKILL)
        child.wait()


def _signal_group(leader: int, number: signal.Signals) -> None:
    try:
        os.killpg(leader, number)
    except ProcessLookupError:
        return


def marked(mark: str) -> list[int]:
    """Processes that bear the mark (Linux; elsewhere none are found)."""
    wanted, found = os.fsencode(f"{MARK}={mark}"), []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if wanted in (entry / "environ").read_bytes().split(b"\0") and int(entry.name) != os.getpid():
                found.append(int(entry.name))
        except OSError:  # gone, or not ours
            continue
    return found


def sweep(mark: str, *, seconds: float = 10.0) -> None:
    """Kills what is left of an earlier attempt (ranks have sessions of their own) and waits until it is gone."""
    deadline = time.monotonic() + seconds
    while left := [pid for pid in marked(mark) if started_at(pid)]:
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        if time.monotonic() > deadline:
            raise StageFailed(f"processes {left} of an earlier attempt cannot be killed: end them by hand")
        time.sleep(0.05)


def die_with_parent() -> None:
    """To be called first in a stage's process: when the launcher dies, this one gets TERM, and ends soon anyhow."""
    if PARENT not in os.environ:
        return
    parent = int(os.environ[PARENT])  # not getppid(): the parent may be gone before this line is reached
    os.environ[PARENT] = str(os.getpid())  # for the ranks that torchrun starts from here
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    threading.Thread(target=_watch_parent, args=(parent,), name="parent watch", daemon=True).start()


def _watch_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)  # where prctl is absent, or the parent was gone before it was called
    time.sleep(ORPHAN_SECONDS)
    os._exit(1)


def cause(code: int, error: Mapping[str, Any] | None, log: Path) -> str:
    """Why a stage failed, in one line: what it said itself, else its signal, else the end of its log."""
    if error is not None:
        said = f"{error['type']}: {error['message']}"
        return f"{_kind(said)}{said}" + (f" (rank {error['rank']})" if error.get("rank") else "")
    if code < 0:
        name = signal.Signals(-code).name
        hint = ": out of host memory, or killed by hand" if code == -signal.SIGKILL else ""
        return f"killed by {name}{hint}; the log is {log}"
    return f"exit code {code}: {_tail(log) or 'no output'}; the log is {log}"


def _kind(said: str) -> str:
    if is_about_memory(said):
        return "out of memory (lower device_batch_size): "
    return "communication between ranks: " if re.search("nccl|gloo|did not meet", said.lower()) else ""


def _tail(log: Path, lines: int = 5) -> str:
    if not log.exists():
        return ""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 4000))
        return " | ".join(line for line in file.read().decode(errors="replace").splitlines()[-lines:] if line.strip())


def read_error(work: Path) -> dict[str, Any] | None:
    """What the failed process wrote about itself: the rank that failed first speaks."""
    reports = sorted(work.glob("error*.json"), key=lambda path: path.stat().st_mtime)
    return json.loads(reports[0].read_text(encoding="utf-8")) if reports else None
