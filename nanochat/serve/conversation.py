"""From the messages of a request to the tokens that the model reads.

Promises: an answer that comes back, with its calls of the calculator as parts or written inline, `[12*34 = 408] `,
becomes the tokens that the model said, but only where the calculator gives that result; a conversation beyond the
context is refused, or loses its oldest turns and says how many; nothing is encoded that cannot fit. System messages
stay. Not here: the order of special tokens (nanochat/data/chat_template.py).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any, NoReturn

from nanochat.data.chat_template import render_prompt
from nanochat.data.tokenizer import Tokenizer
from nanochat.inference.tool_calls import FAILED
from nanochat.serve.errors import ApiError
from nanochat.serve.schema import AssistantMessage, Message, ToolPart
from nanochat.tools.calculator import evaluate

LEAST_ANSWER = 1 / 4  # of the context: room that old turns must leave for the next answer
LONGEST_CALL = 200  # characters: the calculator reads no more
MOST_LOOKED_AT = 256  # places of one answer that may be a call: bounds the time
RESULT = re.compile(rf" = (-?[\d.]{{1,40}}|{FAILED})\](?: |\Z)")  # how a call is shown; at the very end without a blank
PRECEDING = ("system", "developer")
Piece = str | ToolPart


@dataclass(frozen=True)
class Prompt:
    """What the model reads, and how many turns were left out of it."""

    tokens: list[int]
    forgotten: int = 0


@dataclass
class _Said:
    """Messages of one role in a row, as they were sent."""

    role: str
    pieces: list[Piece]

    @cached_property
    def message(self) -> dict[str, Any]:
        """As the chat template takes it."""
        if self.role != "assistant":
            return {"role": self.role, "content": "\n\n".join(map(str, self.pieces))}
        parts = (parts_of(piece) if isinstance(piece, str) else _call(piece) for piece in self.pieces)
        return {"role": self.role, "content": [part for some in parts for part in some]}

    @property
    def size(self) -> int:
        return sum(len(piece) if isinstance(piece, str) else len(piece.input + piece.output) for piece in self.pieces)


class _Memory:
    """A tokenizer that encodes no text twice."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer, self.known = tokenizer, dict[str, list[int]]()
        self.bos, self.special = tokenizer.bos, tokenizer.special

    def encode(self, text: str) -> list[int]:
        if text not in self.known:
            self.known[text] = self.tokenizer.encode(text)
        return self.known[text]


def prompt_of(
    tokenizer: Tokenizer, messages: Sequence[Message], context: int, max_new_tokens: int | None, forget: bool
) -> Prompt:
    """The tokens up to where the assistant is to speak.

    Args:
        tokenizer: of the model.
        messages: of the request, valid each by itself.
        context: tokens that prompt and answer may have together.
        max_new_tokens: of the answer, as far as the client said.
        forget: leave out the oldest turns where the conversation is too long, instead of refusing it.

    Raises:
        ApiError: the messages are no conversation, or too long.
    """
    system, turns = _turns(messages)
    memory: Any = _Memory(tokenizer)
    reserve = int(context * LEAST_ANSWER) if forget else 1
    reserve = min(reserve, max_new_tokens or reserve)

    def rendered(dropped: int) -> list[int] | None:
        """The prompt without the oldest turns; None where it is too long."""
        kept = [*system, *(said for turn in turns[dropped:] for said in turn)]
        if sum(said.size for said in kept) > most_characters(tokenizer, context):
            return None
        try:
            tokens = render_prompt(memory, [said.message for said in kept])
        except ValueError as error:
            raise ApiError(400, f"messages: {error}", "invalid_value", "messages") from error
        needed = reserve if dropped < len(turns) - 1 else 1
        return tokens if len(tokens) + needed <= context else None

    if (whole := rendered(0)) is not None:
        return Prompt(whole)
    low, high = 1, len(turns) - 1  # the fewest turns to leave out
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if rendered(middle) is not None else (middle + 1, high)
    kept = rendered(low) if forget and low < len(turns) else None
    return Prompt(kept, low) if kept is not None else too_long(context, "messages")


def too_long(context: int, param: str) -> NoReturn:
    """Refuses what does not fit."""
    message = f"the prompt is longer than the context of {context} tokens, of which at least one is for the answer"
    if param == "messages":
        message += ': shorten the conversation, or send truncation: "auto" to have its oldest turns forgotten'
    raise ApiError(400, message, "context_length_exceeded", param)


def most_characters(tokenizer: Tokenizer, context: int) -> int:
    """A text of more characters cannot fit into the context, however it is encoded."""
    return context * max(map(len, tokenizer.tokens))  # a character has a byte or more


def _turns(messages: Sequence[Message]) -> tuple[list[_Said], list[list[_Said]]]:
    """The system message, if any, and the turns: a question and its answer. Neighbours of one role are one message."""
    told: list[_Said] = []
    for index, message in enumerate(messages):
        role = "system" if message.role in PRECEDING else message.role
        if told and told[-1].role == role:
            told[-1].pieces += _pieces(message)
        elif told and role == "system":
            _refuse(index, "a system message must come first")
        else:
            told.append(_Said(role, _pieces(message)))
    if told[-1].role != "user":
        _refuse(len(messages) - 1, "the last message must be of the user")
    system = [told.pop(0)] if told[0].role == "system" else []
    if told[0].role != "user":
        _refuse(len(system), "the first message, but for system messages, must be of the user")
    return system, [told[at : at + 2] for at in range(0, len(told), 2)]


def _refuse(index: int, problem: str) -> NoReturn:
    raise ApiError(400, f"messages[{index}]: {problem}", "invalid_value", f"messages[{index}].role")


def _pieces(message: Message) -> list[Piece]:
    """What a message consists of: one text of system and user, texts and calls of an answer."""
    if not isinstance(message, AssistantMessage):
        return [message.content if isinstance(message.content, str) else "".join(part.text for part in message.content)]
    said = message.parts if message.parts is not None else message.content or ""
    return [said] if isinstance(said, str) else [part if isinstance(part, ToolPart) else part.text for part in said]


def parts_of(text: str) -> list[dict[str, str]]:
    """An answer as it was shown, in parts: what the calculator says of a call makes it one, all else is text."""
    parts: list[dict[str, str]] = []
    done = 0
    for found in islice(RESULT.finditer(text), MOST_LOOKED_AT):
        opening = _opening(text, max(done, found.start() - LONGEST_CALL - 1), found)
        if opening is None:
            continue
        parts += _text(text[done:opening])
        parts += _call(ToolPart(type="tool", input=text[opening + 1 : found.start()], output=found[1]))
        done = found.end()
    return parts + _text(text[done:])


def _opening(text: str, start: int, result: re.Match[str]) -> int | None:
    """Where the bracket of a shown call stands; None where the calculator does not give that result."""
    at = result.start()
    for _ in range(4):  # a call may hold brackets in quotes
        at = text.rfind("[", start, at)
        call = text[at + 1 : result.start()]
        if at < 0 or "\n" in call:
            return None
        if (evaluate(call) or FAILED) == result[1]:
            return at
    return None


def _text(text: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text}] if text else []


def _call(call: ToolPart) -> list[dict[str, str]]:
    return [{"type": "python", "text": call.input}, {"type": "python_output", "text": call.output}]
