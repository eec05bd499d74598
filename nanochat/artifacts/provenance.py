"""Which code made an artifact: digests of the modules that a stage's work uses, and the state of the checkout.

Not part of any address: a hit made by other code is only said to be so (a version bump is what reruns). The modules
are those that the work imported, and what these import in turn; type-checking imports do not count.
"""

from __future__ import annotations

import ast
import os
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from nanochat.artifacts.files import sha256_of

PACKAGE = "nanochat"
ROOT = Path(__file__).parents[1]  # of the package
UNKNOWN = "unknown"
ARITHMETIC = "arithmetic.json"  # in the work directory: of all attempts
ALL_OF_IT = ("--porcelain", "--untracked-files=normal", "--ignore-submodules=none")  # whatever the user has configured


def source_of(module: str) -> Path | None:
    """The file of one of our modules; None for a name that is none."""
    package, *names = module.split(".")
    path = ROOT.joinpath(*names)
    source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return source if package == PACKAGE and source.exists() else None


def closure(modules: Iterable[str]) -> set[str]:
    """These modules and all of ours that they import, directly or not."""
    found: set[str] = set()
    todo = list(modules)
    while todo:
        module = todo.pop()
        source = source_of(module)
        if source is not None and module not in found:
            found.add(module)
            todo += _imported(ast.parse(source.read_text(encoding="utf-8")).body)
    return found


def _imported(body: Iterable[ast.stmt]) -> Iterator[str]:
    """Modules that the statements import where they are executed, functions included."""
    for node in body:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        yield from _imported(child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt))


def digests(modules: Iterable[str]) -> dict[str, str]:
    """sha256 of each module's source."""
    return {module: sha256_of(source) for module in sorted(modules) if (source := source_of(module)) is not None}


def changed(recorded: Mapping[str, str]) -> list[str]:
    """The recorded modules whose source is another one now, or that are gone."""
    now = digests(recorded)
    return [module for module, sha in recorded.items() if now.get(module) != sha]


def checkout_facts(root: Path) -> dict[str, Any]:
    """Commit and dirty state of the checkout `root`, and the digest of its lock file, where there is one.

    What git does not tell is `unknown`, with its reason in `git_note`; never the commit of another repository.
    """
    facts: dict[str, Any] = {"git_commit": UNKNOWN, "git_dirty": UNKNOWN}
    try:
        facts["git_commit"] = _git(root, "rev-parse", "--verify", "HEAD")
        facts["git_dirty"] = bool(_git(root, "status", *ALL_OF_IT))
    except OSError as error:
        facts["git_note"] = str(error)
    lock = root / "requirements.lock"
    return {**facts, "lock": sha256_of(lock)} if lock.exists() else facts


def _git(root: Path, *words: str) -> str:
    """What git says of this very repository, with the user's settings. OSError: it says nothing, and why."""
    if not (root / ".git").exists():
        raise FileNotFoundError(f"{root} is no git checkout")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_") or "_CONFIG_" in name}
    around = {**kept, "GIT_CEILING_DIRECTORIES": str(root.resolve().parent), "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}
    done = subprocess.run(
        ["git", *words], cwd=root, env=around, capture_output=True, encoding="utf-8", errors="replace", check=False
    )
    if done.returncode:
        raise OSError(next(iter(done.stderr.strip().splitlines()), f"git ended with {done.returncode}"))
    return done.stdout.strip()
