"""Conversations as tokens: what a model reads, and which of the tokens it learns to say.

<|bos|>, then for every message <|user_start|> text <|user_end|> or <|assistant_start|> answer <|assistant_end|>. A
leading system message becomes the beginning of the first user message, there being no token for it. Promises: text can
never become a special token; the mask is 1 for all that the assistant says, the tokens that call a tool and that end
its turn included, and 0 for everything else, what a tool answers included. Not here: packing into rows, sampling.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from nanochat.data.tokenizer import Tokenizer

Message = Mapping[str, Any]
Rendered = tuple[list[int], list[int]]  # token ids, and for each whether the assistant says it
EncodeBatch = Callable[[list[str]], Iterable[Sequence[int]]]
PARTS = ("text", "python", "python_output")


def render(tokenizer: "Tokenizer", messages: Sequence[Message]) -> Rendered:
    """Token ids of a whole conversation and their mask: 1 where the token is one that the assistant says.

    Raises:
        ValueError: the messages are no conversation that ends with an answer; names the message.
    """
    pieces = _conversation(messages)
    return _assembled(tokenizer, pieces, iter([tokenizer.encode(text) for piece in pieces for text in piece.texts]))


def render_batch(
    tokenizer: "Tokenizer", conversations: Iterable[Sequence[Message]], encode_batch: EncodeBatch
) -> Iterator[Rendered]:
    """What `render` gives for each conversation; their texts are encoded all at once by `encode_batch`.

    Raises:
        ValueError: as `render`.
    """
    split = [_conversation(messages) for messages in conversations]
    encoded = iter(encode_batch([text for pieces in split for piece in pieces for text in piece.texts]))
    return (_assembled(tokenizer, pieces, encoded) for pieces in split)


def render_prompt(tokenizer: "Tokenizer", messages: Sequence[Message]) -> list[int]:
    """Token ids up to where the assistant is to speak; a last message of the assistant, the reference, is left out.

    Raises:
        ValueError: the messages are no conversation; names the message.
    """
    merged = _merged(messages)
    if merged[-1]["role"] == "assistant":
        merged = merged[:-1]
    pieces = [piece for message in merged for piece in _message(message)]
    encoded = iter([tokenizer.encode(text) for piece in pieces for text in piece.texts])
    return [*_assembled(tokenizer, pieces, encoded)[0], tokenizer.special("<|assistant_start|>")]


def check(messages: Sequence[Message]) -> None:
    """ValueError, as `render` has it, where the messages are no conversation to learn from."""
    _conversation(messages)


def truncate(ids: list[int], mask: list[int], length: int) -> tuple[list[int], list[int]] | None:
    """The first `length` tokens; None where nothing is left of what the assistant says."""
    ids, mask = ids[:length], mask[:length]
    return (ids, mask) if any(mask) else None


class _Piece(NamedTuple):
    """A part of a message between special tokens, with whether the assistant says it."""

    opening: str
    text: str | None
    closing: str
    said: int

    @property
    def texts(self) -> list[str]:
        return [] if self.text is None else [self.text]


def _conversation(messages: Sequence[Message]) -> list[_Piece]:
    """The pieces of a whole conversation, which ends with an answer."""
    merged = _merged(messages)
    if merged[-1]["role"] != "assistant":
        raise _wrong(len(messages) - 1, "user", "a conversation to learn from ends with a message of the assistant")
    return [piece for message in merged for piece in _message(message)]


def _assembled(tokenizer: "Tokenizer", pieces: Iterable[_Piece], encoded: Iterator[Sequence[int]]) -> Rendered:
    """<|bos|> and the pieces; `encoded` gives the tokens of their texts in turn."""
    ids, mask = [tokenizer.bos], [0]
    for piece in pieces:
        before = len(ids)
        if piece.opening:
            ids.append(tokenizer.special(piece.opening))
        if piece.text is not None:
            ids += next(encoded)
        if piece.closing:
            ids.append(tokenizer.special(piece.closing))
        mask += [piece.said] * (len(ids) - before)
    return ids, mask


def _message(message: Message) -> list[_Piece]:
    content = message["content"]
    if message["role"] == "user":
        return [_Piece("<|user_start|>", content, "<|user_end|>", 0)]
    pieces = [_Piece("<|assistant_start|>", None, "", 0)]
    for part in [{"type": "text", "text": content}] if isinstance(content, str) else content:
        if part["type"] == "text":
            pieces.append(_Piece("", part["text"], "", 1))
        elif part["type"] == "python":
            pieces.append(_Piece("<|python_start|>", part["text"], "<|python_end|>", 1))
        else:
            pieces.append(_Piece("<|output_start|>", part["text"], "<|output_end|>", 0))
    return [*pieces, _Piece("", None, "<|assistant_end|>", 1)]


def _merged(messages: Sequence[Message]) -> list[Message]:
    """The messages without a leading system message, which opens the first user message, before a blank line."""
    if not messages:
        raise ValueError("a conversation without messages: give at least one of the user")
    for index, message in enumerate(messages):
        _check(index, message)
    merged = list(messages)
    if messages[0]["role"] == "system" and isinstance(said := messages[0]["content"], str) and not said.strip():
        if len(messages) == 1:
            raise _wrong(0, "system", "says nothing, and nothing follows it")
        merged = list(messages[1:])  # says nothing
    elif messages[0]["role"] == "system":
        if len(messages) == 1 or messages[1]["role"] != "user":
            raise _wrong(0, "system", "must be followed by a message of the user, which it becomes a part of")
        merged = [{"role": "user", "content": f"{messages[0]['content']}\n\n{messages[1]['content']}"}, *messages[2:]]
    skipped = len(messages) - len(merged)
    for index, message in enumerate(merged):
        expected = ("user", "assistant")[index % 2]
        if message["role"] != expected:
            raise _wrong(
                index + skipped, message["role"], f"it is the turn of the {expected}: user and assistant alternate"
            )
    return merged


def _check(index: int, message: Message) -> None:
    role, content = message.get("role"), message.get("content")
    if role not in ("system", "user", "assistant"):
        raise _wrong(index, role, "the role must be system, user or assistant")
    if isinstance(content, str):
        return
    if role != "assistant" or not isinstance(content, list):
        allowed = "text or a list of parts" if role == "assistant" else "text"
        raise _wrong(index, role, f"the content must be {allowed}, not {content!r}")
    before = None
    for part in content:
        kind = part.get("type")
        if kind not in PARTS or not isinstance(part.get("text"), str):
            raise _wrong(index, role, f"the part {part!r} must have a type ({', '.join(PARTS)}) and a text")
        if kind == "python_output" and before != "python":
            raise _wrong(index, role, "a python_output must follow a python part")
        before = kind


def _wrong(index: int, role: object, problem: str) -> ValueError:
    return ValueError(f"message {index} ({role}): {problem}")
