"""Talking to a model: `answers` for a list of questions, `ChatSession` for turns, `Chatbot` beneath both.

Promises: answers stream as they are made, tool calls are shown as [12*34 = 408]; what was said when the reader stops is
remembered; when the context is full the oldest turns are forgotten, and it says so. Not here: the terminal
(terminal.py), a web page (serve/), several turns of one answer through a sandbox.
"""

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from nanochat.data.chat_template import render_prompt
from nanochat.inference.engine import Engine
from nanochat.inference.load import load
from nanochat.inference.sampling import Sampling
from nanochat.inference.tool_calls import SHOWN

Messages = Sequence[Mapping[str, Any]]

LEAST_ANSWER = 1 / 4  # of the context: room that old turns must leave for the next answer


class Chatbot:
    """A model with its tokenizer, ready to answer. Raises ValueError where `model_dir` holds none."""

    def __init__(self, model_dir: Path, device: str = "auto") -> None:
        model, self.tokenizer = load(model_dir, device)
        self.engine, self.context = Engine(model, self.tokenizer), model.config.sequence_len

    def answers(
        self,
        conversations: Sequence[str | Messages],
        max_new_tokens: int = 256,
        temperature: float = 0.0,
        top_k: int | None = None,
        seed: int = 0,
    ) -> list[str]:
        """One answer to each question or list of messages, all decoded together; raises as `Engine.generate`."""
        prompts = [render_prompt(self.tokenizer, _messages(conversation)) for conversation in conversations]
        completions = self.engine.generate(prompts, max_new_tokens, temperature, top_k, seed)
        return [readable(completion.text) for completion in completions]


class ChatSession:
    """The turns so far, as the tokens that the model read and said. `sampling` may be replaced between them."""

    def __init__(self, bot: Chatbot, sampling: Sampling) -> None:
        self.bot, self.sampling = bot, sampling
        self.turns: list[list[int]] = []  # each a question and its answer, without <|bos|>
        self.texts: list[str] = []  # the questions
        self.asked = 0

    def clear(self) -> None:
        """Forgets all turns."""
        self.turns, self.texts = [], []

    def undo(self) -> str:
        """Forgets the newest turn and returns its question; empty where there is none."""
        if not self.turns:
            return ""
        del self.turns[-1]
        return self.texts.pop()

    def say(self, text: str) -> Generator[str]:
        """The answer in pieces. What has been said when the caller stops reading stays in the conversation.

        Raises:
            ValueError: the text alone is too long for the context.
        """
        bos, *question = render_prompt(self.bot.tokenizer, _messages(text))
        self.bot.engine.scheduler.check([bos, *question])  # before old turns are forgotten for it
        forgotten = self._make_room(len(question) + 1)
        if forgotten:
            yield f"(the context is full: forgot the oldest {forgotten} {'turn' if forgotten == 1 else 'turns'})\n"
        prompt = [bos, *(token for turn in self.turns for token in turn), *question]
        said: list[int] = []
        try:
            for piece in self.bot.engine.pieces(self._noted(prompt, said)):
                yield readable(piece, strip=False)
        finally:
            end = self.bot.tokenizer.special("<|assistant_end|>")
            if said:
                self.turns.append(question + said + [end] * (said[-1] != end))
                self.texts.append(text)

    def _noted(self, prompt: list[int], said: list[int]) -> Iterator[int]:
        seed = self.sampling.seed + self.asked  # the same question again may get another answer
        self.asked += 1
        for delta in self.bot.engine.stream_deltas(prompt, replace(self.sampling, seed=seed)):
            said.append(delta.token)
            yield delta.token

    def _make_room(self, needed: int) -> int:
        """Drops the oldest turns until the question and an answer fit; returns how many."""
        reserve = min(self.sampling.max_new_tokens, int(self.bot.context * LEAST_ANSWER))
        dropped = 0
        while self.turns and needed + reserve + sum(map(len, self.turns)) > self.bot.context:
            del self.turns[0], self.texts[0]
            dropped += 1
        return dropped


def answers(model_dir: Path, prompts: Sequence[str], max_new_tokens: int = 256, device: str = "auto") -> list[str]:
    """The likeliest answer to each question, tool calls shown; raises ValueError as `Chatbot`."""
    return Chatbot(model_dir, device).answers(prompts, max_new_tokens)


def readable(text: str, strip: bool = True) -> str:
    """An answer with its tool calls as people read them: `[12*34 = 408] That makes 408.`"""
    for name, shown in SHOWN.items():
        text = text.replace(name, shown)
    return text.strip() if strip else text


def _messages(conversation: str | Messages) -> Messages:
    return [{"role": "user", "content": conversation}] if isinstance(conversation, str) else conversation
