"""Conversations of one's own: a file of JSON lines, checked line by line before anything is trained on it.

A line is `{"messages": [...]}` or the list of messages alone, in the form of OpenAI's chat completions: system, user,
assistant and tool messages, text or parts of text as content, tool calls of the one tool that the model has (python).
Promises: what is read can be rendered and ends with an answer; every refusal names file, line and message. Not here:
mixing them with tasks (stages/chat_data.py).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from nanochat.data import json_lines
from nanochat.data.chat_template import check
from nanochat.locations import folder

TOOLS = ("python", "calculator")  # names under which the model's tool may be called
OURS = ("python", "python_output")  # types of parts that only the chat template has
ARGUMENTS = ("code", "expression", "input")  # of a call: the one that is the program


def read(path: Path) -> list[dict[str, Any]]:
    """The conversations of a file, each {"messages": [...]} as the chat template takes them.

    Raises:
        ValueError: there is no such file, nothing in it, or a line is no conversation; names the line.
    """
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file; give the path of a JSON-lines file of conversations")
    found = [{"messages": _conversation(value, where)} for where, value in json_lines.read_values(path)]
    if not found:
        raise ValueError(f"{path}: has no conversations")
    return found


def split(conversations: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Those to train on and those held out, a fiftieth and at least one, chosen by digest; each in the file's order."""
    keys = [hashlib.sha256(json.dumps(each, sort_keys=True).encode()).digest() for each in conversations]
    held_out = set(sorted(keys)[: max(1, len(keys) // 50)])
    train = [each for key, each in zip(keys, conversations, strict=True) if key not in held_out]
    return train, [each for key, each in zip(keys, conversations, strict=True) if key in held_out]


def resolve(files: Iterable[str]) -> dict[str, tuple[str, int]]:
    """For the path of each file NAME@DIGEST, which says what it holds wherever it lies, and the rows to train on.

    Raises:
        ValueError: as `read`, or there is nothing left to train on.
    """
    found = {}
    for text in files:
        path = folder(text)
        train, _ = split(read(path))
        if not train:
            raise ValueError(f"{path}: one conversation is held out, so there must be two different ones at least")
        name = re.sub(r"[^A-Za-z0-9._-]", "-", path.stem)
        found[text] = (f"{name}@{digest(path)}", len(train))
    return found


def digest(path: Path) -> str:
    """12 hex digits of the file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]


def _conversation(value: Any, where: str) -> list[dict[str, Any]]:
    messages = value.get("messages") if isinstance(value, dict) else value
    if not isinstance(messages, list) or not messages or not all(isinstance(each, dict) for each in messages):
        raise ValueError(f'{where}: needs {{"messages": [...]}} or a list of messages, each an object')
    try:
        merged = list(_turns(messages))
        check(merged)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    return merged


def _turns(messages: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Messages with the calls and answers of tools as parts of the assistant's turn."""
    turn: list[dict[str, str]] | None = None  # parts of the assistant that speaks
    for number, message in enumerate(messages):
        role = message.get("role")
        if role == "tool":
            if not turn or turn[-1]["type"] != "python":
                raise ValueError(f"message {number} (tool): answers no tool call of the message before it")
            turn.append({"type": "python_output", "text": _text(message, number)})
        elif role == "assistant":
            if turn and turn[-1]["type"] != "python_output":
                raise ValueError(f"message {number} (assistant): user and assistant take turns")
            turn = [*(turn or ()), *_spoken(message, number)]
        else:
            if turn is not None:
                yield _assistant(turn)
                turn = None
            yield {"role": role, "content": _text(message, number)}
    if turn is not None:
        yield _assistant(turn)


def _assistant(turn: list[dict[str, str]]) -> dict[str, Any]:
    alone = len(turn) == 1 and turn[0]["type"] == "text"
    return {"role": "assistant", "content": turn[0]["text"] if alone else turn}


def _spoken(message: Mapping[str, Any], number: int) -> Iterator[dict[str, str]]:
    """What one assistant message says and calls."""
    content, calls = message.get("content"), message.get("tool_calls") or []
    if isinstance(content, list) and any(isinstance(part, dict) and part.get("type") in OURS for part in content):
        yield from content  # in the form of the chat template already, which checks it
    elif (content is not None or not calls) and (text := _text(message, number)):
        yield {"type": "text", "text": text}
    if not isinstance(calls, list) or len(calls) > 1:
        raise ValueError(f"message {number} (assistant): tool_calls: one call a message, its answer in the next")
    for call in calls:
        yield {"type": "python", "text": _program(call, number)}


def _program(call: Any, number: int) -> str:
    """The program of a call {"function": {"name", "arguments"}}; the arguments are JSON, as a text or not."""
    where = f"message {number} (assistant): tool_calls"
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or function.get("name") not in TOOLS:
        name = function.get("name") if isinstance(function, dict) else None
        raise ValueError(f"{where}: function {name!r}: the model has one tool, called {' or '.join(TOOLS)}")
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except ValueError as error:
            raise ValueError(f"{where}: arguments are not JSON ({error})") from None
    given = [arguments[name] for name in ARGUMENTS if name in arguments] if isinstance(arguments, dict) else []
    if len(given) != 1 or not isinstance(given[0], str):
        raise ValueError(f"{where}: arguments = {arguments!r}: needs one text called {', '.join(ARGUMENTS)}")
    return given[0]


def _text(message: Mapping[str, Any], number: int) -> str:
    """The content, of which parts of text are joined."""
    content, role = message.get("content"), message.get("role")
    if isinstance(content, list) and all(isinstance(part, dict) for part in content):
        other = [part.get("type") for part in content if part.get("type") != "text"]
        if other:
            raise ValueError(f"message {number} ({role}): a part of type {other[0]!r}: only text can be learned")
        content = "".join(part.get("text") if isinstance(part.get("text"), str) else "" for part in content)
    if not isinstance(content, str):
        raise ValueError(f"message {number} ({role}): content = {content!r}: needs text or parts of text")
    return content
