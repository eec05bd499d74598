"""Tokens to text as they come: whole characters only, special tokens by name, cut before the first stop string.

What may be the beginning of a stop string or of a character is held back until it is known. Promises: the pieces joined
are the text that `Tokenizer.decode` gives, up to the stop string. Not here: who ends an answer otherwise.
"""

import codecs
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nanochat.data.tokenizer import Tokenizer


class TextStream:
    """The text of one answer. `stopped` is True once a stop string was completed."""

    def __init__(self, tokenizer: "Tokenizer", stop: Sequence[str] = ()) -> None:
        self.tokenizer, self.stop, self.stopped = tokenizer, tuple(stop), False
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""  # text that a stop string may begin in

    def push(self, token: int) -> str:
        """What becomes readable with this token."""
        special = token >= self.tokenizer.bos  # the special tokens follow the learned ones, <|bos|> first
        text = self._utf8.decode(b"" if special else self.tokenizer.decode_bytes([token]), final=special)
        return self._released(text + (self.tokenizer.decode([token]) if special else ""))

    def flush(self) -> str:
        """What was held back, at the end of the answer."""
        text = self._released(self._utf8.decode(b"", final=True))
        held, self._held = self._held, ""
        return text if self.stopped else text + held

    def _released(self, text: str) -> str:
        if self.stopped or not self.stop:
            return "" if self.stopped else text
        self._held += text
        found = [at for stop in self.stop if (at := self._held.find(stop)) >= 0]
        if found:
            self.stopped, text, self._held = True, self._held[: min(found)], ""
            return text
        keep = max(_overlap(self._held, stop) for stop in self.stop)
        cut = len(self._held) - keep
        text, self._held = self._held[:cut], self._held[cut:]
        return text


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of `text` are the beginning of `stop`."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
