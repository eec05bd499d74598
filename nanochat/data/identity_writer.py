"""A file of conversations about a model's identity, written by a large model that the user names.

One `{"messages": [...]}` a line, user and assistant in turn. Promises: every line was checked; none is there twice;
several requests are under way at a time; what was written stays when the work is interrupted, and is counted when it is
taken up again; a line that a killed process left half is removed. Not here: the request itself
(nanochat/data/chat_endpoint.py), what is asked for (nanochat/data/identity_prompts.py).
"""

from __future__ import annotations

import dataclasses
import json
import queue
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nanochat.data import json_lines
from nanochat.data.identity_prompts import ABOUT, prompt

WORKERS = 8  # requests at a time
ASKED_PER_LINE = 3  # requests for each line still missing, and
ASKED_BESIDES = 20  # so many more, before a model whose answers cannot be used is given up
LONGEST = 4000  # characters of a message
MOST_MESSAGES = 20
BEGINNING = b'{"messages": ['  # of every line
Message = dict[str, str]
Answer = str | Exception


@dataclasses.dataclass
class Written:
    """What came of it: lines in the file, of these found there, and answers that were left out."""

    lines: int = 0
    found: int = 0
    duplicates: int = 0
    unusable: int = 0
    reason: str = ""  # why the last unusable answer was


def write(
    ask: Callable[[str], str],
    out: Path,
    count: int,
    *,
    about: str = ABOUT,
    seed: int = 1,
    told: Callable[[Written], None] = lambda written: None,
) -> Written:
    """Adds conversations to `out` until it has `count` of them.

    Args:
        ask: gives a model's answer to a prompt (`Endpoint.ask`); called from several threads.
        about: who the assistant is, for the model that writes the conversations.
        told: called after every answer.

    Raises:
        ValueError: `out` holds what is no conversation, or the answers are of no use; and what `ask` raises.
    """
    known = _known(out)
    written = Written(len(known), len(known))
    numbers: queue.Queue[int | None] = queue.Queue()
    answers: queue.Queue[Answer] = queue.Queue()
    asked, most = len(known), len(known) + ASKED_PER_LINE * (count - len(known)) + ASKED_BESIDES
    workers = min(WORKERS, count - len(known))
    for _ in range(workers):  # daemons, so that an interrupt waits for no answer
        threading.Thread(target=_work, args=(numbers, answers, about, seed, ask), daemon=True).start()
        numbers.put(asked)
        asked += 1
    pending = max(workers, 0)
    try:
        with out.open("ab") as file:
            while pending:
                line = _line(answers.get(), known, written)
                if line:
                    file.write(line)
                    file.flush()
                told(written)
                pending -= 1
                if written.lines + pending < count and asked < most:
                    numbers.put(asked)
                    asked, pending = asked + 1, pending + 1
    finally:
        for _ in range(workers):
            numbers.put(None)
    if written.lines < count:
        raise ValueError(
            f"{out}: {written.lines:,} of {count:,} conversations after {asked - written.found:,} requests, "
            f"{written.duplicates:,} answers were there already and {written.unusable:,} could not be used "
            f"({written.reason or 'none'}): take another --model or --seed, or a lower --count"
        )
    return written


def _work(
    numbers: queue.Queue[int | None], answers: queue.Queue[Answer], about: str, seed: int, ask: Callable[[str], str]
) -> None:
    """Asks for one number after another; what goes wrong is raised by who reads the answers."""
    while (number := numbers.get()) is not None:
        try:
            answers.put(ask(prompt(about, seed, number)))
        except Exception as error:
            answers.put(error)


def _line(answer: Answer, known: set[str], written: Written) -> bytes:
    """The line for an answer, or nothing where it is left out, which is counted."""
    if isinstance(answer, Exception):
        raise answer
    try:
        messages = conversation(answer)
    except ValueError as error:
        written.unusable += 1
        written.reason = str(error)
        return b""
    if (key := _key(messages)) in known:
        written.duplicates += 1
        return b""
    known.add(key)
    written.lines += 1
    return json.dumps({"messages": messages}, ensure_ascii=False).encode() + b"\n"


def conversation(answer: str) -> list[Message]:
    """The messages of a model's answer, which may stand in a block of code. ValueError: they are no conversation."""
    start, end = answer.find("{"), answer.rfind("}")
    if start < 0 or end < start:
        raise ValueError("the answer holds no object of JSON")
    return _messages(
        json_lines.parsed_object(answer[start : end + 1].encode(errors="replace"), "the answer"), "the answer"
    )


def _messages(row: dict[str, Any], where: str) -> list[Message]:
    messages = row.get("messages")
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise ValueError(f"{where}: messages: needs a list of objects with role and content")
    roles = [message.get("role") for message in messages]
    if not 2 <= len(roles) <= MOST_MESSAGES or roles != ["user", "assistant"] * (len(roles) // 2):
        raise ValueError(f"{where}: messages: 2 to {MOST_MESSAGES}, of user and assistant in turn, the assistant last")
    kept = []
    for message in messages:
        content = json_lines.text(message, "content", where).strip()
        if not content or len(content) > LONGEST:
            raise ValueError(f"{where}: content: needs 1 to {LONGEST:,} characters beside blanks")
        kept.append({"role": message["role"], "content": content})
    return kept


def _key(messages: list[Message]) -> str:
    """What two conversations that say the same have in common, however they are spaced and capitalised."""
    return "\n".join(" ".join(message["content"].lower().split()) for message in messages)


def _known(out: Path) -> set[str]:
    """The conversations in the file, whose last line is cut off where it was never finished."""
    if not out.exists():
        return set()
    _mend(out)
    keys = set()
    for where, row in json_lines.read(out):
        if (key := _key(_messages(row, where))) in keys:
            raise ValueError(f"{where}: is there twice: remove it")
        keys.add(key)
    return keys


def _mend(out: Path) -> None:
    """Ends the last line, or takes it away where a process was killed in the middle of it."""
    with out.open("r+b") as file:
        content = file.read()
        last = content[content.rfind(b"\n") + 1 :]
        try:
            json_lines.parsed_object(last, "the last line")
        except ValueError:
            if last[: len(BEGINNING)] == BEGINNING[: len(last)]:  # else it is another file, which stays as it is
                file.truncate(len(content) - len(last))
        else:
            file.write(b"\n")
