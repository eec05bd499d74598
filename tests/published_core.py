"""A small CORE bundle in its published form: `write(folder)` as a folder, `zipped(folder)` as the bytes of its zip.

Two tasks share a file, and files lie in folders of their own, as in the real one. It tests nothing by itself.
"""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import yaml

from nanochat.artifacts.metrics import FILE, Metrics
from nanochat.pipeline import CoreData
from nanochat.stages.core_data import run as fetch
from nanochat.workflow.stage import StageContext

Task = dict[str, Any]
SUMS = {"label": "sums", "dataset_uri": "symbols/sums.jsonl", "num_fewshot": [1], "icl_task_type": "multiple_choice"}
LETTERS = {
    "label": "letters",
    "dataset_uri": "letters.jsonl",
    "num_fewshot": [1],
    "icl_task_type": "language_modeling",
    "continuation_delimiter": "\nAnswer: ",
    "has_categories": True,
}
TASKS = [{**SUMS, "label": "sums_zeroshot", "num_fewshot": [0]}, SUMS, LETTERS]
ROWS = {
    "symbols/sums.jsonl": [
        {"query": f"{n} and {n} make", "choices": [str(2 * n), str(n), "a"], "gold": 0} for n in range(8)
    ],
    "letters.jsonl": [{"context": "a b c d é", "continuation": "f", "category": "early"}] * 3,
}
BASELINES = 'Eval Task,Task Category,Random baseline,Description\nsums,symbols,33,"one, two\nor three"\n'
BASELINES += "sums_zeroshot,symbols,33.5,\nletters,letters,0,\nunused,letters,,\n"


def write(folder: Path, tasks: list[Task] = TASKS, data: str = "eval_data") -> Path:
    """The bundle as a folder, with its rows in `data`."""
    for uri, rows in ROWS.items():
        path = folder / data / uri
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    (folder / "core.yaml").write_text(yaml.safe_dump({"icl_tasks": tasks}, sort_keys=False), encoding="utf-8")
    (folder / "eval_meta_data.csv").write_text(BASELINES, encoding="utf-8")
    return folder


def zipped(folder: Path, top: str = "eval_bundle/") -> bytes:
    """Its zip, with everything in the folder `top`."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.writestr(f"{top}{path.relative_to(folder)}", path.read_bytes())
    return content.getvalue()


def place_in(folder: Path) -> StageContext:
    """Where the stage core_data works."""
    for name in ("out", "work"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    return StageContext({}, {}, folder / "out", folder / "work", Metrics(folder / FILE))


def artifact(folder: Path, tasks: str = "all") -> Path:
    """What core_data makes of it."""
    place = place_in(folder)
    fetch(CoreData(tasks=tasks, source=str(write(folder / "bundle"))), place)
    return place.out
