"""Numbers and code as people read them in an answer, whatever they are wrapped in.

Promises: a number reads the same plain, emphasised, boxed, with a currency sign, with thousands separated by commas,
apostrophes or blanks, and with a typographic minus; code is taken from the block that holds the function. Nothing is
judged here. Standard library only.
"""

from __future__ import annotations

import ast
import contextlib
import re
import textwrap
import unicodedata
import warnings
from decimal import Decimal
from typing import Any

WRAPPING = re.compile(r"\\(?:boxed|text\w*|math\w*)\b|\\[(\[]|\\(?=[-+.0-9])|[*_`{}]")
SEPARATOR = re.compile(r"(?<=[0-9])(?:\{,\}|\\,|['\u2019])(?=[0-9]{3}(?![0-9]))")
GROUPED = re.compile(r"[0-9]{1,3}(?: [0-9]{3})+(?![0-9])")
BEFORE = re.compile(
    r"(?:<[^<>]*>|[\s()\[\]\"'\u2018\u2019\u201c\u201d=\u2248~:#]|US(?:D\b|(?=[0-9]))"
    r"|(?:the )?(?:final )?answer(?: is)?\b)*",
    re.IGNORECASE,
)
RAISED = "\u00b2\u00b3\u00b9\u00bc-\u00be\u2070-\u2089\u2150-\u215f"  # powers, indices and fractions of one letter
NUMBER = re.compile(
    r"([-+]?)\s*([-+]?)((?>[0-9]{1,3}(?:,[0-9]{2,3})*,[0-9]{3}(?:\.[0-9]+)?|[0-9]+(?:\.[0-9]+)?|\.[0-9]+))"
    # what makes another number of it, or none: more digits, a fraction, a power, a time, a range, a mixed fraction
    rf"(?![0-9{RAISED}]|[,.:x-][0-9]|e[-+]?[0-9]|\s*[/\u2044]\s*[0-9]|\s*\^"
    r"|\s+[0-9]+\s*[/\u2044]\s*[0-9]|\s+[\u00bc-\u00be\u2150-\u215f])",
    re.IGNORECASE,
)
MINUS = str.maketrans({"\N{MINUS SIGN}": "-", "\N{EN DASH}": "-"})


def plain(text: str) -> str:
    """The text without what stands around numbers: emphasis, boxes, currency; blanks and signs in their plain form."""
    text = "".join(_plain(letter) for letter in text).translate(MINUS)
    while (single := SEPARATOR.sub(",", text)) != text:
        text = single
    return WRAPPING.sub("", text.replace("}{", "/"))  # as in \\frac{1}{2}


def _plain(letter: str) -> str:
    kind = unicodedata.category(letter)  # Sc: currency; No: fractions and powers, which are not the digits in them
    if kind == "Sc":
        return ""
    return letter if kind == "No" else unicodedata.normalize("NFKC", letter)


def leading_number(text: str) -> Decimal | None:
    """The number that a text begins with, after blanks, quotes and words of no weight; None where there is none."""
    shown = plain(text)
    shown = shown[BEFORE.match(shown).end() :]  # type: ignore[union-attr]  # it matches the empty text too
    shown = GROUPED.sub(lambda found: found[0].replace(" ", ""), shown, count=1)
    found = NUMBER.match(shown)
    return Decimal((found[1] or found[2]) + found[3].replace(",", "")) if found else None


RUN = re.compile(
    rf"(?:[0-9]|\.(?=[0-9]))(?:[0-9.,:/^x\u2044{RAISED}-]|(?<=[0-9])e(?=[-+]?[0-9])|(?<=e)\+)*",
    re.IGNORECASE,
)


def last_number(text: str) -> Decimal | None:
    """The last number in a text; None where there is none, or a fraction, a time or a list in its place."""
    shown = re.sub(rf"(?<![0-9.,]){GROUPED.pattern}", lambda found: found[0].replace(" ", ""), plain(text))
    runs = list(RUN.finditer(shown))
    if not runs:
        return None
    found = runs[-1]
    number = NUMBER.match(shown, found.start())
    if not number or number.end() < found.start() + len(found[0].rstrip(".,:/^x-")):
        return None
    if re.search(r"[0-9]\s*[/\u2044^]\s*$", shown[: found.start()]):
        return None
    return Decimal(number[3].replace(",", "")).copy_sign(-1 if _negative(shown[: found.start()]) else 1)


def _negative(before: str) -> bool:
    """Whether what stands before a number ends in its sign, and not in a hyphen or in the sign of a difference."""
    before = before.rstrip(" ")
    return before.endswith("-") and not re.search(r"(?:[^\W\d_]|[0-9)]\s*)-$", before)


FENCE = re.compile(
    r"^(?P<indent>[ \t]*)(?P<mark>`{3,}|~{3,})[ \t]*"
    r"(?:(?P<code>(?:(?:async|def|import|from|class)[ \t]|@).*)|(?P<language>[^\s`]*)[^\n`]*)$",
    re.MULTILINE,
)
PYTHON = re.compile(r"(py(thon)?[0-9.]*|)\Z", re.IGNORECASE)  # or nothing said
QUOTED = re.compile(r"^ {0,3}> ?(?:```|~~~)", re.MULTILINE)
MARGIN = "    "
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
Blocks = list[tuple[str, str]]  # the language and the code of each


def code_of(answer: str, function: str) -> str:
    """The code of an answer that was asked for a function.

    Of several fenced blocks it is the last one that defines the function and is no mere outline of it, after what it
    needs of the others; else the one that looks most like the rest of the function; without a block, the definition
    with its imports out of the prose around it, else the answer as it is (the rest that the question began).
    """
    before, blocks = _blocks(_tidy(answer))
    defining = [number for number, (_, code) in enumerate(blocks) if defines(code, function)]
    if defining:
        best = max(defining, key=lambda number: (_weight(blocks[number][1], function), number))
        return _needed(blocks[best][1], blocks[:best] + blocks[best + 1 :]) + blocks[best][1]
    for text in (before, textwrap.dedent(before)):
        if defines(text, function) and (text == before or not _ends_in_return(text)):
            return _definition(text, function)
    if blocks and not blocks[0][0] and before.strip() and all(_likeness(before)):
        return before  # the rest of the function, then a closing fence alone, and perhaps prose
    in_python = [(language, code) for language, code in blocks if PYTHON.match(language) and code.strip()]
    likely = max(in_python, key=lambda block: (*_likeness(block[1]), bool(block[0])), default=("", before))
    return likely[1]


def defines(code: str, function: str) -> bool:
    """Whether the code makes the function, by `def` or by an assignment, at its margin."""
    tree = _tree(code)
    if tree is None or _ends_in_return(code):
        return _definition_at(code, function) is not None
    return any(function in _bound(node) for node in tree.body if not isinstance(node, ast.Import | ast.ImportFrom))


def _ends_in_return(code: str) -> bool:
    """Whether code is the inside of a function: it returns at its margin."""
    tree = _tree(code)
    return tree is not None and any(isinstance(node, ast.Return) for node in tree.body)


def _definition_at(code: str, function: str) -> re.Match[str] | None:
    name = re.escape(function)
    return re.search(
        rf"^(?:(?:async[ \t]+)?def[ \t]+{name}[ \t]*[(\[]|{name}[ \t]*(?::[^=\n]+)?=[ \t]*lambda\b)", code, re.MULTILINE
    )


def _tidy(answer: str) -> str:
    """The answer with plain line ends and indentation, and without the marks of a quotation around its code."""
    answer = answer.replace("\r\n", "\n").replace("\r", "\n")
    if QUOTED.search(answer):
        answer = re.sub(r"^ {0,3}>(?!>) ?", "", answer, flags=re.MULTILINE)
    return re.sub(r"^[ \t\u00a0]+", lambda blanks: blanks[0].replace("\u00a0", " "), answer, flags=re.MULTILINE)


def _blocks(answer: str) -> tuple[str, Blocks]:
    """What stands before the first fence, and each fenced block with its language; a block may lack its end."""
    start = FENCE.search(answer)
    if start is None:
        return answer, []
    before, blocks = answer[: start.start()], []
    while start is not None:
        after = answer[start.start("code") :] if start["code"] else answer[start.end() :].removeprefix("\n")
        end, resume = _end(after, start["mark"])
        code = _dedented(after[:end], start["indent"])
        whole = textwrap.dedent(code)
        blocks.append((start["language"] or "", code if _tree(whole) is None or _ends_in_return(whole) else whole))
        answer = after[resume:]
        start = FENCE.search(answer)
    return before, blocks


def _end(after: str, mark: str) -> tuple[int, int]:
    """Where a block ends and where its fence does: at the first fence up to which it is Python, else at the first."""
    run = f"{re.escape(mark)}{mark[0]}*"
    alone = list(re.finditer(rf"^[ \t]*{run}[ \t]*$", after, re.MULTILINE))
    last = list(re.finditer(rf"(?<!{re.escape(mark[0])}){run}[ \t]*$", after, re.MULTILINE))
    found = sorted({(each.start(), each.end()) for each in alone + last})
    for start, end in found:
        if _tree(textwrap.dedent(after[:start])) is not None:
            return start, end
    anywhere = re.search(re.escape(mark), after)
    first = next(iter(alone or last), anywhere)
    return (first.start(), first.end()) if first else (len(after), len(after))


def _dedented(code: str, indent: str) -> str:
    """Code of a block that stands in a list, without the list's indentation."""
    return "\n".join(line.removeprefix(indent) for line in code.split("\n")) if indent else code


def _weight(code: str, function: str) -> int:
    """2 for code that makes the function; 1 for an outline of it, without a body; 0 for what is no Python."""
    tree = _tree(code)
    if tree is None:
        return 0
    made = [node for node in tree.body if function in _bound(node)]
    body = made[-1].body if made and isinstance(made[-1], FUNCTIONS) else None
    return 1 if body and all(_says_nothing(statement) for statement in body) else 2


def _says_nothing(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.Raise):
        return "NotImplemented" in ast.dump(statement)
    return isinstance(statement, ast.Pass) or (
        isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    )


def _needed(code: str, others: Blocks) -> str:
    """The imports, helpers and constants of other blocks that the code uses and does not make."""
    tree = _tree(code)
    if tree is None:
        return ""
    wanted, kept = _used(tree), []
    trees = [_tree(textwrap.dedent(other)) for language, other in others if PYTHON.match(language)]
    for node in reversed([node for other in trees if other for node in other.body]):
        if wanted & _bound(node):
            wanted = (wanted - _bound(node)) | _used(node)
            with contextlib.suppress(RecursionError):  # nested too deeply to be written down: it stays missing
                kept.append(ast.unparse(node))
    return "".join(f"{statement}\n" for statement in reversed(kept))


def _used(tree: ast.AST) -> set[str]:
    """The names that the code reads and does not make."""
    nodes = list(ast.walk(tree))
    names = [node for node in nodes if isinstance(node, ast.Name)]
    made = {node.arg for node in nodes if isinstance(node, ast.arg)}
    made |= {node.id for node in names if not isinstance(node.ctx, ast.Load)}
    made |= {name for node in nodes if isinstance(node, ast.stmt) for name in _bound(node)}
    return {node.id for node in names if isinstance(node.ctx, ast.Load)} - made


def _bound(node: ast.stmt) -> set[str]:
    """The names that a statement makes: a definition, an import, an assignment."""
    if isinstance(node, (*FUNCTIONS, ast.ClassDef)):
        return {node.name}
    if isinstance(node, ast.Import | ast.ImportFrom):
        return {(name.asname or name.name).split(".")[0] for name in node.names}
    targets: list[ast.expr] = []
    if isinstance(node, ast.Assign):
        targets = node.targets
    elif isinstance(node, ast.AnnAssign):
        targets = [node.target]
    return {name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)}


def _definition(text: str, function: str) -> str:
    """The longest run of lines around the function that is Python, prose cut off at both ends."""
    lines = text.split("\n")
    found = _definition_at(text, function)
    at = text[: found.start()].count("\n") if found else 0
    first = at
    while first and re.match(r"(import|from|def|async|class|@|#|[ \t])|\w+ *=|\s*$", lines[first - 1]):
        first -= 1
    while first < at and _tree("\n".join(lines[first:at])) is None:
        first += 1
    last = len(lines)
    while last > at + 1 and _tree("\n".join(lines[first:last])) is None:
        last -= 1
    return "\n".join(lines[first:last])


def _tree(code: str) -> ast.Module | None:
    """The code as Python's parser sees it; None where it is none."""
    return _compiled(code, ast.PyCF_ONLY_AST)


def _compiles(code: str) -> bool:
    """Whether Python would run it; that a `return` stands in a function is seen here only."""
    return _compiled(code) is not None


def _compiled(code: str, flags: int = 0) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd escapes in what a model wrote
            return compile(code, "answer", "exec", flags, dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _likeness(code: str) -> tuple[bool, bool]:
    """Whether code can be the rest of a function, and whether it returns something then."""
    body = rest_of_function(code, "def _():\n")
    tree = None if body is None else _tree("def _():\n" + body)
    nodes = [] if tree is None else list(ast.walk(tree.body[0]))
    return body is not None, any(isinstance(node, ast.Return | ast.Yield | ast.YieldFrom) for node in nodes)


def rest_of_function(code: str, begun: str, margin: str = MARGIN) -> str | None:
    """The rest of a function that was begun, set in where it has to be; None where it does not fit in any way."""
    first = next((line for line in code.split("\n") if line.strip()), "")
    ways = [
        *([code] if first.startswith((" ", "\t")) else []),
        textwrap.indent(textwrap.dedent(code), margin),  # written from another margin
        margin + code.lstrip(),  # only the first line lost its indentation
    ]
    return next((way for way in ways if _compiles(begun + way)), None)


def completed(begun: str, code: str, margin: str = MARGIN) -> str:
    """A function that was begun, and its rest without the prose that follows it."""
    lines = code.split("\n")
    for last in range(len(lines), 0, -1):
        rest = rest_of_function("\n".join(lines[:last]), begun, margin) if any(map(str.strip, lines[:last])) else None
        if rest is not None:
            return begun + rest
    return begun + textwrap.indent(code, margin)


def futures_first(code: str) -> str:
    """The code with its `from __future__` imports at the top, the only place where Python takes them."""
    lines, moved = code.split("\n"), []
    for node in (_tree(code) or ast.Module([], [])).body:
        if isinstance(node, ast.ImportFrom) and node.module == "__future__":
            moved.append(ast.unparse(node) + "\n")
            for number in range(node.lineno - 1, node.end_lineno or node.lineno):
                lines[number] = ""
    return "".join(moved) + "\n".join(lines)
