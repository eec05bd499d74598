"""The program that runs inside the sandbox; nanochat/tools/sandbox.py starts it there, nothing imports it.

Three roles: `run` executes a program; `answer` holds a function written by a model and answers calls to it; `ask`
holds the tests and puts the calls. Asking and answering are two sandboxes joined by a pipe that carries data only
(JSON lines), so that what a model wrote can neither end the tests early nor return an object that is equal to
everything. Standard library only, without site-packages. The walls are not built here.
"""

import json
import os
import resource
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

SCALARS = (bool, int, float, str)
SEQUENCES = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}


def limit(cpu_seconds: int, memory_bytes: int, file_bytes: int) -> None:
    """Lowers the hard limits for good: without capabilities nothing here can raise them again."""
    for kind, amount in (
        (resource.RLIMIT_CPU, cpu_seconds),
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_FSIZE, file_bytes),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(kind, (amount, amount))


def pack(value: Any) -> Any:
    """Plain data as JSON; a subclass becomes its plain base. TypeError for everything else."""
    if value is None:
        return None
    for scalar in SCALARS:
        if isinstance(value, scalar):
            return scalar(value)
    if isinstance(value, dict):
        return {"dict": [[pack(key), pack(item)] for key, item in value.items()]}
    for name, kind in SEQUENCES.items():
        if isinstance(value, kind):
            return {name: [pack(item) for item in value]}
    raise TypeError(f"{type(value).__name__} is not plain data")


def unpack(value: Any) -> Any:
    """The inverse of `pack`: builds nothing but the types named here."""
    if not isinstance(value, dict):
        return value
    ((name, items),) = value.items()
    if name == "dict":
        return {unpack(key): unpack(item) for key, item in items}
    return SEQUENCES[name](unpack(item) for item in items)


def execute(path: str, name: str = "__main__") -> dict[str, Any]:
    """Executes a file as the main module, or as one of another name, and returns its names."""
    module = types.ModuleType(name)
    sys.modules["__main__"] = sys.modules[name] = module
    exec(compile(Path(path).read_text(encoding="utf-8"), path, "exec"), module.__dict__)
    return module.__dict__


def private(descriptor: int, mode: str) -> Any:
    """Takes a standard stream for the protocol; whoever uses the stream by its usual name gets nothing."""
    stream = os.fdopen(os.dup(descriptor), mode, encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_RDWR), descriptor)
    return stream


def answer(path: str, function: str) -> None:
    """Answers each call with a value, or with the error that it raised."""
    calls, answers = private(0, "r"), private(1, "w")
    names = execute(path, "answer")  # not the main program: what it would do as one is no part of the function
    for line in calls:
        call = json.loads(line)
        try:
            reply = {"value": pack(names[function](*unpack(call["args"]), **unpack(call["kwargs"])))}
        except Exception as error:
            reply = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(reply) + "\n")
        answers.flush()


def ask(path: str, function: str) -> None:
    """Runs the tests: their `check` gets a function whose calls are answered by the other side."""
    replies, calls = private(0, "r"), private(1, "w")

    def candidate(*args: Any, **kwargs: Any) -> Any:
        calls.write(json.dumps({"args": pack(args), "kwargs": pack(kwargs)}) + "\n")
        calls.flush()
        reply = json.loads(replies.readline() or '{"error": "the program ended"}')
        if "error" in reply:
            raise RuntimeError(reply["error"])
        return unpack(reply["value"])

    names = execute(path)
    names[function] = candidate  # HumanEval/33 calls it by its name as well
    names["check"](candidate)


if __name__ == "__main__":
    role, *limits = sys.argv[1:5]
    limit(*map(int, limits))
    roles: dict[str, Callable[..., Any]] = {"run": execute, "answer": answer, "ask": ask}
    roles[role](*sys.argv[5:])
