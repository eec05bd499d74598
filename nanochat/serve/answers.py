"""From what the engine says, piece by piece, to what a client reads: chunks of a stream, or a whole answer.

Promises: a stream, put together, is the whole answer; text comes in whole characters; a call of the calculator is
within the text (`[12*34 = 408] `) or beside it, as the client wishes; log-probabilities are of exactly the tokens that
were sent. Not here: the transport (app.py).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from nanochat.data.tokenizer import Tokenizer
from nanochat.inference.tool_calls import SHOWN as INLINE
from nanochat.serve.wire import Piece

OPEN, CLOSED, RESULT, RESULTED = "<|python_start|>", "<|python_end|>", "<|output_start|>", "<|output_end|>"
Event = dict[str, Any]  # {"content": text} or {"tool": {"input", "output"}}


class Voice:
    """One of the answers to a request, as it is said."""

    def __init__(self, index: int, tokenizer: Tokenizer, separate: bool = False) -> None:
        self.index, self.tokenizer, self.separate = index, tokenizer, separate
        self.terminals = tokenizer.terminals
        self.tokens = 0
        self.finish: str | None = None
        self._call: dict[str, str] | None = None  # the open call
        self._into = ""  # which part of it is being said

    def hear(self, pieces: Iterable[Piece]) -> list[Event]:
        """What the pieces add for the client, texts joined."""
        events: list[Event] = []
        for piece in pieces:
            self.tokens += piece.token >= 0
            self._take(piece, events)
            if piece.finish is not None:
                self.finish = "stop" if piece.finish == "stop" else "length"
                self._close(events)
        return events

    def is_told(self, piece: Piece) -> bool:
        """Whether the token belongs to the answer: all do but the one that ends the turn."""
        return piece.token >= 0 and piece.token not in self.terminals

    def _take(self, piece: Piece, events: list[Event]) -> None:
        name = self.tokenizer.decode([piece.token]) if piece.token >= self.tokenizer.bos else ""
        if name not in INLINE or not piece.text.endswith(name):
            self._say(piece.text, events)
            return
        self._say(piece.text.removesuffix(name), events)  # what was held back until this token
        if self.separate:
            self._mark(name, events)
        else:
            _add(events, INLINE[name])

    def _say(self, text: str, events: list[Event]) -> None:
        if self._call is not None:
            self._call[self._into] += text
        else:
            _add(events, text)

    def _mark(self, name: str, events: list[Event]) -> None:
        if name == OPEN:
            self._close(events)
            self._call, self._into = {"input": "", "output": ""}, "input"
        elif name == RESULT and self._call is not None:
            self._into = "output"
        elif name == RESULTED:
            self._close(events)

    def _close(self, events: list[Event]) -> None:
        if self._call is not None:
            events.append({"tool": self._call})
            self._call = None


def _add(events: list[Event], text: str) -> None:
    if not text:
        return
    if events and "content" in events[-1]:
        events[-1]["content"] += text
    else:
        events.append({"content": text})


def parts_of(events: Iterable[Event]) -> list[dict[str, str]]:
    """The events of a whole answer as its parts."""
    texts: list[Event] = []
    for event in events:
        if "content" in event:
            _add(texts, event["content"])
        else:
            texts.append(event)
    return [
        {"type": "text", "text": each["content"]} if "content" in each else {"type": "tool", **each["tool"]}
        for each in texts
    ]


def text_of(events: Iterable[Event]) -> str:
    """The text alone."""
    return "".join(event.get("content", "") for event in events)


def chat_log_probs(tokenizer: Tokenizer, pieces: Iterable[Piece]) -> list[dict[str, Any]]:
    """An entry for each token, as chat completions have it."""
    return [
        {
            **_entry(tokenizer, piece.token, piece.log_prob),
            "top_logprobs": [_entry(tokenizer, token, log_prob) for token, log_prob in piece.top],
        }
        for piece in pieces
    ]


def _entry(tokenizer: Tokenizer, token: int, log_prob: float) -> dict[str, Any]:
    raw = tokenizer.decode_bytes([token])
    return {"token": raw.decode("utf-8", "replace"), "logprob": log_prob, "bytes": list(raw)}


def completion_log_probs(tokenizer: Tokenizer, pieces: Iterable[Piece], top: int, offset: int) -> dict[str, Any]:
    """The four lists of completions; `offset` is how many characters were sent before."""
    told = list(pieces)
    names, offsets = [tokenizer.decode([piece.token]) for piece in told], []
    for piece in told:
        offsets.append(offset)
        offset += len(piece.text)
    tops = [{tokenizer.decode([token]): log_prob for token, log_prob in piece.top} for piece in told]
    return {
        "tokens": names,
        "token_logprobs": [piece.log_prob for piece in told],
        "top_logprobs": tops if top else None,
        "text_offset": offsets,
    }
