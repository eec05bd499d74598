"""Talking to a model: `chat` in the terminal, `answers` for a list of questions, `Chatbot` beneath both.

Promises: answers stream as they are made, tool calls are shown as [12*34 = 408]; Ctrl-C stops the answer and keeps the
conversation, Ctrl-D ends it; when the context is full the oldest turns are forgotten, and it says so. Not here: a web
page, several users at once, several turns of one answer through a sandbox.
"""

import re
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from nanochat.data.chat_template import render_prompt
from nanochat.inference.engine import Engine
from nanochat.inference.load import load
from nanochat.inference.sampling import check_settings

Messages = Sequence[Mapping[str, Any]]

SHOWN = {"<|python_start|>": "[", "<|python_end|>": "", "<|output_start|>": " = ", "<|output_end|>": "] "}
LEAST_ANSWER = 1 / 4  # of the context: room that old turns must leave for the next answer
COMMANDS = {
    "/clear": "forgets the conversation",
    "/help": "shows this",
    "/quit": "or /exit, or Ctrl-D, ends the chat",
}
HELP = "\n".join(f"{name:8}{what}" for name, what in COMMANDS.items()) + "\nCtrl-C  stops an answer"
WELCOME = "/clear forgets the conversation, /quit or Ctrl-D ends it, Ctrl-C stops an answer, /help tells more"


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
    """The turns so far, as the tokens that the model read and said."""

    def __init__(self, bot: Chatbot, max_new_tokens: int, temperature: float, top_k: int | None) -> None:
        self.bot, self.max_new_tokens, self.temperature, self.top_k = bot, max_new_tokens, temperature, top_k
        self.turns: list[list[int]] = []  # each a question and its answer, without <|bos|>
        self.asked = 0

    def clear(self) -> None:
        """Forgets all turns."""
        self.turns = []

    def say(self, text: str) -> Generator[str]:
        """The answer in pieces. What has been said when the caller stops reading stays in the conversation.

        Raises:
            ValueError: the text alone is too long for the context.
        """
        bos, *question = render_prompt(self.bot.tokenizer, _messages(text))
        forgotten = self._make_room(len(question) + 1)
        if forgotten:
            yield f"(the context is full: forgot the oldest {forgotten} {'turn' if forgotten == 1 else 'turns'})\n"
        prompt = [bos, *(token for turn in self.turns for token in turn), *question]
        said: list[int] = []
        try:
            for piece in self.bot.engine.pieces(self._noted(prompt, said)):
                yield SHOWN.get(piece, piece)
        finally:
            end = self.bot.tokenizer.special("<|assistant_end|>")
            if said:
                self.turns.append(question + said + [end] * (said[-1] != end))

    def _noted(self, prompt: list[int], said: list[int]) -> Iterator[int]:
        self.asked += 1  # the seed: the same question again may get another answer
        settings = (self.max_new_tokens, self.temperature, self.top_k, self.asked)
        for token in self.bot.engine.stream_tokens(prompt, *settings):
            said.append(token)
            yield token

    def _make_room(self, needed: int) -> int:
        """Drops the oldest turns until the question and an answer fit; returns how many."""
        reserve = min(self.max_new_tokens, int(self.bot.context * LEAST_ANSWER))
        dropped = 0
        while self.turns and needed + reserve + sum(map(len, self.turns)) > self.bot.context:
            del self.turns[0]
            dropped += 1
        return dropped


def chat(
    model_dir: Path,
    prompt: str | None = None,
    temperature: float = 0.6,
    top_k: int | None = 50,
    max_new_tokens: int = 256,
    device: str = "auto",
) -> None:
    """Talks in the terminal until told to stop; with a `prompt`, answers that and returns.

    Raises:
        ValueError: there is no model in `model_dir`, a setting is out of its range, or the prompt does not fit into the
            context.
    """
    check_settings(max_new_tokens, temperature, top_k)
    conversation = ChatSession(Chatbot(model_dir, device), max_new_tokens, temperature, top_k)
    if prompt is not None:
        _print_answer(conversation, prompt)
        return
    print(WELCOME)
    while (text := _read()) not in (None, "/quit", "/exit"):
        if text == "/clear":
            conversation.clear()
        elif re.fullmatch(r"/[a-z]*", text):  # one word; a path or a question that begins with / is for the model
            print(HELP if text == "/help" else f"there is no {text}\n{HELP}")
        elif text:
            try:
                _print_answer(conversation, text)
            except ValueError as error:  # this message cannot be answered, the next one may
                print(f"({error})")


def answers(model_dir: Path, prompts: Sequence[str], max_new_tokens: int = 256, device: str = "auto") -> list[str]:
    """The likeliest answer to each question, tool calls shown; raises ValueError as `chat`."""
    return Chatbot(model_dir, device).answers(prompts, max_new_tokens)


def readable(text: str) -> str:
    """An answer with its tool calls as people read them: `[12*34 = 408] That makes 408.`"""
    for name, shown in SHOWN.items():
        text = text.replace(name, shown)
    return text.strip()


def _read() -> str | None:
    """The next line, stripped; empty after Ctrl-C, None at the end of the input."""
    try:
        return input("> ").strip()
    except KeyboardInterrupt:
        print()
        return ""
    except EOFError:
        print()
        return None


def _print_answer(conversation: ChatSession, text: str) -> None:
    pieces = conversation.say(text)
    try:
        for piece in pieces:
            print(piece, end="", flush=True)
    except KeyboardInterrupt:
        print(" …", end="")
    finally:
        pieces.close()
        print()


def _messages(conversation: str | Messages) -> Messages:
    return [{"role": "user", "content": conversation}] if isinstance(conversation, str) else conversation
