"""What was shown becomes what was said: calls of the calculator, wherever they stand, and nothing that only looks like it.

Not covered: special tokens (tests/data/test_chat_template.py).
"""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from nanochat.data.chat_template import render, render_prompt
from nanochat.inference.chat import SHOWN
from nanochat.inference.text_stream import TextStream
from nanochat.inference.tool_calls import FAILED
from nanochat.serve import answers
from nanochat.serve.conversation import parts_of, prompt_of
from nanochat.serve.errors import ApiError
from nanochat.serve.schema import Message
from nanochat.serve.wire import Piece
from nanochat.tools.calculator import evaluate
from tests.serve.server import TOKENIZER

MESSAGES = TypeAdapter(list[Message])


def shown(parts):
    """As the terminal and the stream show it."""
    marks = {"text": "{}", "python": "[{}", "python_output": " = {}] "}
    return "".join(marks[part["type"]].format(part["text"]) for part in parts)


def call(expression):
    return [{"type": "python", "text": expression}, {"type": "python_output", "text": evaluate(expression) or FAILED}]


EXPRESSIONS = st.sampled_from(
    ["1+1", "12*34", '"a]b".count("]")', '"x = y".count("=")', "1/0", "garden", "1,000*2", '"[[".count("[")']
)
PLAIN = st.text(st.characters(exclude_characters="[]=", exclude_categories=["Cs"]), min_size=1, max_size=12)


@given(
    st.lists(
        st.one_of(PLAIN.map(lambda text: [{"type": "text", "text": text}]), EXPRESSIONS.map(call)),
        min_size=1,
        max_size=6,
    )
)
def test_an_answer_as_it_was_shown_is_taken_apart_as_it_was_said(pieces):
    parts = []
    for piece in (part for some in pieces for part in some):
        if parts and piece["type"] == parts[-1]["type"] == "text":
            parts[-1] = {"type": "text", "text": parts[-1]["text"] + piece["text"]}
        else:
            parts.append(piece)
    assert parts_of(shown(parts)) == parts


@pytest.mark.parametrize(
    "text",
    [
        "[1+1 = 3] no",
        "[1+1 =2] no",
        "[1+1 = 2]no",
        "1+1 = 2] no",
        "[see = below] no",
        "[1+1\n = 2] no",
        "a[0] = 3] no",
        "",
    ],
)
def test_what_the_calculator_does_not_say_stays_text(text):
    assert parts_of(text) == ([{"type": "text", "text": text}] if text else [])


def test_the_end_of_an_answer_may_have_lost_its_blank():
    assert parts_of("It is [6*7 = 42]") == [{"type": "text", "text": "It is "}, *call("6*7")]


@given(st.text(max_size=60))
def test_no_text_is_lost(text):
    assert shown(parts_of(text)) in (text, text + " ")


def test_a_text_made_to_be_slow_is_not():
    began = time.thread_time()
    for text in ("[" * 2**19, "[[[[[ = 1] " * 2**15, " = 1] " * 2**16, "[" * 200 + " = 1] " * 2**16):
        parts_of(text)
    assert time.thread_time() - began < 20  # it would be minutes


def test_marks_are_shown_as_the_terminal_shows_them():
    assert answers.INLINE == SHOWN


def prompt(messages, context=1000, new=None, forget=False):
    return prompt_of(TOKENIZER, MESSAGES.validate_python(messages), context, new, forget)


def test_the_prompt_is_the_chat_template_s():
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "6*7?"},
        {"role": "assistant", "content": "[6*7 = 42] OK."},
        {"role": "user", "content": "And?"},
    ]
    said = [*call("6*7"), {"type": "text", "text": "OK."}]
    template = [*messages[:2], {"role": "assistant", "content": said}, messages[3]]
    assert prompt(messages).tokens == render_prompt(TOKENIZER, template)
    before = render(TOKENIZER, template[:3])[0]
    assert prompt(messages).tokens[: len(before)] == before


@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=12), st.integers(20, 200), st.one_of(st.none(), st.integers(1, 99)),
    st.booleans(),
)  # fmt: skip
def test_as_few_turns_are_forgotten_as_must_be(lengths, context, new, system):
    """Oracle: leave out one after the other."""
    first = [{"role": "system", "content": "S"}] * system
    turns = [[{"role": "user", "content": "q" * n}, {"role": "assistant", "content": "a" * n}] for n in lengths]
    turns[-1].pop()
    reserve = min(context // 4, new or context)

    def size(dropped):
        kept = [message for turn in turns[dropped:] for message in turn]
        return len(render_prompt(TOKENIZER, [*first, *kept]))

    fitting = [n for n in range(len(turns)) if size(n) + (reserve if n < len(turns) - 1 else 1) <= context]
    messages = [*first, *(message for turn in turns for message in turn)]
    if not fitting:
        with pytest.raises(ApiError, match="context"):
            prompt(messages, context, new, forget=True)
        return
    made = prompt(messages, context, new, forget=True)
    assert made.forgotten == fitting[0]
    assert len(made.tokens) == size(fitting[0])


def test_nothing_is_encoded_that_cannot_fit(monkeypatch):
    def never(self, text):
        raise AssertionError(len(text))

    monkeypatch.setattr(type(TOKENIZER), "encode", never)
    with pytest.raises(ApiError) as raised:
        prompt([{"role": "user", "content": " " * 2**20}])
    assert raised.value.code == "context_length_exceeded"


def heard(pieces, separate):
    voice = answers.Voice(0, TOKENIZER, separate)
    return [event for piece in pieces for event in voice.hear([piece])], voice


def pieces_of(text_or_name, finish=None):
    name = text_or_name
    token = TOKENIZER.special(name) if name.startswith("<|") else 65
    return Piece(0, token, name, False, 0.0, (), finish)


def test_an_answer_that_is_cut_within_a_call_tells_what_there_is():
    said = [pieces_of(each) for each in ("A", "<|python_start|>", "6", "*")]
    last = pieces_of("7", "length")
    events, voice = heard([*said, last], separate=True)
    assert events == [{"content": "A"}, {"tool": {"input": "6*7", "output": ""}}]
    assert (voice.finish, voice.tokens) == ("length", 5)
    assert answers.text_of(heard([*said, last], separate=False)[0]) == "A[6*7"


@pytest.mark.parametrize("stop", [(), ("a call", "b=")])
@pytest.mark.parametrize("before", ["", "a", "b", "\N{LATIN SMALL LETTER E WITH ACUTE}".encode()[:1]])
def test_what_was_held_back_before_a_call_makes_it_no_text(before, stop):
    call = ["<|python_start|>", *b"6*7", "<|python_end|>", "<|output_start|>", *b"42", "<|output_end|>"]
    before = before.encode() if isinstance(before, str) else before
    tokens = [TOKENIZER.special(each) if isinstance(each, str) else each for each in [*before, *call]]
    stream = TextStream(TOKENIZER, stop)
    pieces = [Piece(0, token, stream.push(token), False, 0.0, (), None) for token in tokens]
    text = before.decode("utf-8", "replace")
    told = [{"content": text}] * bool(text)
    assert heard(pieces, separate=True)[0] == [*told, {"tool": {"input": "6*7", "output": "42"}}]
    assert answers.text_of(heard(pieces, separate=False)[0]) == f"{text}[6*7 = 42] "


def test_the_name_of_a_special_token_in_a_text_is_text():
    written = Piece(0, 65, "<|python_start|>", False, 0.0, (), None)
    assert (
        heard([written], separate=True)[0] == heard([written], separate=False)[0] == [{"content": "<|python_start|>"}]
    )


def test_a_mark_out_of_place_breaks_nothing():
    names = [
        "<|output_end|>",
        "<|python_end|>",
        "<|output_start|>",
        "x",
        "<|python_start|>",
        "<|python_start|>",
        "<|output_end|>",
    ]
    events, _ = heard([pieces_of(name) for name in names], separate=True)
    assert events[0] == {"content": "x"}
    assert all("tool" in event for event in events[1:])
