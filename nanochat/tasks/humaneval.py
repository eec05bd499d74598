"""HumanEval (arXiv:2107.03374): write the function that the docstring describes; the tests of the data set judge it.

The answer is executed in the sandbox (tools/sandbox.py) or not at all: without one, `correct` raises. Promises: only
a function that returns the right values passes. It has nothing but a test split, so it is not learned (mbpp.py is).
Standard library only.
"""

import ast
import contextlib
import re
from typing import Any, ClassVar

from nanochat.tasks.answers import MARGIN, code_of, completed, defines, futures_first
from nanochat.tasks.from_file import FromFile, Origin, text_of
from nanochat.tasks.task import Split, dialogue
from nanochat.tools import sandbox

EMPTY_BODY = (
    "\n    pass\n\n"  # makes the prompt, which ends within a function, a program with all its helpers and imports
)


class HumanEval(FromFile):
    """Rows of openai/openai_humaneval: {"task_id", "prompt", "entry_point", "canonical_solution", "test"}."""

    name = "humaneval"
    baseline = 0.0
    origins: ClassVar = {"test": Origin("openai/openai_humaneval", None, "test", ("humaneval.jsonl",))}
    splits: ClassVar[tuple[Split, ...]] = ("test",)
    runs_code: ClassVar[bool] = True

    @classmethod
    def normalise(cls, row: dict[str, Any]) -> dict[str, Any]:
        kept = text_of(row, "task_id", "prompt", "entry_point", "canonical_solution", "test")
        if f"def {kept['entry_point']}(" not in kept["prompt"] or "def check(" not in kept["test"]:
            raise ValueError(f"prompt and test: need to define {kept['entry_point']} and check")
        return kept

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = self.row(index)
        return dialogue(row["prompt"], f"```python\n{row['prompt']}{row['canonical_solution']}```")

    def correct(self, index: int, completion: str) -> bool:
        row = self.row(index)
        tests = row["prompt"] + EMPTY_BODY + row["test"]
        return sandbox.passes(program(row, completion), row["entry_point"], tests).outcome == "finished"


def program(row: dict[str, Any], completion: str) -> str:
    """The answer as a program: its own function after the prompt's imports and helpers, or what the prompt began."""
    prompt, code = row["prompt"], code_of(completion, row["entry_point"])
    if defines(code, row["entry_point"]):
        return futures_first(prompt + EMPTY_BODY + code)
    return futures_first(completed(prompt, code, _margin(prompt)))


def _margin(prompt: str) -> str:
    """How far the prompt sets in the function that it begins."""
    with contextlib.suppress(SyntaxError, ValueError):
        last = ast.parse(prompt).body[-1]
        line = prompt.split("\n")[last.body[0].lineno - 1] if isinstance(last, ast.FunctionDef) else ""
        return re.match(r"[ \t]*", line)[0] or MARGIN  # type: ignore[index]  # it matches the empty text too
    return MARGIN
