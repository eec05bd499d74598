"""Numbers and code as people read them in an answer, whatever they are wrapped in.

Promises: a number reads the same plain, emphasised, boxed, with a currency sign, with thousands separated by commas,
apostrophes or blanks, and with a typographic minus; code is taken from the block that holds the function. Nothing is
judged here. Standard library only.
"""

from __future__ import annotations

import ast
import re
import textwrap
import unicodedata
from decimal import Decimal

WRAPPING = re.compile(r"\\(?:boxed|text\w*|math\w*)\b|\\[(\[]|\\(?=[-+.0-9])|[*_`{}]")
SEPARATOR = re.compile(r"(?<=[0-9])(?:\{,\}|\\,|['\u2019])(?=[0-9]{3}(?![0-9]))")
GROUPED = re.compile(r"[0-9]{1,3}(?: [0-9]{3})+(?![0-9])")
BEFORE = re.compile(
    r"(?:<[^<>]*>|[\s()\[\]\"'\u2018\u2019\u201c\u201d=\u2248~:#]|US(?:D\b|(?=[0-9]))"
    r"|(?:the )?(?:final )?answer(?: is)?\b)*",
    re.IGNORECASE,
)
NUMBER = re.compile(
    r"([-+]?)\s*([-+]?)((?>[0-9]{1,3}(?:,[0-9]{2,3})*,[0-9]{3}(?:\.[0-9]+)?|[0-9]+(?:\.[0-9]+)?|\.[0-9]+))"
    # what makes another number of it, or none: more digits, a fraction, a power, a time, a range, a mixed fraction
    r"(?![0-9\u00b2\u00b3\u00b9\u00bc-\u00be\u2070-\u2089\u2150-\u215f]|[,.:x-][0-9]|e[-+]?[0-9]|\s*[/\u2044]\s*[0-9]|\s*\^"
    r"|\s+[0-9]+\s*[/\u2044]\s*[0-9]|\s+[\u00bc-\u00be\u2150-\u215f])",
    re.IGNORECASE,
)
MINUS = str.maketrans({"\N{MINUS SIGN}": "-", "\N{EN DASH}": "-"})


def plain(text: str) -> str:
    """The text without what stands around numbers: emphasis, boxes, currency; blanks and signs in their plain form."""
    text = "".join(_plain(letter) for letter in text).translate(MINUS)
    while (single := SEPARATOR.sub(",", text)) != text:
        text = single
    return WRAPPING.sub("", text)


def _plain(letter: str) -> str:
    kind = unicodedata.category(letter)  # Sc: currency; No: fractions and powers, which are not the digits in them
    return "" if kind == "Sc" else letter if kind == "No" else unicodedata.normalize("NFKC", letter)


def leading_number(text: str) -> Decimal | None:
    """The number that a text begins with, after blanks, quotes and words of no weight; None where there is none."""
    shown = plain(text)
    shown = shown[BEFORE.match(shown).end() :]  # type: ignore[union-attr]  # it matches the empty text too
    shown = GROUPED.sub(lambda found: found[0].replace(" ", ""), shown, count=1)
    found = NUMBER.match(shown)
    return Decimal((found[1] or found[2]) + found[3].replace(",", "")) if found else None


FENCE = re.compile(r"^(?P<indent>[ \t]*)(?P<mark>`{3,}|~{3,})[ \t]*(?P<language>[^\s`]*)[^\n`]*$", re.MULTILINE)
PYTHON = re.compile(r"(py(thon)?[0-9.]*|)\Z", re.IGNORECASE)  # or nothing said


def code_of(answer: str, function: str) -> str:
    """The code of an answer that was asked for a function.

    Of several fenced blocks it is the last one that defines the function, and not as a stub; else the first one in
    Python or in no named language; without a block, the definition with its imports out of the prose around it, else
    the answer as it is (the rest of a function that the question began).
    """
    before, blocks = _blocks(answer)
    from_margin = [code if defines(code, function) else textwrap.dedent(code) for _, code in blocks]
    defining = [code for code in from_margin if defines(code, function)]
    if defining:
        return next((code for code in reversed(defining) if not _is_stub(code, function)), defining[-1])
    if defines(before, function):
        return _definition(before, function)
    if len(blocks) == 1 and not blocks[0][0] and before.strip() and before[0].isspace():
        return before  # the rest of the function, then a closing fence alone, and perhaps prose
    in_python = [code for language, code in blocks if PYTHON.match(language) and code.strip()]
    return in_python[0] if in_python else before


def defines(code: str, function: str) -> bool:
    """Whether the code defines the function at its margin."""
    name = re.escape(function)
    return re.search(rf"^def[ \t]+{name}\s*\(|^{name}\s*(?::[^=\n]+)?=\s*lambda\b", code, re.MULTILINE) is not None


def _is_stub(code: str, function: str) -> bool:
    """Whether the last definition of the function has no body but a docstring, `...` or `pass`."""
    try:
        body = [each for each in ast.parse(code).body if isinstance(each, ast.FunctionDef) and each.name == function]
    except (SyntaxError, ValueError):
        return False
    return bool(body) and all(map(_does_nothing, body[-1].body))


def _does_nothing(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Pass) or (
        isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    )


def _blocks(answer: str) -> tuple[str, list[tuple[str, str]]]:
    """What stands before the first fence, and each fenced block with its language; a block may lack its end."""
    start = FENCE.search(answer)
    if start is None:
        return answer, []
    before, blocks = answer[: start.start()], []
    while start is not None:
        mark, after = start["mark"], answer[start.end() :].removeprefix("\n")
        closing = re.compile(rf"^[ \t]*{re.escape(mark)}{mark[0]}*[ \t]*$|{re.escape(mark)}", re.MULTILINE)
        end = closing.search(after)
        blocks.append((start["language"], _dedented(after[: end.start()] if end else after, start["indent"])))
        answer = after[end.end() :] if end else ""
        start = FENCE.search(answer)
    return before, blocks


def _dedented(code: str, indent: str) -> str:
    """Code of a block that stands in a list, without the list's indentation."""
    return "\n".join(line.removeprefix(indent) for line in code.split("\n")) if indent else code


def _definition(text: str, function: str) -> str:
    """The longest run of lines around the function that is Python, prose cut off at both ends."""
    lines = text.split("\n")
    at = next(number for number, line in enumerate(lines) if defines(line, function))
    first = at
    while first and re.match(r"(import|from|def|class|@|#|[ \t])|\w+ *=|\s*$", lines[first - 1]):
        first -= 1
    while first < at and not _is_python(lines[first:at]):
        first += 1
    last = len(lines)
    while last > at + 1 and not _is_python(lines[first:last]):
        last -= 1
    return "\n".join(lines[first:last])


def _is_python(lines: list[str]) -> bool:
    try:
        ast.parse("\n".join(lines))
    except (SyntaxError, ValueError):
        return False
    return True


def indented(code: str) -> str:
    """The body of a function, set in where it was written from the margin."""
    first = next((line for line in code.split("\n") if line.strip()), "")
    return code if first.startswith((" ", "\t")) else textwrap.indent(code, "    ")
