"""Conversations become tokens and masks as the golden examples say, written by hand, and nothing else becomes them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat.data.chat_template import render, render_prompt, truncate
from nanochat.data.tokenizer import SPECIAL_TOKENS, Tokenizer

BYTES = Tokenizer(tuple(bytes([byte]) for byte in range(256)))  # one token a byte, so that goldens can be read
SHORT = dict(zip("BUuAaPpOo", SPECIAL_TOKENS, strict=True))  # small letter: end


def spelled(golden: str) -> tuple[list[int], list[int]]:
    """`<B>` is a special token, any other character itself; what stands between { and } is learned."""
    ids, mask, said, at = [], [], 0, 0
    while at < len(golden):
        if golden[at] in "{}":
            said, at = int(golden[at] == "{"), at + 1
            continue
        if golden[at] == "<" and golden[at + 2] == ">":
            ids.append(BYTES.special(SHORT[golden[at + 1]]))
            at += 3
        else:
            ids.append(ord(golden[at]))
            at += 1
        mask.append(said)
    return ids, mask


def user(text):
    return {"role": "user", "content": text}


def assistant(content):
    return {"role": "assistant", "content": content}


def part(kind, text):
    return {"type": kind, "text": text}


TOOL = [part("text", "ok "), part("python", "6*7"), part("python_output", "42"), part("text", "It is 42")]
GOLDEN = {
    "one question": ([user("Hi"), assistant("Yo")], "<B><U>Hi<u><A>{Yo<a>}"),
    "two turns": (
        [user("a"), assistant("b"), user("c"), assistant("d")],
        "<B><U>a<u><A>{b<a>}<U>c<u><A>{d<a>}",
    ),
    "a system message opens the first user message": (
        [{"role": "system", "content": "Be brief."}, user("Hi"), assistant("Yo")],
        "<B><U>Be brief.\n\nHi<u><A>{Yo<a>}",
    ),
    "a tool call is learned, its answer is not": (
        [user("6*7?"), assistant(TOOL)],
        "<B><U>6*7?<u><A>{ok <P>6*7<p>}<O>42<o>{It is 42<a>}",
    ),
    "the end of an empty answer is learned": ([user("a"), assistant("")], "<B><U>a<u><A>{<a>}"),
    "an answer without parts too": ([user("a"), assistant([])], "<B><U>a<u><A>{<a>}"),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_golden(name):
    messages, golden = GOLDEN[name]
    assert render(BYTES, messages) == spelled(golden)


def test_prompt_ends_where_the_assistant_is_to_speak():
    asked = [user("a"), assistant("b"), user("c")]
    expected = spelled("<B><U>a<u><A>b<a><U>c<u><A>")[0]
    assert render_prompt(BYTES, asked) == expected
    assert render_prompt(BYTES, [*asked, assistant("the reference")]) == expected
    assert render_prompt(BYTES, [{"role": "system", "content": "s"}, user("a")]) == spelled("<B><U>s\n\na<u><A>")[0]


@given(st.text(), st.text(), st.lists(st.tuples(st.sampled_from(["text", "python"]), st.text())))
def test_the_mask_covers_what_is_said_and_the_prompt_is_what_precedes_it(question, system, parts):
    messages = [{"role": "system", "content": system}, user(question), assistant([part(*each) for each in parts])]
    ids, mask = render(BYTES, messages)
    prompt = render_prompt(BYTES, messages)
    assert len(ids) == len(mask)
    assert ids[: len(prompt)] == prompt
    assert not any(mask[: len(prompt)])
    assert all(mask[len(prompt) :])  # no tool has answered
    said = [i for i in ids[len(prompt) :] if i < 256]
    assert bytes(said).decode() == "".join(text for _, text in parts)


@pytest.mark.parametrize("name", SPECIAL_TOKENS)
def test_text_never_becomes_a_special_token(name):
    messages = [user(name), assistant([part("text", name), part("python", name), part("python_output", name)])]
    ids, _ = render(BYTES, messages)
    assert [i for i in ids if i >= 256] == [i for i in render(BYTES, GOLDEN_TOOL)[0] if i >= 256]
    assert BYTES.decode([i for i in ids if i < 256]) == name * 4


GOLDEN_TOOL = [user(""), assistant([part("text", ""), part("python", ""), part("python_output", "")])]


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "a conversation without messages"),
        ([assistant("a")], r"message 0 \(assistant\): it is the turn of the user"),
        ([user("a"), user("b")], r"message 1 \(user\): it is the turn of the assistant"),
        ([user("a"), assistant("b"), assistant("c")], r"message 2 \(assistant\): it is the turn of the user"),
        ([{"role": "system", "content": "s"}, user("a"), user("b")], r"message 2 \(user\): it is the turn"),
        ([{"role": "system", "content": "s"}], r"message 0 \(system\): must be followed by a message of the user"),
        ([user("a"), {"role": "system", "content": "s"}], r"message 1 \(system\): it is the turn of the assistant"),
        ([{"role": "bot", "content": "a"}], r"message 0 \(bot\): the role must be"),
        ([user(["a"])], r"message 0 \(user\): the content must be text, not"),
        ([user("a"), assistant(7)], r"message 1 \(assistant\): the content must be text or a list of parts, not 7"),
        ([user("a"), assistant([part("image", "x")])], r"message 1 \(assistant\): the part .* must have a type"),
        ([user("a"), assistant([{"type": "text"}])], r"message 1 \(assistant\): the part .* must have a type"),
        ([user("a"), assistant([part("python_output", "x")])], "a python_output must follow a python part"),
        ([user("a")], r"message 0 \(user\): a conversation to learn from ends with a message of the assistant"),
    ],
)
def test_what_is_no_conversation_is_refused_by_message(messages, message):
    with pytest.raises(ValueError, match=message):
        render(BYTES, messages)


def test_truncation_keeps_a_beginning_that_says_something_or_nothing():
    ids, mask = spelled("<B><U>Hi<u><A>{Yo<a>}")
    assert truncate(ids, mask, 8) == (ids[:8], mask[:8])
    assert truncate(ids, mask, 100) == (ids, mask)
    assert truncate(ids, mask, 6) is None  # the question alone
