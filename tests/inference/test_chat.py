"""The terminal chat streams, remembers, forgets with a word, and is stopped by the keys that stop things.

The model is real, its weights a table of what follows what, so that every answer is known. Standard input and output are
replaced, the code under them is not.
"""

import io
import itertools
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from nanochat.data.tokenizer import Tokenizer
from nanochat.inference import terminal
from nanochat.inference.chat import Chatbot, ChatSession, answers, readable
from nanochat.inference.sampling import Sampling
from nanochat.inference.terminal import chat
from nanochat.model.config import GPTConfig
from nanochat.model.gpt import GPT
from nanochat.model.weights import save_model
from tests.paths import ROOT

TOKENIZER = Tokenizer(tuple(bytes([byte]) for byte in range(256)))
START, END = TOKENIZER.special("<|assistant_start|>"), TOKENIZER.special("<|assistant_end|>")
CALL, CALLED = TOKENIZER.special("<|python_start|>"), TOKENIZER.special("<|python_end|>")
RESULTED = TOKENIZER.special("<|output_end|>")
GREEDY = Sampling(20)


@pytest.fixture
def model_dir(tmp_path: Path) -> Path:
    """Always answers `[6*7 = 42] OK.`"""
    model = GPT(GPTConfig.classic(1, TOKENIZER.vocab_size, 64, width=272, head_dim=16))
    model.init_weights(0)
    said = [START, CALL, *b"6*7", CALLED], [RESULTED, *b"OK.", END]
    with torch.no_grad():
        model.wte.weight.copy_(torch.eye(TOKENIZER.vocab_size, 272))
        for chain in said:
            for token, following in itertools.pairwise(chain):
                model.lm_head.weight[following, token] = 5.0
    save_model(model, tmp_path, stage="rl")
    TOKENIZER.save(tmp_path / "tokenizer.json")
    return tmp_path


def typed(monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(line + "\n" for line in lines)))


def conversation(model_dir: Path, max_new_tokens: int = 20) -> ChatSession:
    return ChatSession(Chatbot(model_dir, "cpu"), Sampling(max_new_tokens))


def test_one_question_is_answered_and_that_is_all(model_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chat(model_dir, prompt="What is 6*7?", sampling=GREEDY, device="cpu")
    assert capsys.readouterr().out == "[6*7 = 42] OK.\n"


def test_questions_are_answered_together(model_dir: Path) -> None:
    assert answers(model_dir, ["Hi", "a longer question"]) == ["[6*7 = 42] OK."] * 2
    assert answers(model_dir, []) == []


@pytest.mark.parametrize("last", [["/quit"], ["/exit"], []], ids=["quit", "exit", "end of input"])
def test_a_conversation_goes_on_until_it_is_ended(
    model_dir: Path, last: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    typed(monkeypatch, "Hi", "", "more", *last)
    chat(model_dir, sampling=GREEDY)
    out = capsys.readouterr().out
    assert out.count("[6*7 = 42] OK.\n") == 2
    assert "/quit" in out.splitlines()[0]


def test_the_answer_comes_in_pieces_and_the_turns_are_remembered_as_tokens(model_dir: Path) -> None:
    talk = conversation(model_dir)
    assert list(talk.say("Hi")) == ["[", "6", "*", "7", "", " = ", "4", "2", "] ", "O", "K", "."]
    assert "".join(talk.say("Ho")) == "[6*7 = 42] OK."
    first, second = talk.turns
    assert TOKENIZER.decode(first).startswith("<|user_start|>Hi<|user_end|><|assistant_start|><|python_start|>6*7")
    assert TOKENIZER.decode(second).endswith("<|output_end|>OK.<|assistant_end|>")
    talk.clear()
    assert talk.turns == []


def test_an_answer_that_is_cut_ends_its_turn_all_the_same(model_dir: Path) -> None:
    talk = conversation(model_dir, max_new_tokens=3)
    assert "".join(talk.say("Hi")) == "[6*"
    assert TOKENIZER.decode(talk.turns[0]).endswith("<|python_start|>6*<|assistant_end|>")


def test_when_the_context_is_full_the_oldest_turns_are_forgotten_with_a_word(model_dir: Path) -> None:
    talk = conversation(model_dir)
    said = ["".join(talk.say(f"question {number}")) for number in range(4)]
    assert said[:2] == ["[6*7 = 42] OK."] * 2
    assert said[2:] == ["(the context is full: forgot the oldest 1 turn)\n[6*7 = 42] OK."] * 2
    assert ["question 2" in TOKENIZER.decode(talk.turns[0]), "question 3" in TOKENIZER.decode(talk.turns[1])] == [
        True,
        True,
    ]


def test_a_text_beyond_the_context_costs_no_old_turn(model_dir: Path) -> None:
    talk = conversation(model_dir)
    "".join(talk.say("Hi"))
    with pytest.raises(ValueError, match="a prompt of 70 tokens"):
        "".join(talk.say("x" * 66))
    assert talk.texts == ["Hi"]
    assert len(talk.turns) == 1


def test_clear_forgets(model_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    typed(monkeypatch, "question 1", "/clear", "question 2", "/quit")
    chat(model_dir, sampling=GREEDY)
    assert "forgot" not in capsys.readouterr().out


def test_a_text_beyond_the_context_is_refused_and_the_conversation_goes_on(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError, match="a prompt of 70 tokens: the context takes 1 to 63; shorten the conversation"):
        chat(model_dir, prompt="x" * 66)
    typed(monkeypatch, "x" * 66, "Hi")
    capsys.readouterr()
    chat(model_dir, sampling=GREEDY)
    assert "(a prompt of 70 tokens" in (out := capsys.readouterr().out)
    assert "forgot" not in out
    assert "[6*7 = 42] OK." in out


def test_commands_are_obeyed_and_unknown_ones_are_not_questions(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [
        "/temperature 0.5",
        "/topk 3",
        "/topk",
        "/topp 7",
        "/tokens lots",
        "/nonsense",
        "/nonsense of mine",
        "/retry",
    ]
    typed(monkeypatch, *lines, "/help", "/undo", "/quit")
    chat(model_dir, sampling=GREEDY)
    out = capsys.readouterr().out
    assert "OK." not in out
    assert "> temperature = 0.5\n> top_k = 3\n> top_k = 3\n> (top_p=7.0: must be above 0 and at most 1" in out
    assert "/tokens 'lots': give a number" in out
    assert out.count("there is no /nonsense") == 2
    assert out.count(terminal.HELP) == 3
    assert out.count("there is no question yet") == 2


def test_a_question_is_answered_again_and_taken_back(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    talk = conversation(model_dir)
    "".join(talk.say("Hi"))
    assert (talk.undo(), talk.turns, talk.undo()) == ("Hi", [], "")
    typed(monkeypatch, "Hi", "/retry", "/usr/bin is a folder", "/quit")
    chat(model_dir, sampling=GREEDY)
    assert capsys.readouterr().out.count("[6*7 = 42] OK.") == 3


def test_several_lines_are_edited_sent_and_remembered(model_dir: Path, tmp_path: Path) -> None:
    """In a terminal of its own, as a person types: Alt-Enter, Enter, Ctrl-C, Ctrl-D."""
    home = tmp_path / "home"
    program = "import sys; from pathlib import Path; from nanochat.inference.terminal import chat; "
    program += "chat(Path(sys.argv[1]), history=Path(sys.argv[2]), device='cpu')"
    command = [sys.executable, "-c", program, str(model_dir), str(home / "history")]
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, cwd=ROOT, env={**os.environ, "TERM": "vt100"}
    )
    os.close(theirs)
    screen = ""

    def wait_for(text: str) -> None:
        nonlocal screen
        while text not in screen:
            screen += os.read(ours, 4096).decode(errors="replace")
        screen = screen[screen.index(text) + len(text) :]

    ready = "\x1b[?2004h"  # bracketed paste: the editor is reading keys
    wait_for(ready)
    os.write(ours, b"one\x1b\rtwo\r")
    wait_for("OK.")
    wait_for(ready)
    os.write(ours, b"half\x03")
    wait_for(ready)
    os.write(ours, b"\x04")
    assert process.wait(60) == 0
    os.close(ours)
    kept = (home / "history").read_text(encoding="utf-8")
    assert "+one\n+two\n" in kept
    assert "half" not in kept


class Stopped(io.StringIO):
    """A terminal in which somebody presses Ctrl-C when O appears."""

    def write(self, text: str) -> int:
        if text == "O":
            raise KeyboardInterrupt
        return super().write(text)


def test_ctrl_c_stops_the_answer_and_not_the_conversation(model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    typed(monkeypatch, "Hi", "Ho")
    monkeypatch.setattr("sys.stdout", terminal := Stopped())
    chat(model_dir, sampling=GREEDY)
    assert terminal.getvalue().count("[6*7 = 42]  …\n") == 2


class Hesitant(io.StringIO):
    """A keyboard on which Ctrl-C is pressed before the first line."""

    pressed = False

    def readline(self, *size: int) -> str:
        if not self.pressed:
            self.pressed = True
            raise KeyboardInterrupt
        return super().readline(*size)


def test_ctrl_c_at_the_prompt_starts_a_new_line(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", Hesitant("Hi\n"))
    chat(model_dir, sampling=GREEDY)
    assert "> \n> [6*7 = 42] OK.\n> \n" in capsys.readouterr().out


def test_tool_calls_are_shown_as_people_read_them() -> None:
    text = "So <|python_start|>1+2<|python_end|><|output_start|>3<|output_end|>that is 3."
    assert readable(text) == "So [1+2 = 3] that is 3."


def test_where_there_is_no_model_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no model in"):
        chat(tmp_path, prompt="Hi")
