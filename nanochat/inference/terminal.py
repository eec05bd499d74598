"""`nanochat chat`: a conversation in the terminal.

Lines are edited, remembered and may be several (prompt_toolkit, where it is installed and there is a terminal). What
begins with a slash and a word is a command; one that does not exist is not sent to the model. Promises: Ctrl-C stops
the answer and keeps the conversation, Ctrl-D ends it; a message that cannot be answered costs nothing but itself. Not
here: the conversation (chat.py), a page (serve/).
"""

import re
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from nanochat.inference.chat import Chatbot, ChatSession
from nanochat.inference.sampling import Sampling

COMMANDS = {
    "/clear": "forgets the conversation",
    "/retry": "answers the last question again",
    "/undo": "forgets the last question and its answer",
    "/temperature": "N  0: always the likeliest token; more: more varied",
    "/topk": "N  draw among so many likeliest tokens; 0: all",
    "/topp": "N  draw among the likeliest tokens that together reach this probability; 1: all",
    "/tokens": "N  at most so many tokens an answer",
    "/seed": "N  the same seed gives the same answers",
    "/help": "shows this",
    "/quit": "or /exit, or Ctrl-D, ends the chat",
}
SETTINGS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "/temperature": ("temperature", float),
    "/topk": ("top_k", lambda text: int(text) or None),
    "/topp": ("top_p", float),
    "/tokens": ("max_new_tokens", int),
    "/seed": ("seed", int),
}
HELP = "\n".join(f"{name:13}{what}" for name, what in COMMANDS.items())
HELP += "\nCtrl-C       stops an answer\nAlt-Enter    begins a new line within a message\n"
WELCOME = "/clear forgets the conversation, /quit or Ctrl-D ends it, Ctrl-C stops an answer, /help tells more"
COMMAND = re.compile(r"(/[a-z]*)(?:\s+(.*))?", re.IGNORECASE | re.DOTALL)  # a path is none: /usr/bin
Read = Callable[[], str | None]


def chat(
    model_dir: Path,
    prompt: str | None = None,
    sampling: Sampling | None = None,
    device: str = "auto",
    history: Path | None = None,
) -> None:
    """Talks until told to stop; with a `prompt`, answers that and returns. `history` keeps the lines that were typed.

    Raises:
        ValueError: there is no model in `model_dir`, or the prompt does not fit into the context.
    """
    session = ChatSession(Chatbot(model_dir, device), sampling or Sampling(temperature=0.6, top_k=50))
    if prompt is not None:
        _print_answer(session, prompt)
        return
    print(WELCOME)
    read = _reader(history)
    while (text := read()) not in (None, "/quit", "/exit"):
        if found := COMMAND.fullmatch(text):
            text = _obey(session, found[1].lower(), found[2] or "")
        if text:
            try:
                _print_answer(session, text)
            except ValueError as error:  # this message cannot be answered, the next one may
                print(f"({error})")


def _obey(session: ChatSession, command: str, value: str) -> str:
    """Does what a command says; returns the question that is to be answered now, if any."""
    if command == "/clear":
        session.clear()
    elif command in ("/retry", "/undo"):
        text = session.undo()
        if not text:
            print("there is no question yet")
        elif command == "/retry":
            return text
    elif command in SETTINGS:
        name, read = SETTINGS[command]
        if value:
            try:
                session.sampling = replace(session.sampling, **{name: read(value)})
            except ValueError as error:
                print(f"({error})" if f"{name}=" in str(error) else f"{command} {value!r}: give a number")
                return ""
        print(f"{name} = {getattr(session.sampling, name) or 0}")
    else:
        print(HELP if command == "/help" else f"there is no {command}\n{HELP}", end="")
    return ""


def _reader(history: Path | None) -> Read:
    """Reads the next message: None at the end of the input, empty after Ctrl-C."""
    if sys.stdin.isatty() and sys.stdout.isatty():
        try:
            return _edited(history)
        except ImportError:  # a machine with nothing but torch: plain lines
            import_module("readline")  # input() edits lines once it is loaded
    return _plain


def _plain() -> str | None:
    try:
        return input("> ").strip()
    except KeyboardInterrupt:
        print()
        return ""
    except EOFError:
        print()
        return None


def _edited(history: Path | None) -> Read:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import WordCompleter
    from prompt_toolkit.history import FileHistory, InMemoryHistory
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

    keys = KeyBindings()

    @keys.add("enter")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    if history is not None:
        history.parent.mkdir(parents=True, exist_ok=True)
    session: PromptSession[str] = PromptSession(
        "> ",
        multiline=True,
        key_bindings=keys,
        prompt_continuation="  ",
        history=FileHistory(str(history)) if history is not None else InMemoryHistory(),
        completer=WordCompleter([*COMMANDS, "/exit"], sentence=True),
        complete_while_typing=False,
    )

    def read() -> str | None:
        try:
            return session.prompt().strip()
        except KeyboardInterrupt:
            return ""
        except EOFError:
            return None

    return read


def _print_answer(session: ChatSession, text: str) -> None:
    pieces = session.say(text)
    try:
        for piece in pieces:
            print(piece, end="", flush=True)
    except KeyboardInterrupt:
        print(" …", end="")
    finally:
        pieces.close()
        print()
