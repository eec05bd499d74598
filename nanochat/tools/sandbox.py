"""Runs code written by a model behind real walls, or not at all.

The walls are bubblewrap's (namespaces of its own for files, network, processes and users) and a seccomp filter that
allows no second process. The code sees Python, an empty /tmp and nothing else: no network, no environment, no file of
this machine, bounded time, memory and output. Where the walls cannot be built there is a RuntimeError; nothing here
ever runs unwalled. Promises for `passes`: the tests run in a sandbox of their own, so ending early, patching the
interpreter or returning an object equal to everything cannot look like success. Not covered: bugs of the kernel; a
fair share of the processor.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
import os
import platform
import shutil
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import IO, Literal

GUEST = "/sandbox/guest.py"
CODE = "/sandbox/code.py"


@dataclasses.dataclass(frozen=True)
class Limits:
    """What one program may use."""

    seconds: float = 5.0
    memory_bytes: int = 512 << 20
    file_bytes: int = 16 << 20
    output_bytes: int = 64 << 10


@dataclasses.dataclass(frozen=True)
class Result:
    """How a program ended; output beyond the limit is cut."""

    outcome: Literal["finished", "failed", "timed_out"]
    exit_code: int
    stdout: str
    stderr: str


DEFAULT = Limits()


@functools.cache
def unavailable() -> str | None:
    """Why nothing can be run on this machine, or None. Tried once, by running something."""
    if shutil.which("bwrap") is None:
        return "bubblewrap (bwrap) is not installed"
    if platform.machine() not in SYSCALLS:
        return f"there is no process filter for {platform.machine()}"
    trial = _run("print(6 * 7)", "", DEFAULT)
    return None if trial.stdout == "42\n" else f"bubblewrap does not work here: {trial.stderr.strip() or trial.outcome}"


def require() -> None:
    """Raises RuntimeError, with the reason and the remedy, where there is no sandbox."""
    if reason := unavailable():
        raise RuntimeError(
            f"no sandbox for code written by a model: {reason}; install bubblewrap or leave the task out"
        )


def run(code: str, *, stdin: str = "", limits: Limits = DEFAULT) -> Result:
    """Runs a Python program. Raises RuntimeError where there is no sandbox."""
    require()
    return _run(code, stdin, limits)


def passes(code: str, function: str, tests: str, limits: Limits = DEFAULT) -> Result:
    """Whether `function` of the untrusted `code` stands the trusted `tests`: Python that defines `check(candidate)`.

    Arguments and results travel as plain data (numbers, strings, lists, tuples, dicts, sets) between two sandboxes.
    Outcome "finished" means passed; otherwise stderr ends with the reason. Raises RuntimeError where there is no
    sandbox.
    """
    require()
    calls_in, calls_out = map(os.fdopen, os.pipe(), ("rb", "wb"))
    with calls_in, calls_out, _started("answer", code, function, limits, calls_in, subprocess.PIPE, None) as answering:
        replies = answering.stdout
        assert replies is not None, "asked for as a pipe"
        with replies, _started("ask", tests, function, limits, replies, calls_out, subprocess.PIPE) as asking:
            for stream in (calls_in, calls_out, replies):
                stream.close()  # only the two sandboxes hold the pipes now: the end of one is seen by the other
            return _finish(asking, "", limits)


def _run(code: str, stdin: str, limits: Limits) -> Result:
    pipe = subprocess.PIPE
    with _started("run", code, None, limits, pipe, pipe, pipe) as process:
        return _finish(process, stdin, limits)


@contextlib.contextmanager
def _started(
    role: str, code: str, name: str | None, limits: Limits, stdin: IO | int, stdout: IO | int, stderr: int | None
) -> Iterator[subprocess.Popen]:
    """A sandbox with the guest at work in it; gone, with all that is in it, at the end of the block."""
    guest = Path(__file__).with_name("sandbox_guest.py").read_bytes()
    with contextlib.ExitStack() as files:
        held = [files.enter_context(_in_memory(data)) for data in (guest, code.encode(), _process_filter())]
        process = subprocess.Popen(
            [*_walls(*held), *_command(role, name, limits)],
            stdin=stdin,
            stdout=stdout,
            stderr=subprocess.DEVNULL if stderr is None else stderr,
            pass_fds=held,
            env={},
            start_new_session=True,
        )
    with process:
        try:
            yield process
        finally:
            process.kill()  # its namespace of processes dies with it


def _walls(guest: int, code: int, process_filter: int) -> list[str]:
    """bubblewrap's command line: what is not named here does not exist inside."""
    readable = [path for path in ("/usr", "/lib", "/lib64", sys.base_prefix) if Path(path).exists()]
    binds = [word for path in readable for word in ("--ro-bind", path, path)]
    return [
        str(shutil.which("bwrap")),
        *("--unshare-all", "--unshare-user", "--uid", "65534", "--gid", "65534", "--cap-drop", "ALL"),
        *("--die-with-parent", "--new-session", "--hostname", "sandbox"),
        *binds,
        *("--proc", "/proc", "--dev", "/dev", "--size", str(DEFAULT.file_bytes), "--tmpfs", "/tmp", "--chdir", "/tmp"),
        *("--ro-bind-data", str(guest), GUEST, "--ro-bind-data", str(code), CODE),
        *("--seccomp", str(process_filter), "--"),
    ]


def _command(role: str, name: str | None, limits: Limits) -> list[str]:
    python = getattr(sys, "_base_executable", sys.executable)
    amounts = [max(1, round(limits.seconds)), limits.memory_bytes, limits.file_bytes]
    return [python, "-I", "-S", GUEST, role, *map(str, amounts), CODE, *([name] if name else [])]


def _finish(process: subprocess.Popen, stdin: str, limits: Limits) -> Result:
    """Feeds, reads and waits, all within the limits."""
    streams = [process.stdout, process.stderr]
    held = [bytearray() for _ in streams]
    threads = [
        threading.Thread(target=_read, args=(stream, limits.output_bytes, data))
        for stream, data in zip(streams, held, strict=True)
    ]
    threads.append(threading.Thread(target=_feed, args=(process.stdin, stdin)))
    for thread in threads:
        thread.start()
    timed_out = False
    try:
        process.wait(limits.seconds)
    except subprocess.TimeoutExpired:
        timed_out = True
        process.kill()
        process.wait()
    for thread in threads:
        thread.join()
    stdout, stderr = (data.decode(errors="replace") for data in held)
    if timed_out:
        return Result("timed_out", process.returncode, stdout, stderr)
    return Result("failed" if process.returncode else "finished", process.returncode, stdout, stderr)


def _read(stream: BufferedReader | None, most: int, into: bytearray) -> None:
    """Reads at most so many bytes, then closes: whoever goes on writing is stopped by the closed pipe."""
    if stream is None:
        return
    with stream:
        while len(into) < most and (data := stream.read1(most - len(into))):
            into += data


def _feed(stream: IO[bytes] | None, text: str) -> None:
    if stream is None:
        return
    with contextlib.suppress(BrokenPipeError), stream:  # the program may end before it has read everything
        stream.write(text.encode())


@contextlib.contextmanager
def _in_memory(data: bytes) -> Iterator[int]:
    """A file descriptor from which `data` is read."""
    descriptor = os.memfd_create("sandbox")
    try:
        os.write(descriptor, data)
        os.lseek(descriptor, 0, os.SEEK_SET)
        yield descriptor
    finally:
        os.close(descriptor)


# Of linux/audit.h and the kernel's system call tables: architecture, forks, unshare, clone (clone3 is 435 on all).
SYSCALLS = {
    "x86_64": (0xC000003E, (57, 58), 272, 56),
    "aarch64": (0xC00000B7, (), 97, 220),
}
CLONE3, CLONE_THREAD = 435, 0x00010000


def _process_filter() -> bytes:
    """A seccomp program (linux/filter.h) that lets threads be made, but neither processes nor namespaces.

    RLIMIT_NPROC would not do: the kernel does not enforce it for root, as which containers like to run.
    """
    architecture, forks, unshare, clone = SYSCALLS[platform.machine()]
    load, equal, at_least, any_bit, give = 0x20, 0x15, 0x35, 0x45, 0x06
    kill, allow = 0x80000000, 0x7FFF0000
    refuse, unknown = (
        0x00050000 | errno.EPERM,
        0x00050000 | errno.ENOSYS,
    )  # on ENOSYS, libc falls back from clone3 to clone
    program: list[tuple[int, int, int, int]] = [
        (load, 0, 0, 4),
        (equal, 1, 0, architecture),
        (give, 0, 0, kill),
        (load, 0, 0, 0),
    ]
    program += [(at_least, 0, 1, 0x40000000), (give, 0, 0, refuse)]  # the x32 twins of all calls
    for number in (*forks, unshare):
        program += [(equal, 0, 1, number), (give, 0, 0, refuse)]
    program += [(equal, 0, 1, CLONE3), (give, 0, 0, unknown)]
    program += [(equal, 0, 3, clone), (load, 0, 0, 16), (any_bit, 1, 0, CLONE_THREAD), (give, 0, 0, refuse)]
    return b"".join(struct.pack("=HBBI", *line) for line in [*program, (give, 0, 0, allow)])
