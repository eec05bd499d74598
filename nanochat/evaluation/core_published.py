"""CORE as it is published: core.yaml, eval_meta_data.csv and JSON lines, in a folder or in a zip with a top folder.

Promises: a zip is read where it lies and nothing is unpacked from it, so that no name in it can lead anywhere; one that
is cut or altered, a file that is missing and a label that there is not are refused by name, with what to do. Not here:
fetching and the rows (stages/core_data.py). PyYAML is imported when a list is read, and nowhere else.
"""

from __future__ import annotations

import csv
import errno
import io
import math
import re
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from nanochat.data import json_lines, web
from nanochat.errors import unknown
from nanochat.evaluation.core_bundle import KEYS, LABELS
from nanochat.locations import FILE, folder
from nanochat.tasks.task import comma_separated

LIST, BASELINES, DATA = "core.yaml", "eval_meta_data.csv", "eval_data"
Place = Path | zipfile.Path
CHUNK = 1 << 20


@dataclass(frozen=True)
class Published:
    """One task of core.yaml and where its rows are. `baseline` is the accuracy of guessing, as a percentage."""

    label: str
    rows: Place
    kind: str
    shots: int
    delimiter: str
    baseline: float


def preflight(tasks: str, source: str) -> None:
    """ValueError, where `source` cannot give these tasks; what has an address is not fetched for that."""
    labels = comma_separated(tasks)
    if not labels:
        return
    if not is_url(source):
        with opened(local(source)) as root:
            chosen(root, tasks)
        return
    try:
        web.quoted(source)
    except ValueError as error:
        raise ValueError(f"core_data.source: {error}") from None
    _check_known([] if labels == ["all"] else labels, LABELS)


def is_url(source: str) -> bool:
    """Whether it has to be fetched."""
    return source.startswith(("http://", "https://"))


def local(source: str) -> Path:
    """The folder or zip of this machine. ValueError: there is none."""
    path = folder(source.removeprefix(FILE).removeprefix("localhost") if source.startswith(FILE) else source)
    if not source or not path.exists():
        raise ValueError(
            f"core_data.source = {source!r}: there is no such folder or zip; give one with {LIST}, or the address of "
            "the zip (https://)"
        )
    return path


@contextmanager
def opened(path: Path) -> Iterator[Place]:
    """The folder with core.yaml: the folder or zip itself, or the one folder on top of it that has it.

    Raises:
        ValueError: it is neither folder nor whole zip, or core.yaml is not in it.
    """
    if path.is_dir():
        yield _root(path)
        return
    with _damage_named(path):
        archive = zipfile.ZipFile(path)
    with archive:
        yield _root(zipfile.Path(archive))


def _root(top: Place) -> Place:
    places = [top] if (top / LIST).is_file() else [each for each in top.iterdir() if (each / LIST).is_file()]
    if len(places) != 1:
        raise ValueError(f"{top}: has {LIST} {len(places)} times, and once is needed: give the CORE bundle")
    return places[0]


@contextmanager
def _damage_named(place: Place) -> Iterator[None]:
    """What zipfile raises, in a sentence."""
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, OSError) as error:
        # RuntimeError: encrypted, or no such method; EINVAL: an offset before the beginning
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise
        remedy = "it is cut or altered, or no zip of this kind: get it again"
        raise ValueError(f"{place}: cannot be read ({error}); {remedy}") from None


def check_whole(place: Place) -> None:
    """Reads a file of a zip to its end, where its checksum is: before that no line of it can be believed."""
    with _damage_named(place), place.open("rb") as file:
        while file.read(CHUNK):
            pass


def chosen(root: Place, wanted: str) -> list[Published]:
    """The tasks named in `wanted` (comma-separated labels, or `all`), in the order of core.yaml.

    Raises:
        ValueError: there is no such task, one is not described as it should be, or a file is missing.
    """
    lines, labels = _lines(root), comma_separated(wanted)
    labels = list(lines) if labels == ["all"] else labels
    _check_known(labels, lines)
    baselines = _baselines(root)
    return [_task(root, label, line, baselines) for label, line in lines.items() if label in labels]


def _check_known(labels: list[str], known: Any) -> None:
    for label in labels:
        if label not in known:
            raise ValueError(f"core_data.tasks: {unknown('CORE task', label, known)}")


def _lines(root: Place) -> dict[str, dict[str, Any]]:
    """The entries of core.yaml by label."""
    path = root / LIST
    try:
        import yaml
    except ImportError:
        raise ValueError(f"{path}: is read with PyYAML, which is not installed: install pyyaml") from None
    try:
        content = yaml.safe_load(_content(path))
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ValueError(f"{path}: not YAML ({' '.join(str(error).split())})") from None
    tasks = content.get("icl_tasks") if isinstance(content, dict) else None
    if not isinstance(tasks, list):
        raise ValueError(f"{path}: needs a list of tasks under icl_tasks")
    found: dict[str, dict[str, Any]] = {}
    for number, line in enumerate(tasks, start=1):
        if not isinstance(line, dict):
            raise ValueError(f"{path}, task {number}: needs keys and values, found {type(line).__name__}")
        label = json_lines.text(line, "label", f"{path}, task {number}")
        if not re.fullmatch(r"\w[\w.-]*", label, re.ASCII):
            raise ValueError(
                f"{path}, task {number}: label = {label!r}: needs a name of letters, digits, `_`, `.`, `-`"
            )
        if label in found:
            raise ValueError(f"{path}: {label!r} is there twice")
        found[label] = line
    return found


def _task(root: Place, label: str, line: dict[str, Any], baselines: dict[str, str]) -> Published:
    where = f"{root / LIST}, task {label!r}"
    kind, uri = json_lines.text(line, "icl_task_type", where), json_lines.text(line, "dataset_uri", where)
    if kind not in KEYS:
        raise ValueError(f"{where}: {unknown('task type', kind, KEYS)}")
    shots = line.get("num_fewshot")
    shots = shots[0] if isinstance(shots, list) and len(shots) == 1 else shots
    if type(shots) is not int or shots < 0:
        raise ValueError(f"{where}: num_fewshot = {shots!r}: needs a number, or a list of one")
    delimiter = json_lines.text(
        {"continuation_delimiter": " ", **line}, "continuation_delimiter", where, may_be_empty=True
    )
    return Published(label, _rows(root, uri, where), kind, shots, delimiter, _baseline(root, label, baselines))


def _rows(root: Place, uri: str, where: str) -> Place:
    path = PurePosixPath(uri)
    if path.is_absolute() or ".." in path.parts or "\\" in uri:
        raise ValueError(f"{where}: dataset_uri = {uri!r}: leads out of the bundle")
    for place in (root / DATA / uri, root / uri):
        if place.is_file():
            return place
    raise ValueError(f"{where}: {root / DATA / uri} is missing; complete the bundle, or leave the task out")


def _baselines(root: Place) -> dict[str, str]:
    """The column of eval_meta_data.csv that says what guessing gets, by task."""
    path = root / BASELINES
    if not path.is_file():
        raise ValueError(f"{path} is missing; complete the bundle")
    try:
        rows = list(csv.DictReader(io.StringIO(_content(path).decode("utf-8-sig"), newline=""), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: not CSV ({error})") from None
    return {row.get("Eval Task") or "": row.get("Random baseline") or "" for row in rows}


def _baseline(root: Place, label: str, baselines: dict[str, str]) -> float:
    given = baselines.get(label)
    try:
        value = float(given or "")
    except ValueError:
        value = math.nan
    if not 0 <= value < 100:
        raise ValueError(f"{root / BASELINES}: Random baseline of {label!r} = {given!r}: needs a percentage below 100")
    return value


def _content(place: Place) -> bytes:
    with _damage_named(place):
        return place.read_bytes()
