"""Where a source file reads or writes text without saying its encoding: `unsaid(path)`. It does not test anything."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

PROCESSES = {"run", "Popen", "check_output", "check_call", "call"}
NO_FILES = {"webbrowser", "tarfile", "opener", "database", "os", "Image"}  # what else has an `open`
PACKED = {"gzip", "bz2", "lzma"}  # whose files are binary, unless the mode says otherwise


def unsaid(path: Path) -> Iterator[ast.Call]:
    """Calls that take the encoding of the locale."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and _takes_the_locale_s(node):
            yield node


def _takes_the_locale_s(call: ast.Call) -> bool:
    named = {keyword.arg: keyword.value for keyword in call.keywords}
    if "encoding" in named or None in named:
        return False
    method = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    owner = getattr(getattr(call.func, "value", None), "id", "")
    if method == "read_text":
        return len(call.args) < 1
    if method == "write_text":
        return len(call.args) < 2
    if method in PROCESSES:
        said = (named.get("text"), named.get("universal_newlines"))
        on = any(isinstance(value, ast.Constant) and bool(value.value) for value in said)
        return owner in ("subprocess", "") and (on or "errors" in named)
    if method == "FileHandler":
        return len(call.args) < 3
    if method in ("open", "fdopen", "NamedTemporaryFile", "TemporaryFile"):
        return _opens_text(call, method, owner, named.get("mode"))
    return False


def _opens_text(call: ast.Call, method: str, owner: str, mode: ast.expr | None) -> bool:
    if method == "open" and owner in NO_FILES:
        return False
    on_path = method == "open" and isinstance(call.func, ast.Attribute) and owner not in (*PACKED, "io", "codecs")
    place = 0 if on_path or method not in ("open", "fdopen") else 1
    given = mode if mode is not None else call.args[place] if len(call.args) > place else None
    if given is None:
        return method in ("open", "fdopen") and owner not in PACKED
    if owner in PACKED:
        return isinstance(given, ast.Constant) and "t" in str(given.value)
    return isinstance(given, ast.Constant) and isinstance(given.value, str) and "b" not in given.value
