"""The calculator is exact, bounded, and silent about everything else; the oracle is Python on fractions."""

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.tools.calculator import LARGEST, MAX_CHARACTERS, evaluate


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("1+2*3", "7"),
        (" ( 1 + 2 ) * 3 ", "9"),
        ("7-10", "-3"),
        ("8-3-2", "3"),
        ("64/4/2", "8"),
        ("-3*-(2+1)", "9"),
        ("2--3", "5"),
        ("10/4", "2.5"),
        ("1/3", "0.333333"),
        ("2/3", "0.666667"),
        ("1/3*3", "1"),
        ("-1/300000", "-0.00000333333"),
        ("100000000000001/3", "33333333333333.666667"),
        ("0.1+0.2", "0.3"),
        ("7.", "7"),
        (".5*4", "2"),
        ("1.50", "1.5"),
        ("1,234*2", "2468"),
        ("1,000,000.5", "1000000.5"),
        ("0/5", "0"),
        ("-0", "0"),
        ('"strawberry".count("r")', "3"),
        ("'banana' . count ( 'an' ) * 2", "4"),
        ('"a(1)b".count("1)")+1', "2"),
    ],
)
def test_values(expression: str, value: str) -> None:
    assert evaluate(expression) == value


@pytest.mark.parametrize(
    "expression",
    [
        "",
        " ",
        "1+",
        "*1",
        "1 2",
        "(1",
        "1)",
        "()",
        "2**3",
        "2^3",
        "7//2",
        "7%2",
        "1/0",
        "1/(2-2)",
        "1,23",
        "1,2345",
        "1.2.3",
        "1e5",
        "0x10",
        "abs(1)",
        "__import__('os')",
        "'a'.upper()",
        "'a'*5",
        "'a'.count(1)",
        "'a'.count('a'",
        "'a'.count('a').real",
        "'ab\n'.count('a')",
        "x.count('a')",
        "'a'.ljust(9).count('a')",
        "\u0661+\u0661",  # digits of other scripts
        "\u00b2",
        "1\x00",
        "9" * 17,
        f"{LARGEST}*10",
        f"1/{LARGEST}/10",
        "1" * (MAX_CHARACTERS + 1),
        "(" * 33 + "1" + ")" * 33,
    ],
)
def test_what_has_no_value_is_none(expression: str) -> None:
    assert evaluate(expression) is None


def test_the_bounds_themselves_are_inside() -> None:
    assert evaluate(str(LARGEST)) == str(LARGEST)
    assert evaluate("(" * 32 + "1" + ")" * 32) == "1"
    assert evaluate(("1+" * MAX_CHARACTERS)[: MAX_CHARACTERS - 1]) == str(MAX_CHARACTERS // 2)


def expressions(depth: int = 3) -> st.SearchStrategy[str]:
    leaf = st.integers(0, 10**6).map(str) | st.decimals(0, 1000, places=3).map(str)
    if not depth:
        return leaf
    smaller = expressions(depth - 1)
    pair = st.builds("{}{}{}".format, smaller, st.sampled_from(["+", "-", "*", "/", " - "]), smaller)
    return leaf | pair | smaller.map("({})".format) | smaller.map("-{}".format)


def exact(expression: str) -> Fraction | None:
    """Python's own grammar over fractions: every number literal is wrapped before Python reads it."""
    import re

    wrapped = re.sub(r"[0-9]+(?:\.[0-9]+)?", lambda number: f"Fraction('{number[0]}')", expression)
    try:
        return eval(wrapped, {"Fraction": Fraction, "__builtins__": {}})
    except ZeroDivisionError:
        return None


@given(expressions())
@settings(deadline=None)
def test_arithmetic_is_that_of_fractions(expression: str) -> None:
    value, written = exact(expression), evaluate(expression)
    out_of_bounds = value is None or abs(value) > LARGEST or 0 < abs(value) < Fraction(1, LARGEST)
    if out_of_bounds or len(expression) > MAX_CHARACTERS:
        assert written is None
        return
    assert written is not None
    error = abs(Fraction(written) - value)
    if value.denominator == 1:
        assert error == 0
    else:
        assert error <= Fraction(1, 2 * 10**6)
        assert error <= abs(value) / 10**5
        assert "e" not in written.lower()


@given(st.text() | st.text(alphabet="0123456789.,+-*/() '\"count\n", max_size=250))
@settings(max_examples=300, deadline=None)
def test_nothing_raises(text: str) -> None:
    value = evaluate(text)
    assert value is None or Fraction(value) is not None


@given(st.text(alphabet="abc ().1", max_size=40), st.text(alphabet="abc ().1", max_size=3), st.sampled_from("'\""))
def test_counting_is_that_of_strings(word: str, part: str, quote: str) -> None:
    assert evaluate(f"{quote}{word}{quote}.count({quote}{part}{quote})") == str(word.count(part))


@pytest.mark.parametrize(
    "text",
    [
        "(" * 200,
        "-" * 199 + "1",
        "1," * 100,
        "9*" * 99 + "9",
        '"' * 200,
        "'a'." + " " * 190,
        "1" * 100_000,
        "((1/7)*" * 28,
    ],
)
def test_adversarial_texts_take_no_time(text: str) -> None:
    evaluate(text)
