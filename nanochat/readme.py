"""The README's generated parts: the table and the graph of the stages, read off the declarations.

A part stands between `<!-- NAME: generated ... -->` and `<!-- /NAME -->`; `refresh` writes it anew, or says that it is
out of date. Everything outside the markers is written by hand.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

from nanochat import recipes
from nanochat.pipeline import STAGES


def table() -> str:
    """One row a stage."""
    rows = ["| stage | takes | makes | runs on | what it does |", "|---|---|---|---|---|"]
    for name, stage in STAGES.items():
        takes = ", ".join(taken.name for taken in stage.takes) or "-"
        makes = ", ".join(f"`{file}`" for file in stage.makes)
        mapped = ", one task per shard" if stage.mapped else ""
        rows.append(f"| **{name}** | {takes} | {makes} | {stage.on}{mapped} | {stage.summary()} |")
    return "\n".join(rows)


def graph() -> str:
    """The same as a mermaid graph."""
    lines = ["```mermaid", "flowchart LR"]
    for name, stage in STAGES.items():
        lines.append(f"    {name}{f'[[{name}]]' if stage.mapped else f'[{name}]'}")
        lines += [f"    {taken.name} --> {name}" for taken in stage.takes]
    return "\n".join([*lines, "```"])


def recipe_table() -> str:
    """One row a recipe."""
    rows = ["| recipe | what it is |", "|---|---|"]
    return "\n".join(rows + [f"| `{name}` | {recipes.description(name)} |" for name in recipes.RECIPES])


PARTS: dict[str, Callable[[], str]] = {"stages": table, "graph": graph, "recipes": recipe_table}


def fresh(text: str) -> str:
    """The text with every generated part written anew. ValueError for a part whose markers are missing."""
    for name, make in PARTS.items():
        pattern = re.compile(rf"(<!-- {name}: generated[^>]*-->\n).*?(<!-- /{name} -->)", re.DOTALL)
        marked = pattern.search(text)
        if not marked:
            raise ValueError(f"README: the markers <!-- {name}: generated --> and <!-- /{name} --> are missing")
        begin, end = marked.groups()
        text = f"{text[: marked.start()]}{begin}{make()}\n{end}{text[marked.end() :]}"
    return text


def refresh(path: Path, *, check: bool) -> int:
    """Writes the generated parts of a README, or (check) says whether they are what they should be: 0 yes, 1 no."""
    before = path.read_text(encoding="utf-8")
    after = fresh(before)
    if before == after:
        return 0
    if check:
        print(f"{path} is out of date: run `python -m nanochat readme`", file=sys.stderr)
        return 1
    path.write_text(after, encoding="utf-8")
    return 0
