"""Fetches the CORE bundle once, checks every row of the tasks that are named, and writes them in one form.

From the published zip, or a folder or zip of this machine. Promises: the same artifact whichever of them it came from;
core.json says of each task its file, kind, shots, delimiter and baseline, and of each file its rows and sha256; a file
that several tasks share is there once; a row that cannot be asked is named by file and line; without tasks nothing is
fetched. Not here: the published form (evaluation/core_published.py).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanochat.data import json_lines
from nanochat.data.fetch import fetch
from nanochat.evaluation.core_bundle import INDEX, check_count, check_row
from nanochat.evaluation.core_published import Published, check_whole, chosen, is_url, local, opened
from nanochat.stages.download import progress_of
from nanochat.tasks.task import comma_separated
from nanochat.workflow.stage import StageContext

if TYPE_CHECKING:
    from nanochat.pipeline import CoreData

FETCHED = "bundle.zip"
TIMEOUT, ATTEMPTS = 60.0, 5  # seconds without a byte; of the whole file


def run(stage: CoreData, ctx: StageContext) -> dict[str, float]:
    """Writes core.json and the files of the named tasks; returns how many tasks and rows there are.

    Raises:
        ValueError: the bundle is not whole, a task is not in it, or a row is not what its task asks.
        ConnectionError: the zip could not be fetched.
    """
    index: dict[str, Any] = {"tasks": [], "files": {}}
    if comma_separated(stage.tasks):
        with _at_hand(stage, ctx) as bundle, opened(bundle) as root:
            index = _written(chosen(root, stage.tasks), ctx)
    (ctx.out / INDEX).write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
    return {"tasks": float(len(index["tasks"])), "rows": float(sum(file["rows"] for file in index["files"].values()))}


@contextmanager
def _at_hand(stage: CoreData, ctx: StageContext) -> Iterator[Path]:
    """The folder or zip; one that was fetched is gone afterwards, so that a broken one is fetched anew."""
    if not is_url(stage.source):
        yield local(stage.source)
        return
    path = ctx.work / FETCHED
    fetch(stage.source, path, timeout=TIMEOUT, attempts=ATTEMPTS, progress=progress_of(ctx.metrics))
    try:
        yield path
    finally:
        path.unlink()


def _written(tasks: list[Published], ctx: StageContext) -> dict[str, Any]:
    """What core.json says, once the files are there: each named for the first task that reads it."""
    readers: dict[str, list[Published]] = {}
    for task in tasks:
        readers.setdefault(str(task.rows), []).append(task)
    names = {place: f"{some[0].label}.jsonl" for place, some in readers.items()}
    files = {}
    for number, (place, some) in enumerate(readers.items(), start=1):
        files[names[place]] = _copied(some, ctx.out / names[place])
        ctx.metrics.progress(number, len(readers), "files of CORE")
    listed = [
        {
            "label": task.label,
            "file": names[str(task.rows)],
            "kind": task.kind,
            "shots": task.shots,
            "delimiter": task.delimiter,
            "baseline": task.baseline,
        }
        for task in tasks
    ]
    return {"tasks": listed, "files": files}


def _copied(tasks: list[Published], path: Path) -> dict[str, Any]:
    """Writes the rows that these tasks share; returns how many there are and their digest."""
    source, sha, count = tasks[0].rows, hashlib.sha256(), 0
    check_whole(source)
    with path.open("wb") as file:
        for where, row in json_lines.read(source):
            for kind in {task.kind for task in tasks}:
                check_row(kind, row, where)
            line = json.dumps(row, ensure_ascii=False).encode() + b"\n"
            file.write(line)
            sha.update(line)
            count += 1
    for task in tasks:
        check_count(count, task.shots, task.label, str(source))
    return {"rows": count, "sha256": sha.hexdigest()}
