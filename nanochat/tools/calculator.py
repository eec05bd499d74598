"""A calculator for models: exact arithmetic and letter counting from a string that anybody may have written.

`evaluate` reads + - * / and brackets over integers and decimals (thousands commas tolerated) and
`"word".count("letter")`, with its own parser. Promises: it never raises, never runs code, and is bounded in size and
time whatever the text says; what it cannot answer exactly or as a rounded decimal is None. No powers, no names, no
functions, no floating point.
"""

import re
from decimal import Context
from fractions import Fraction

MAX_CHARACTERS = 200
MAX_DEPTH = 32
LARGEST = 10**15  # of a number read and of a result; what lies between is bounded by the characters
DECIMALS = 6  # of a quotient that does not end before; long results are copied badly by small models

TOKEN = re.compile(
    r"""\s*(?:
        (?P<count> (?P<text>"[^"\n]*"|'[^'\n]*') \s*\.\s*count\s*\(\s* (?P<part>"[^"\n]*"|'[^'\n]*') \s*\) )
      | (?P<number> [0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]*)?(?![0-9]) | [0-9]+(?:\.[0-9]*)? | \.[0-9]+ )
      | (?P<sign> [-+*/()] )
    )""",
    re.VERBOSE,
)


class Malformed(Exception):
    """The text is no expression, or one beyond the bounds; stays inside this module."""


def evaluate(expression: str) -> str | None:
    """The value as text: an integer, or a decimal rounded half to even; None where there is none.

    None for text that is no expression, longer than 200 characters or nested deeper than 32, for division by zero, and
    for numbers or results above 10^15 (or results other than 0 below 10^-15) in magnitude.
    """
    try:
        return _written(_Parser(_tokens(expression)).whole())
    except (Malformed, ZeroDivisionError):
        return None


def _tokens(text: str) -> list[str | Fraction]:
    if len(text) > MAX_CHARACTERS:
        raise Malformed
    text, at = text.rstrip(), 0
    tokens: list[str | Fraction] = []
    while at < len(text):
        match = TOKEN.match(text, at)
        if match is None:
            raise Malformed
        tokens.append(_token(match))
        at = match.end()
    return tokens


def _token(match: re.Match[str]) -> str | Fraction:
    if match["sign"]:
        return match["sign"]
    if match["count"]:
        return Fraction(match["text"][1:-1].count(match["part"][1:-1]))
    number = Fraction(match["number"].replace(",", ""))
    if number > LARGEST:
        raise Malformed
    return number


class _Parser:
    """Recursive descent: sum = product ± product …, product = factor */ factor …, factor = ± number or (sum)."""

    def __init__(self, tokens: list[str | Fraction]) -> None:
        self.tokens, self.at, self.depth = tokens, 0, 0

    def whole(self) -> Fraction:
        value = self.sum()
        if self.at < len(self.tokens):
            raise Malformed
        return value

    def take(self, *wanted: str) -> str | None:
        """The next token if it is one of those signs."""
        token = self.tokens[self.at] if self.at < len(self.tokens) else None
        if not isinstance(token, str) or token not in wanted:
            return None
        self.at += 1
        return token

    def sum(self) -> Fraction:
        value = self.product()
        while sign := self.take("+", "-"):
            term = self.product()
            value = value + term if sign == "+" else value - term
        return value

    def product(self) -> Fraction:
        value = self.factor()
        while sign := self.take("*", "/"):
            factor = self.factor()
            value = value * factor if sign == "*" else value / factor
        return value

    def factor(self) -> Fraction:
        negative = False
        while sign := self.take("+", "-"):
            negative ^= sign == "-"
        value = self.bracket() if self.take("(") else self.number()
        return -value if negative else value

    def bracket(self) -> Fraction:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise Malformed
        value = self.sum()
        if not self.take(")"):
            raise Malformed
        self.depth -= 1
        return value

    def number(self) -> Fraction:
        token = self.tokens[self.at] if self.at < len(self.tokens) else None
        if not isinstance(token, Fraction):
            raise Malformed
        self.at += 1
        return token


def _written(value: Fraction) -> str:
    size = abs(value)
    if size > LARGEST or 0 < size < Fraction(1, LARGEST):
        raise Malformed
    if value.denominator == 1:
        return str(value.numerator)
    whole_digits = len(str(int(size))) if size >= 1 else 0
    context = Context(prec=whole_digits + DECIMALS)
    quotient = context.divide(context.create_decimal(0) + value.numerator, value.denominator)
    return f"{quotient:f}".rstrip("0").rstrip(".")
