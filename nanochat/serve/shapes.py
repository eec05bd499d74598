"""What an answer looks like in OpenAI's interface: chat completions and completions, whole and in chunks.

Promises: `schema.py` describes it. Not here: what is said (answers.py), and when (exchange.py).
"""

from __future__ import annotations

import secrets
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from nanochat.data.tokenizer import Tokenizer
from nanochat.serve import answers
from nanochat.serve.answers import Event, Voice
from nanochat.serve.wire import Piece

Choice = dict[str, Any]


class Shape:
    """The answers to one request; `samples` of each ticket, numbered through."""

    object, chunk_object, prefix = "", "", ""

    def __init__(
        self,
        model: str,
        tokenizer: Tokenizer,
        prompts: Sequence[Sequence[int]],
        samples: int,
        top_log_probs: int | None,
        separate: bool = False,
        forgotten: int = 0,
    ) -> None:
        self.id, self.created, self.model = f"{self.prefix}-{secrets.token_hex(12)}", int(time.time()), model
        self.tokenizer, self.samples, self.top_log_probs = tokenizer, samples, top_log_probs
        self.separate, self.forgotten = separate, forgotten
        self.prompt_tokens, self.shared = sum(map(len, prompts)), 0
        self.voices = [Voice(index, tokenizer, separate) for index in range(len(prompts) * samples)]
        self.events: dict[int, list[Event]] = defaultdict(list)
        self.pieces: dict[int, list[Piece]] = defaultdict(list)

    def hear(self, ticket: int, pieces: Iterable[Piece]) -> None:
        """Keeps what was said, for `whole`."""
        for voice, told in self._by_voice(ticket, pieces):
            self.events[voice.index] += voice.hear(told)
            if self.top_log_probs is not None:
                self.pieces[voice.index] += filter(voice.is_told, told)

    def _by_voice(self, ticket: int, pieces: Iterable[Piece]) -> Iterator[tuple[Voice, list[Piece]]]:
        said: dict[int, list[Piece]] = {}
        for piece in pieces:
            self.shared += piece.shared
            said.setdefault(ticket * self.samples + piece.sample, []).append(piece)
        return ((self.voices[index], told) for index, told in said.items())

    @property
    def usage(self) -> dict[str, Any]:
        said = sum(voice.tokens for voice in self.voices)
        total = self.prompt_tokens + said
        counts = {"prompt_tokens": self.prompt_tokens, "completion_tokens": said, "total_tokens": total}
        return {**counts, "forgotten_turns": self.forgotten, "prompt_tokens_details": {"cached_tokens": self.shared}}

    def whole(self, timings: dict[str, float]) -> dict[str, Any]:
        """The answer that is not streamed."""
        choices = [self.choice(voice) for voice in self.voices]
        return {**self._head(self.object), "choices": choices, "usage": self.usage, "timings": timings}

    def last(self, timings: dict[str, float]) -> dict[str, Any]:
        """The chunk that tells the tokens."""
        return {**self._head(self.chunk_object), "choices": [], "usage": self.usage, "timings": timings}

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}

    def chunk(self, choice: Choice, include_usage: bool) -> dict[str, Any]:
        return {**self._head(self.chunk_object), "choices": [choice], **({"usage": None} if include_usage else {})}

    def opening(self, include_usage: bool) -> Iterator[dict[str, Any]]:
        """Chunks before anything is said."""
        return iter(())

    def chunks(self, ticket: int, pieces: Iterable[Piece], include_usage: bool) -> Iterator[dict[str, Any]]:
        """Chunks for what was said."""
        for voice, told in self._by_voice(ticket, pieces):
            for choice in self.choices(voice, voice.hear(told), list(filter(voice.is_told, told))):
                yield self.chunk(choice, include_usage)

    def choice(self, voice: Voice) -> Choice:
        raise NotImplementedError

    def choices(self, voice: Voice, events: list[Event], told: list[Piece]) -> Iterator[Choice]:
        raise NotImplementedError


class Chat(Shape):
    """Of /v1/chat/completions."""

    object, chunk_object, prefix = "chat.completion", "chat.completion.chunk", "chatcmpl"

    def choice(self, voice: Voice) -> Choice:
        events = self.events[voice.index]
        message: dict[str, Any] = {"role": "assistant", "content": answers.text_of(events)}
        if self.separate:
            message["parts"] = answers.parts_of(events)
        return {"index": voice.index, "message": message, "logprobs": self._log_probs(self.pieces[voice.index]),
                "finish_reason": voice.finish}  # fmt: skip

    def opening(self, include_usage: bool) -> Iterator[dict[str, Any]]:
        for voice in self.voices:
            yield self.chunk(self._delta(voice, {"role": "assistant", "content": ""}), include_usage)

    def choices(self, voice: Voice, events: list[Event], told: list[Piece]) -> Iterator[Choice]:
        log_probs = self._log_probs(told) if told else None
        for event in events or [{"content": ""}] * bool(log_probs):
            yield self._delta(voice, event, log_probs)
            log_probs = None
        if voice.finish is not None:
            yield self._delta(voice, {}, log_probs, voice.finish)

    def _delta(
        self, voice: Voice, delta: Event, log_probs: dict[str, Any] | None = None, finish: str | None = None
    ) -> Choice:
        return {"index": voice.index, "delta": delta, "logprobs": log_probs, "finish_reason": finish}

    def _log_probs(self, pieces: list[Piece]) -> dict[str, Any] | None:
        return None if self.top_log_probs is None else {"content": answers.chat_log_probs(self.tokenizer, pieces)}


class Text(Shape):
    """Of /v1/completions."""

    object, chunk_object, prefix = "text_completion", "text_completion", "cmpl"

    def choice(self, voice: Voice) -> Choice:
        return self._text(voice, answers.text_of(self.events[voice.index]), self.pieces[voice.index], voice.finish, 0)

    def choices(self, voice: Voice, events: list[Event], told: list[Piece]) -> Iterator[Choice]:
        text = answers.text_of(events)
        if not text and voice.finish is None and self.top_log_probs is None:
            return
        yield self._text(voice, text, told, voice.finish, len(answers.text_of(self.events[voice.index])))
        self.events[voice.index] += events

    def _text(self, voice: Voice, text: str, told: list[Piece], finish: str | None, offset: int) -> Choice:
        top = self.top_log_probs
        log_probs = None if top is None else answers.completion_log_probs(self.tokenizer, told, top, offset)
        return {"index": voice.index, "text": text, "logprobs": log_probs, "finish_reason": finish}
