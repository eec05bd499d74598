"""Sums as people type them, and the same as the calculator reads them: `what's 15% of 200` is `15*200/100`.

Two numbers or several, brackets, percent, halves and doubles, powers, averages; in signs or in words, with blanks or
without, with decimals, thousands commas, currency and number words. Promises: what the calculator reads has the
numbers in the form and mostly in the order in which they were typed, so that a small model can copy them. Not here:
answers (arithmetic.py), stories (word_problems.py). Standard library only.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import NamedTuple

from nanochat.tasks.phrases import asked, expanded

SIGNS = "+-*/"
SYMBOLS = {
    "+": ("+",),
    "-": ("-",) * 6 + ("\N{MINUS SIGN}", "\N{EN DASH}"),
    "*": ("*",) * 5 + ("x", "x", "X", "\N{MULTIPLICATION SIGN}", "\N{MULTIPLICATION SIGN}"),
    "/": ("/",) * 5 + ("\N{DIVISION SIGN}", "\N{DIVISION SIGN}", ":"),
}
BETWEEN = {"+": "(plus|plus|and|added to|+)", "-": "(minus|minus|less|take away)", "*": "(times|times|multiplied by|x)"}
BETWEEN["/"] = "(divided by|divided by|divided by|over)"
ORDERS = {  # patterns that are commands; the second number may come first
    "+": "(add {a} and {b}|add {a} to {b}|add {a} plus {b}|sum up {a} and {b}|add up {a} and {b}|add {a} with {b})",
    "-": "(subtract {b} from {a}|take {b} from {a}|take {b} away from {a}|take away {b} from {a}|deduct {b} from {a})",
    "*": "(multiply {a} by {b}|multiply {a} with {b}|multiply {a} and {b}|multiply {a} times {b})",
    "/": "(divide {a} by {b}|split {a} by {b}|divide {a} into {b}|divide {a} by {b}|split {a} into {b} parts)",
}
NOUNS = {  # patterns that name the result
    "+": "(the sum of {a} and {b}|{a} and {b} together|{a} increased by {b}|the total of {a} and {b}"
    "|{b} more than {a})",
    "-": "(the difference between {a} and {b}|the difference of {a} and {b}|{a} decreased by {b}|{b} less than {a}"
    "|{a} without {b})",
    "*": "(the product of {a} and {b}|{a} times {b}|{a} lots of {b})",
    "/": "(the quotient of {a} and {b}|{a} divided by {b}|the ratio of {a} to {b})",
}
UNITS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen"
)
SMALL = (*UNITS.split(), "eighteen", "nineteen")
TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")


class Sum(NamedTuple):
    """What the calculator reads, and how it is asked for: as a result that is named, or as a command."""

    call: str
    asked: str
    command: bool = False


def plain(dice: random.Random) -> Sum:
    """A sum, difference, product or quotient of two whole numbers."""
    sign = dice.choice(SIGNS)
    return _of_two(sign, *_pair(dice, sign, _integer), dice)


def other(dice: random.Random) -> Sum:
    """A sum of any other kind."""
    return dice.choices([maker for maker, _ in KINDS], [weight for _, weight in KINDS])[0](dice)


def question(wanted: Sum, dice: random.Random) -> str:
    """A message that asks for the sum."""
    return asked("command" if wanted.command else "sum", dice).replace("{e}", wanted.asked)


def in_words(number: int) -> str:
    """A number from 0 to 99 in words."""
    if number < len(SMALL):
        return SMALL[number]
    ten, one = divmod(number, 10)
    return TENS[ten - 2] + (f"-{SMALL[one]}" if one else "")


def _integer(dice: random.Random) -> str:
    size = dice.choices((1, 2, 3, 4, 6), (12, 14, 10, 3, 1))[0]
    number = dice.randrange(10**size)
    if dice.random() < 0.15:  # round ones are what people think of
        number = dice.choice((10, 20, 25, 50, 100, 200, 250, 500, 1000, 1500, 2000, 10_000, 100_000, 1_000_000))
    return f"{number:,}" if number >= 1000 and dice.random() < 0.6 else str(number)


def _decimal(dice: random.Random) -> str:
    whole = dice.randrange(10 ** dice.choice((1, 2, 2, 3)))
    return f"{whole}.{dice.choice((5, 25, 75, dice.randrange(1, 10), dice.randrange(10, 100)))}"


def _number(dice: random.Random) -> str:
    return _decimal(dice) if dice.random() < 0.15 else _integer(dice)


def _pair(dice: random.Random, sign: str, number: Callable[[random.Random], str]) -> tuple[str, str]:
    if sign == "/" and dice.random() < 0.7 and number is _integer:  # one that comes out even
        divisor = dice.choice((dice.randrange(1, 13), dice.randrange(1, 100)))
        product = divisor * dice.randrange(1, dice.choice((13, 13, 100)))
        return f"{product:,}" if product >= 1000 and dice.random() < 0.5 else str(product), str(divisor)
    one, two = number(dice), number(dice)
    if sign == "-" and dice.random() < 0.85 and _value(one) < _value(two):
        one, two = two, one
    return (one, two) if sign != "/" or _value(two) else (one, "7")


def _value(number: str) -> float:
    return float(number.replace(",", ""))


def symbolic(call: str, dice: random.Random) -> str:
    """What the calculator reads as people type it: other signs, with blanks or without."""
    signs = {sign: dice.choice(SYMBOLS[sign]) for sign in SIGNS}
    blank = dice.choices((" ", ""), (6, 5))[0]
    text = "".join(f"{blank}{signs[one]}{blank}" if one in SIGNS else one for one in call)
    return text.replace("(", "( ").replace(")", " )") if blank and dice.random() < 0.05 else text


def _of_two(sign: str, a: str, b: str, dice: random.Random) -> Sum:
    """Two numbers in signs or in words; those of the words now and then with a currency."""
    call, form = f"{a}{sign}{b}", dice.random()
    if form < 0.55:
        return Sum(call, symbolic(call, dice))
    if dice.random() < 0.06:
        a, b = (f"${a}", f"${b}")
    if form < 0.75:
        return Sum(call, f"{a} {expanded(BETWEEN[sign], dice)} {b}")
    pattern = expanded((ORDERS if form < 0.9 else NOUNS)[sign], dice)
    return Sum(_as_read(pattern, a, b, call, sign), pattern.format(a=a, b=b), form < 0.9)


def _decimals(dice: random.Random) -> Sum:
    sign = dice.choice("++--*/")
    one, two = _pair(dice, sign, _decimal)
    if dice.random() < 0.4:
        one, two = (one, str(dice.randrange(1, 100))) if sign != "-" else (str(int(_value(one)) + 1), two)
    return _of_two(sign, one, two, dice)


def _as_read(pattern: str, a: str, b: str, call: str, sign: str) -> str:
    """Of a sum whose numbers may change places, the call in the order of reading."""
    turned = pattern.index("{b}") < pattern.index("{a}") and sign in "+*"
    return f"{b}{sign}{a}".replace("$", "") if turned else call


def _spoken(dice: random.Random) -> Sum:
    sign = dice.choice(SIGNS)
    a, b = dice.randrange(1, dice.choice((11, 21, 100))), dice.randrange(1, dice.choice((11, 13, 100)))
    if sign == "/":
        a = b * max(1, a // b)
    a, b = (max(a, b), min(a, b)) if sign == "-" else (a, b)
    words = (in_words(a), in_words(b) if dice.random() < 0.85 else str(b))
    pattern = dice.choice((f"{{a}} {BETWEEN[sign]} {{b}}",) * 3 + (ORDERS[sign], NOUNS[sign]))
    pattern = expanded(pattern, dice)
    text = pattern.format(a=words[0], b=words[1])
    return Sum(_as_read(pattern, str(a), str(b), f"{a}{sign}{b}", sign), text, not text.startswith(("the", *words)))


def _several(dice: random.Random) -> Sum:
    count = dice.choices((3, 4, 5, 6), (6, 3, 2, 1))[0]
    only = dice.choices(("+", "-", "*", "+-", "+*", SIGNS), (4, 1, 1, 3, 3, 2))[0]
    small = count > 3 or "*" in only
    numbers = [str(dice.randrange(1, dice.choice((11, 21)))) if small else _number(dice) for _ in range(count)]
    call = numbers[0] + "".join(dice.choice(only) + number for number in numbers[1:])
    if only == "+" and dice.random() < 0.35:
        listed = ", ".join(numbers[:-1]) + f" and {numbers[-1]}"
        pattern = dice.choice(("add {e}", "add up {e}", "the sum of {e}", "sum up {e}", "{e} together"))
        return Sum(call, pattern.format(e=listed), pattern.startswith(("add", "sum")))
    if dice.random() < 0.25:
        words = {"+": "plus", "-": "minus", "*": "times", "/": "divided by"}
        return Sum(call, "".join(f" {words[one]} " if one in SIGNS else one for one in call))
    return Sum(call, symbolic(call, dice))


def _bracketed(dice: random.Random) -> Sum:
    shape = dice.choice(("(a+b)*c", "(a-b)*c", "a*(b+c)", "a*(b-c)", "(a+b)/c", "a-(b+c)", "a-(b-c)", "(a+b)*(c+d)",
                         "(a-b)/c", "a+(b*c)", "(a*b)+c", "(a+b)*(c-d)", "a/(b+c)", "(a*b)-c", "(a+b)-(c+d)",
                         "((a+b)*c)-d", "(a+b+c)*d", "(a/b)+c", "(a/b)*c", "a+(b/c)", "(a+b)-c"))  # fmt: skip
    numbers = {name: str(dice.randrange(1, dice.choice((10, 10, 21, 101)))) for name in "abcd"}
    if dice.random() < 0.1:
        numbers["a"] = _decimal(dice)
    call = "".join(numbers.get(one, one) for one in shape)
    asked = symbolic(call, dice)
    if shape.startswith("a*(") and dice.random() < 0.2:
        asked = call.replace("*(", "(")
    return Sum(call, asked)


def _percent(dice: random.Random) -> Sum:
    rate = str(dice.choice((1, 2, 3, 5, 8, 10, 12, 15, 20, 25, 30, 33, 40, 50, 60, 75, 80, 90, dice.randrange(1, 101))))
    rate = f"{rate}.5" if dice.random() < 0.05 else rate
    base = _number(dice)
    if dice.random() < 0.1:
        return Sum(
            f"{base}-{rate}*{base}/100", dice.choice(("{r}% off {b}", "{r} percent off {b}")).format(r=rate, b=base)
        )
    sign = dice.choice(("%", "%", "%", " %", " percent", " percent", " per cent"))
    money = "$" if dice.random() < 0.1 else ""
    return Sum(f"{rate}*{base}/100", f"{rate}{sign} {dice.choice(('of', 'of', 'of', 'from'))} {money}{base}")


def _part(dice: random.Random) -> Sum:
    base = (
        str(dice.choice((dice.randrange(1, 100) * 2, dice.randrange(1, 51) * 12)))
        if dice.random() < 0.6
        else _number(dice)
    )
    part, factor, sign = dice.choice((
        ("half of {b}", 2, "/"), ("half {b}", 2, "/"), ("a half of {b}", 2, "/"), ("one half of {b}", 2, "/"),
        ("a third of {b}", 3, "/"), ("one third of {b}", 3, "/"), ("a quarter of {b}", 4, "/"),
        ("a fourth of {b}", 4, "/"), ("a fifth of {b}", 5, "/"), ("a tenth of {b}", 10, "/"),
        ("double {b}", 2, "*"), ("double {b}", 2, "*"), ("twice {b}", 2, "*"), ("the double of {b}", 2, "*"),
        ("two times {b}", 2, "*"), ("triple {b}", 3, "*"), ("three times {b}", 3, "*"), ("{b} doubled", 2, "*"),
        ("{b} tripled", 3, "*"), ("{b} halved", 2, "/"), ("half {b}", 2, "/"), ("ten times {b}", 10, "*"),
    ))  # fmt: skip
    return Sum(f"{base}{sign}{factor}", part.format(b=base))


def _power(dice: random.Random) -> Sum:
    base = dice.randrange(2, dice.choice((13, 13, 31)))
    exponent = dice.choice((2, 2, 2, 3, 3, 4, 5))
    forms = [f"{base}^{exponent}", f"{base}**{exponent}", f"{base} to the power of {exponent}", f"{base} ^ {exponent}"]
    forms += {2: [f"{base} squared", f"the square of {base}", f"{base}\u00b2"], 3: [f"{base} cubed"]}.get(exponent, [])
    return Sum("*".join([str(base)] * exponent), dice.choice(forms))


def _average(dice: random.Random) -> Sum:
    numbers = [str(dice.randrange(1, 101)) for _ in range(dice.choice((2, 2, 3, 3, 4)))]
    listed = ", ".join(numbers[:-1]) + f" and {numbers[-1]}"
    return Sum(
        f"({'+'.join(numbers)})/{len(numbers)}",
        dice.choice(("the average of ", "the mean of ", "average of ")) + listed,
    )


def _by_zero(dice: random.Random) -> Sum:
    number = _integer(dice)
    return Sum(
        f"{number}/0",
        dice.choice((f"{number}/0", f"{number} / 0", f"{number} divided by 0", f"{number} divided by zero")),
    )


def _neighbour(dice: random.Random) -> Sum:
    number = str(dice.randrange(1, dice.choice((20, 100, 1000))))
    after = dice.choice(("the number after {n}", "the next number after {n}", "1 more than {n}", "one more than {n}"))
    before = dice.choice(("the number before {n}", "1 less than {n}", "one less than {n}"))
    return (
        Sum(f"{number}+1", after.format(n=number))
        if dice.random() < 0.6
        else Sum(f"{number}-1", before.format(n=number))
    )


KINDS: tuple[tuple[Callable[[random.Random], Sum], float], ...] = (
    (_decimals, 18), (_spoken, 14), (_several, 20), (_bracketed, 18), (_percent, 14), (_part, 9), (_power, 3),
    (_average, 2), (_neighbour, 1), (_by_zero, 1),
)  # fmt: skip
