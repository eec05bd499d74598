"""Answers are judged by what they say and not by what they are wrapped in."""

from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.data.chat_template import render_prompt
from nanochat.data.tokenizer import Tokenizer
from nanochat.tasks.answers import code_of, last_number, leading_number
from nanochat.tasks.arithmetic import Arithmetic
from nanochat.tasks.gsm8k import Gsm8k, final_number, parts
from nanochat.tasks.humaneval import program
from nanochat.tasks.smoltalk import SmolTalk
from nanochat.tasks.spelling import Spelling
from nanochat.tools import sandbox

PROMPT = 'from typing import List\n\n\ndef double(x: int) -> int:\n    """Twice x."""\n'
ROW = {
    "task_id": "t/0", "prompt": PROMPT, "entry_point": "double", "canonical_solution": "    return 2 * x\n",
    "test": "def check(candidate):\n    assert candidate(3) == 6\n",
}  # fmt: skip
FUNCTION = "def double(x: int) -> int:\n    y = 2 * x\n    return y\n"
BODY = "    y = 2 * x\n    return y\n"
IN_A_LIST = "".join(f"   {line}\n" for line in f"```python\n{FUNCTION}```".split("\n"))
WRAPPINGS = {
    "with an import from the future": "```python\nfrom __future__ import annotations\n\ndef double(x):\n    return 2 * x\n```",
    "with a blank before the bracket": "```python\ndef  double (x):\n    return 2 * x\n```",
    "as a lambda": "```python\ndouble = lambda x: 2 * x\n```",
    "set in as a whole": "```python\n    def double(x):\n        return 2 * x\n```",
    "with a stub behind it": '```python\ndef double(x):\n    return 2 * x\n```\nso\n```python\ndef double(x):\n    """That."""\n    ...\n```',
    "the rest, its first line at the margin": "y = 2 * x\n    return y",
    "the rest, the first line of its fence at the margin": "```python\ny = 2 * x\n    return y\n```",
    "the rest, a loop at the margin": "y = 0\nfor _ in range(2):\n    y += 2 * x - x\nreturn y",
    "the rest and prose": f"{BODY}\nThis doubles x, and isn't long.",
    "the rest after output": f"```\n4\n```\n```python\n{BODY}```",
    "the rest after an import": f"```python\nimport math\n```\n```python\n{BODY}```",
    "an import in one block": "```python\nimport math\n```\n```python\ndef double(x):\n    return math.floor(2 * x)\n```",
    "a helper and a constant in one block": "```python\nN = 0\ndef helped(x):\n    return 2 * x + N\n\nassert double(3) == 6\n```\n"
    "```python\ndef double(x):\n    return helped(x)\n```",
    "a helper after": "```python\ndef double(x):\n    return helped(x)\n```\nwith\n```python\ndef helped(x):\n    return 2 * x\n```",
    "an outline that raises behind it": f"```python\n{FUNCTION}```\n```python\ndef double(x):\n    raise NotImplementedError\n```",
    "half a definition behind it": f"```python\n{FUNCTION}```\n```python\ndef double(x):\n    # as above\n```",
    "a fence within the docstring": f'```python\ndef double(x):\n    """So:\n    ```\n    double(3)\n    ```\n    """\n{BODY}```\nDone.',
    "a fence at the end of a docstring's line": f'```python\ndef double(x):\n    """So ```\n    """\n{BODY}```\nDone.',
    "no line break after the fence": f"```{FUNCTION}```",
    "one line": "```def double(x): return 2 * x```",
    "quoted": "".join(f"> {line}\n" for line in f"So:\n```python\n{FUNCTION}```".split("\n")),
    "no-break spaces": f"```python\n{FUNCTION}```".replace("    ", "\u00a0" * 4),
    "set in as a whole, without a fence": "    def double(x):\n        return 2 * x\n",
    "a lambda among prose": "It is short.\n\ndouble = lambda x: 2 * x\n\nIsn't it?",
    "the future, without a fence": "from __future__ import annotations\n\ndef double(x: Odd) -> Odd:\n    return 2 * x\n",
    "an inner function of the same name": "    def double(y):\n        return 2 * x\n    return double(0)\n",
    "the rest of the function": BODY,
    "the rest, then a closing fence alone": f"{BODY}```",
    "the rest, a closing fence and prose": f"{BODY}```\nThis doubles x.",
    "the rest in a fence": f"```python\n{BODY}```",
    "the rest in a fence, from the margin": "```python\ny = 2 * x\nreturn y\n```",
    "the function": FUNCTION,
    "the function with a closing fence alone": f"{FUNCTION}```",
    "the function with a closing fence and prose": f"{FUNCTION}```\n\nIt works because of arithmetic.",
    "the whole program": PROMPT + BODY,
    "fence": f"```\n{FUNCTION}```",
    "python": f"```python\n{FUNCTION}```",
    "py": f"```py\n{FUNCTION}```",
    "python3": f"```python3\n{FUNCTION}```",
    "Python": f"```Python\n{FUNCTION}```",
    "a blank before the language": f"``` python\n{FUNCTION}```",
    "more after the language": f'```python title="double.py"\n{FUNCTION}```',
    "tildes": f"~~~\n{FUNCTION}~~~",
    "tildes with a language": f"~~~python\n{FUNCTION}~~~",
    "four backticks": f"````python\n{FUNCTION}````",
    "an open fence": f"```python\n{FUNCTION}",
    "a fence that ends on the last line": f"```python\n{FUNCTION.rstrip()}```",
    "prose before": f"Here you are:\n\n```python\n{FUNCTION}```",
    "prose before and after": f"Sure!\n```python\n{FUNCTION}```\nHope it helps.",
    "prose without a fence": f"Here is the function:\n\n{FUNCTION}\nIt doubles x.",
    "imports and prose without a fence": f"Sure:\nimport math\n\n{FUNCTION}",
    "an example first": f"```python\n>>> double(3)\n6\n```\nSo:\n```python\n{FUNCTION}```",
    "a call first": f"```python\nprint(double(3))\n```\nThe function:\n```python\n{FUNCTION}```",
    "a shell block first": f"```bash\npip install nothing\n```\n```python\n{FUNCTION}```",
    "output after": f"```python\n{FUNCTION}```\nOutput:\n```\n6\n```",
    "a test after": f"```python\n{FUNCTION}```\n```python\ndef test_double():\n    assert double(1) == 2\n```",
    "a main program below": f"```python\n{FUNCTION}\nif __name__ == '__main__':\n    print(double(int(input())))\n```",
    "in a list": f"1. The function:\n\n{IN_A_LIST}\n2. Done.",
    "windows line ends": f"```python\n{FUNCTION}```".replace("\n", "\r\n"),
    "a helper and the function": f"```python\ndef help(x):\n    return x\n\n\n{FUNCTION}```",
    "a first draft": "```python\ndef double(x):\n    return x\n```\nNo:\n```python\n" + FUNCTION + "```",
}  # fmt: skip


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_a_right_program_is_right_in_any_wrapping_and_a_wrong_one_wrong(wrapping):
    answer = WRAPPINGS[wrapping]
    for said, right in ((answer, True), (answer.replace("2 * x", "3 * x"), False)):
        names: dict[str, object] = {"__name__": "answer"}
        exec(program(ROW, said), names)  # written in this file, not by a model
        assert (names["double"](3) == 6) is right, program(ROW, said)


@pytest.mark.parametrize(
    "wrapping",
    ["python", "in a list", "the rest, then a closing fence alone", "an example first", "a main program below"],
)
def test_the_sandbox_says_the_same(wrapping):
    if sandbox.unavailable():
        pytest.skip("no sandbox here")
    tests = PROMPT + "\n    pass\n\n" + ROW["test"]
    for said, outcome in ((WRAPPINGS[wrapping], True), (WRAPPINGS[wrapping].replace("2 * x", "3 * x"), False)):
        assert (sandbox.passes(program(ROW, said), "double", tests).outcome == "finished") is outcome


@pytest.mark.parametrize(
    "answer", ["", "I cannot do that.", "```\n```", "```python\nclass A:\n    def double(x): ...\n```"]
)
def test_an_answer_without_the_function_is_no_function(answer):
    assert "def double(" not in code_of(answer, "double").replace("    def double", "")


PIECES = ["```", "```python", "~~~", "\n", "    ", "def double(x):", "return x", "double = ", "lambda x: 2", "import math", "(", '"""',
          "> ", "\u00a0", "\ud83d", "\0", "\r", "x=1", "class A:", "@", "-" * 3000 + "1", "1", "\u00bd", "/", ",", "."]  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=25).map("".join))
def test_any_answer_becomes_a_program_and_a_number_or_none(said):
    assert program(ROW, said)
    assert {type(last_number(said)), type(leading_number(said))} <= {Decimal, type(None)}


def test_an_answer_is_set_in_as_far_as_its_prompt_and_async_is_a_definition():
    prompt = 'def double(x):\n  """Twice x."""\n'
    assert program({**ROW, "prompt": prompt}, "y = 2 * x\nreturn y") == f"{prompt}  y = 2 * x\n  return y"
    assert (
        code_of("Here:\nasync def double(x):\n    return x\nSo it is.", "double")
        == "async def double(x):\n    return x"
    )


FORMS = [
    "{n}", "{n:,}", "{n}.0", "{n}.", "${n:,}", "$ {n}", "£{n}", "€{n:,}", "**{n}**", "**{n:,}**", "*{n}*", "`{n}`", "_{n}_",
    "\\boxed{{{n}}}", "$\\boxed{{{n:,}}}$", "\\({n}\\)", "\\${n:,}.00", "{n} dollars", "{n}%", "  {n}", "\n{n}",
]  # fmt: skip
SPACES = [" ", "\u00a0", "\u202f", "\u2009", "{,}", "\\,", "'"]


@given(st.integers(-(10**9), 10**9), st.sampled_from(FORMS), st.sampled_from(["", *SPACES]), st.booleans())
def test_a_number_reads_the_same_in_any_form(number, form, separator, typographic):
    said = form.format(n=number)
    said = said.replace(",", separator) if separator and "{n:,}" in form else said
    said = said.replace("-", "\N{MINUS SIGN}") if typographic else said
    assert leading_number(said) == number, said
    assert final_number(f"So it is 7.\n#### {said}") == number


@pytest.mark.parametrize(
    "said",
    ["1/2", "\u00bd", "2\u00bd", "2 \u00bd", "1\u00b2", "5 1/2", "1e3", "10^3", "3:45", "5-3", "5\u20133", "1,2", "1,2,3", "1.234.567",
     "0x10", "1\u20442", "12-15", "\\frac{1}{2}", "\\frac{3}{4} of it"],
)  # fmt: skip
def test_what_is_another_number_than_its_first_digits_is_none(said):
    assert final_number(f"#### {said}") is None
    with pytest.raises(ValueError, match="needs to end with `#### number`"):
        Gsm8k.normalise({"question": "?", "answer": f"#### 3\n#### {said}"})


@pytest.mark.parametrize(
    "said",
    ["= 72", "(72)", "[72]", '"72"', "\u201c72\u201d", "\u2248 72", "~72", "<b>72</b>", "USD 72", "US$72", "\u20b972",
     "\\mathrm{72}", "#72", "The answer is 72.", "72 apples", "72%", "72 / month", "72, of which 3", "72 - it is"],
)  # fmt: skip
def test_a_number_in_other_wrappings(said):
    assert final_number(f"#### {said}") == 72


def test_an_en_dash_is_a_minus_and_groups_may_be_of_two():
    assert final_number("#### \u20135") == -5
    assert final_number("#### 1,00,000") == 100_000


@pytest.mark.parametrize(
    ("said", "number"),
    [
        ("#### 1{,}234", 1234), ("#### 1 234", 1234), ("#### 12 345 678", 12345678), ("#### 7 2", 7), ("#### 1234 5", 1234),
        ("#### -$5", -5), ("#### $-5", -5), ("#### \u22125", -5), ("#### .5", Decimal("0.5")), ("#### 3.50", Decimal("3.5")),
        ("#### x", None), ("72", None), ("#### 3\n#### ?", 3), ("####", None), ("#### seventy 2", None), ("#### 1,23", None),
    ],
)  # fmt: skip
def test_what_a_person_would_read(said, number):
    assert final_number(said) == number


@pytest.mark.parametrize(
    ("said", "number"),
    [
        ("1 234", 1234), ("That makes 1\u202f234.", 1234), ("1234.0", 1234), ("\u2013234", -234), ("- 5", -5), ("is - 5.", -5),
        ("7 - 5", 5), ("7-5 = 2", 2), ("(3)-5=-2", -2), ("t r1 r2. It is 2", 2), ("r1 e r2", 2), ("-$5", -5), ("**7**.", 7), ("5?", 5),
        ("1/2", None), ("2, 1,2", None), ("it is 3:45", None), ("1.234.567", None), ("1e3", None), ("Answer:46", 46), (".5", 0.5),
        ("12 345 678 and 1,000", 1000), ("GPT-5", 5), ("12-34", None), ("x", None),
        ("1 / 2", None), ("2\u00bd", None), ("2 \u00bd", None), ("10\u00b2", None), ("\\frac{1}{2}", None), ("10^{3}", None),
    ],
)  # fmt: skip
def test_the_last_number_is_read_as_a_number(said, number):
    assert last_number(said) == number


@pytest.mark.parametrize(
    "said",
    ["c; a; t", "c/a/t", "c | a | t", "c \u2192 a \u2192 t", "c\u2014a\u2014t", "\u2018c\u2019 \u2018a\u2019 \u2018t\u2019",
     "c \u00b7 a \u00b7 t", "c a t!", "[c, a, t]", "(c)(a)(t)", "1. c 2. a 3. t", "1) c\n2) a\n3) t", "cat: c a t", "\uff43 \uff41 \uff54",
     "c, a, and t", "C-A-T"],
)  # fmt: skip
def test_letters_are_read_whatever_stands_between_them(said, monkeypatch):
    task = Spelling("test")
    monkeypatch.setattr(task, "word", lambda _: "cat")
    assert task.correct(0, said)
    for wrong in (
        said.replace("t", "s"),
        said + " s",
        said.replace("c", "c 4 "),
        said.replace("a", "at").replace("\uff41", "aa"),
    ):
        assert wrong == said or not task.correct(0, wrong), wrong
    monkeypatch.setattr(task, "word", lambda _: "and")
    assert task.correct(0, "and: a n d")
    assert not task.correct(0, "a, n, and d, and")
    assert not task.correct(0, "and")


def test_the_generated_tasks_read_as_people_do():
    task = Spelling("test")
    word = task.word(0)
    for said in (" ".join(word), "-".join(word), ", ".join(word.upper()) + ".", f"**{' '.join(word)}**"):
        assert task.correct(0, said), said
    for said in (word, " ".join(word[:-1]), " ".join(word) + " s", ""):
        assert not task.correct(0, said), said
    sums = Arithmetic("test")
    result = next(int(each["text"].split()[-1].rstrip(".")) for each in [{"text": f"That makes {_result(sums)}."}])
    for said in (f"**{result}**", f"That makes {result:,}.", f"\\boxed{{{result}}}"):
        assert sums.correct(0, said), said
    assert not sums.correct(0, str(result + 1))


def _result(task):
    a, sign, b = task.problem(0)
    return {"+": a + b, "-": a - b, "*": a * b}[sign]


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("It is <<24>>24.\n#### 24", "It is 24.\n#### 24"), ("<<=24>>24", "24"), ("<<>>x", "x"), ("<<24=>>24", "24"),
        ("a << b", "a << b"), ("<<1+1=2", "<<1+1=2"),
    ],
)  # fmt: skip
def test_a_mark_without_a_calculation_is_no_tool_call(answer, text):
    made = parts(answer)
    assert all(part["type"] == "text" for part in made)
    assert "".join(part["text"] for part in made) == text


def test_a_chain_of_equations_is_one_call():
    assert parts("<<2*3=6=6>>6")[:2] == [{"type": "python", "text": "2*3"}, {"type": "python_output", "text": "6"}]


def test_an_empty_system_message_says_nothing():
    tokenizer = Tokenizer(tuple(bytes([byte]) for byte in range(256)))
    plain = [{"role": "user", "content": "hi"}]
    for content in ("", " \n"):
        assert render_prompt(tokenizer, [{"role": "system", "content": content}, *plain]) == render_prompt(
            tokenizer, plain
        )
    with pytest.raises(ValueError, match=r"message 0 \(system\)"):
        render_prompt(tokenizer, [{"role": "system", "content": ""}])
    messages = [*plain, {"role": "assistant", "content": "yo"}]
    assert SmolTalk.normalise({"messages": [{"role": "system", "content": ""}, *messages]}) == {"messages": messages}
