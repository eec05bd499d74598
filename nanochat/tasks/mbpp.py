"""MBPP (arXiv:2108.07732): write the Python function that a sentence describes; assertions of the data set judge it.

The one programming task with a training split: reinforcement learning may learn on it, HumanEval then tests. Answers
are executed in the sandbox (tools/sandbox.py) or not at all: without one, `correct` raises. Promises: the function is
called by the name that the assertions use, which the question shows; what is no plain data (a few problems pass objects
of classes) cannot cross the sandbox's wall, so that no answer is right. Standard library only.
"""

import ast
from typing import Any, ClassVar

from nanochat.tasks.answers import code_of, futures_first
from nanochat.tasks.from_file import FromFile, Origin, text_of
from nanochat.tasks.task import Split, dialogue
from nanochat.tools import sandbox

DATASET = "google-research-datasets/mbpp"


class Mbpp(FromFile):
    """Rows of google-research-datasets/mbpp: {"text", "code", "test_list", "test_setup_code"}, in all three splits."""

    name = "mbpp"
    baseline = 0.0
    origins: ClassVar = {split: Origin(DATASET, "full", split) for split in ("train", "validation", "test")}
    splits: ClassVar[tuple[Split, ...]] = ("train", "validation", "test")
    runs_code: ClassVar[bool] = True

    @classmethod
    def normalise(cls, row: dict[str, Any]) -> dict[str, Any]:
        kept = text_of(row, "text", "code")
        code, tests = kept["code"].replace("\r\n", "\n"), row.get("test_list")
        if not isinstance(tests, list) or not tests or not all(isinstance(test, str) for test in tests):
            raise ValueError(f"test_list = {tests!r}: needs a list of assertions")
        setup = str(row.get("test_setup_code") or "")
        return {
            "question": kept["text"],
            "code": code,
            "entry_point": entry_point(code, tests),
            "tests": [test.replace("\r\n", "\n") for test in tests],
            "setup": setup.replace("\r\n", "\n"),
        }

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = self.row(index)
        asked = f"{row['question']}\n\nThese have to hold:\n\n```python\n" + "\n".join(row["tests"]) + "\n```"
        return dialogue(asked, f"```python\n{row['code'].strip()}\n```")

    def correct(self, index: int, completion: str) -> bool:
        row = self.row(index)
        name, asserted = row["entry_point"], "\n".join(row["tests"])
        code = futures_first(f"{row['setup']}\n{code_of(completion, name)}")
        check = f"def check(candidate):\n    exec({asserted!r}, {{**globals(), {name!r}: candidate}})\n"
        return sandbox.passes(code, name, f"{row['setup']}\n{check}").outcome == "finished"


def entry_point(code: str, tests: list[str]) -> str:
    """The function of `code` that the first assertion calls. Raises ValueError where there is none."""
    try:
        defined = {node.name for node in ast.walk(ast.parse(code)) if isinstance(node, ast.FunctionDef)}
        calls = [node.func for node in ast.walk(ast.parse(tests[0])) if isinstance(node, ast.Call)]
    except (SyntaxError, ValueError) as error:
        raise ValueError(f"code and test_list: need to be Python ({error})") from None
    called = [call.id for call in calls if isinstance(call, ast.Name) and call.id in defined]
    if not called:
        raise ValueError(f"test_list: {tests[0]!r} calls no function that code defines")
    return called[0]
