"""The tokenizer: text to token ids and back, and its JSON file.

Byte-level BPE: the 256 single bytes, then the learnt tokens by rank, then nine special tokens, which no text can ever
produce. Promises that decoding gives back the text and that every id has the length of its raw bytes, whatever UTF-8
makes of them. Encoding is tiktoken's where it is installed, else `python_bpe`'s, token for token the same. Not here:
training (stages/tokenizer.py), conversations (chat_template.py).
"""

from __future__ import annotations

import json
import os
from base64 import b64decode, b64encode
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nanochat.data.python_bpe import SPLIT_PATTERN, PlainEncoder
from nanochat.data.special_tokens import BOS, SPECIAL_TOKENS

if TYPE_CHECKING:
    import tiktoken

FORMAT = "nanochat-tokenizer-1"
_SINGLE_BYTES = tuple(bytes([byte]) for byte in range(256))


@dataclass(frozen=True)
class Tokenizer:
    """`tokens` are the bytes of the ordinary tokens by id; the special tokens have the ids after them."""

    tokens: tuple[bytes, ...]
    pattern: str = SPLIT_PATTERN

    def __post_init__(self) -> None:
        if self.tokens[:256] != _SINGLE_BYTES:
            raise ValueError("the first 256 tokens must be the 256 single bytes in order: train the tokenizer again")
        if len(self._ranks) != len(self.tokens) or b"" in self._ranks:
            raise ValueError("tokens must be distinct and not empty: train the tokenizer again")

    @classmethod
    def from_file(cls, path: Path) -> Tokenizer:
        """Reads what `save` wrote; ValueError names the file and what is wrong with it."""
        try:
            return cls._from_fields(json.loads(path.read_text(encoding="utf-8")))
        except ValueError as error:
            raise ValueError(f"{path} is not a tokenizer of nanochat: {error}") from error

    @classmethod
    def _from_fields(cls, fields: Any) -> Tokenizer:
        if not isinstance(fields, dict) or fields.get("format") != FORMAT:
            raise ValueError(f'"format" is not {FORMAT!r}')
        if fields.get("special_tokens") != list(SPECIAL_TOKENS):
            raise ValueError(f'"special_tokens" are not {", ".join(SPECIAL_TOKENS)}')
        pattern, tokens = fields.get("pattern"), fields.get("tokens")
        if not isinstance(pattern, str) or not isinstance(tokens, list) or not all(isinstance(t, str) for t in tokens):
            raise ValueError('"pattern" must be a string and "tokens" a list of base64 strings')
        return cls(tuple(b64decode(token, validate=True) for token in tokens), pattern)

    def save(self, path: Path) -> None:
        """Writes the tokenizer as JSON, one token a line."""
        fields = {
            "format": FORMAT,
            "pattern": self.pattern,
            "special_tokens": SPECIAL_TOKENS,
            "tokens": [b64encode(token).decode() for token in self.tokens],
        }
        path.write_text(json.dumps(fields, indent=1) + "\n", encoding="utf-8")

    @property
    def vocab_size(self) -> int:
        return len(self.tokens) + len(SPECIAL_TOKENS)

    @property
    def bos(self) -> int:
        return self.special(BOS)

    @property
    def terminals(self) -> tuple[int, int]:
        """The tokens that end an answer."""
        return self.special("<|assistant_end|>"), self.bos

    def special(self, name: str) -> int:
        """The id of a special token."""
        if name not in SPECIAL_TOKENS:
            raise ValueError(f"{name!r} is no special token: choose one of {', '.join(SPECIAL_TOKENS)}")
        return len(self.tokens) + SPECIAL_TOKENS.index(name)

    def encode(self, text: str) -> list[int]:
        """The tokens of `text`; the name of a special token in it is text like any other.

        Half a surrogate pair, which stands for no character, costs a character: it is read as U+FFFD.
        """
        return self._encoder.encode_ordinary(whole_characters(text))

    def encode_batch(self, texts: Sequence[str], threads: int = 0) -> list[list[int]]:
        """The tokens of each text, on that many threads (0: one per core)."""
        return self._encoder.encode_ordinary_batch(list(texts), num_threads=threads or os.cpu_count() or 1)

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes that the tokens stand for; a special token stands for its name."""
        return b"".join(map(self._bytes_of, ids))

    def decode(self, ids: Iterable[int]) -> str:
        """The text of the tokens; bytes that are not UTF-8 become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def token_bytes(self) -> np.ndarray:
        """Raw byte length of each token, int32 (vocab_size,); 0 for special tokens, which stand for no text."""
        return np.array([len(token) for token in self.tokens] + [0] * len(SPECIAL_TOKENS), dtype=np.int32)

    def _bytes_of(self, token: int) -> bytes:
        if not 0 <= token < self.vocab_size:
            raise ValueError(f"token {token} does not exist: ids go from 0 to {self.vocab_size - 1}")
        learnt = len(self.tokens)
        return self.tokens[token] if token < learnt else SPECIAL_TOKENS[token - learnt].encode()

    @cached_property
    def _ranks(self) -> dict[bytes, int]:
        return {token: rank for rank, token in enumerate(self.tokens)}

    @cached_property
    def _encoder(self) -> tiktoken.Encoding | PlainEncoder:
        try:
            import tiktoken
        except ImportError:
            return PlainEncoder(self.pattern, self._ranks)
        return tiktoken.Encoding("nanochat", pat_str=self.pattern, mergeable_ranks=self._ranks, special_tokens={})


def whole_characters(text: str) -> str:
    """The text as UTF-8 can hold it: the two halves of a surrogate pair become its character, a lone one U+FFFD."""
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def bytes_per_token(tokenizer: Tokenizer, texts: Sequence[str]) -> float:
    """How much text a token stands for: UTF-8 bytes over tokens."""
    tokens = sum(map(len, tokenizer.encode_batch(texts)))
    return sum(len(text.encode()) for text in texts) / max(tokens, 1)
