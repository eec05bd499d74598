"""What happens when a stage runs out of memory: half the rows of a forward pass, from the last checkpoint on.

The rows change how a result is reached, not what is learned, so a run that was sized a little too large loses minutes
instead of a night. Promises: only an error that is about memory is answered so; the rows that were tried are never
tried again in the same work directory, also after a kill, unless knobs spare memory otherwise; at one row the error
stands. Standard library only.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nanochat.artifacts.files import write_aside

KNOB = "device_batch_size"
USED, MOST = f"{KNOB}.used", f"{KNOB}.most"  # files in the work directory: rows taken, and how many may be
SPARING = ("checkpoint_activations", "loss_chunk")  # knobs with which other rows fit
SAID = re.compile(r"out of memory|outofmemoryerror|memoryerror|can't allocate memory", re.IGNORECASE)


def is_about_memory(said: str) -> bool:
    """Whether an error, as text with its type, is that memory ran out: a GPU's, or that of torch or Python on a CPU."""
    return SAID.search(said) is not None


def note_rows(work: Path, rows: int) -> None:
    """Writes down how many rows a forward pass of the stage takes."""
    work.mkdir(parents=True, exist_ok=True)
    write_aside(work / USED, str(rows))


def bounded(knobs: Mapping[str, Any], work: Path) -> dict[str, Any]:
    """The knobs with as many rows as this work directory still allows; where the knob is 0, that many."""
    bound = _read(work / MOST)
    if KNOB not in knobs or bound is None or bound["sparing"] != sparing(knobs):
        return dict(knobs)
    return {**knobs, KNOB: min(knobs[KNOB] or bound["rows"], bound["rows"])}


def halve(error: Mapping[str, Any] | None, knobs: Mapping[str, Any], work: Path) -> str:
    """After an error about memory: allows half the rows and says so in a sentence; an empty one where nothing helps."""
    if error is None or not is_about_memory(f"{error['type']}: {error['message']}"):
        return ""
    known = (bounded(knobs, work).get(KNOB), _read(work / USED))
    rows = min(filter(None, known), default=0)
    if rows < 2:
        return ""
    write_aside(work / MOST, json.dumps({"rows": rows // 2, "sparing": sparing(knobs)}))
    return f"out of memory with {rows} rows a forward pass: goes on from the last checkpoint with {rows // 2}"


def sparing(knobs: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the knobs that trade time for memory."""
    return {name: knobs[name] for name in SPARING if name in knobs}


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
