"""What the recipes for GPUs fetch, cut from the shared data to a few megabytes: shards, tasks, words and CORE.

`serve(folder)` serves it as it is published (the tasks lie in a folder), through connections that break; a `Sources`
knows the settings that lead a recipe there. It tests nothing by itself.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet

from nanochat.data.corpora import CORPORA
from nanochat.evaluation.core_published import BASELINES, DATA, LIST
from nanochat.tasks.smoltalk import SmolTalk
from tests.broken_server import Site, broken_folder
from tests.paths import SHARED
from tests.published_core import zipped

HELD_OUT = "shard_00004.parquet"  # of the shared data; a corpus pins its own last shard
DOCUMENTS = 160  # of a shard, a million characters
CORE_ROWS = 14  # of a task: more than its ten shots
LINES = 3000  # of the long files of the tasks
EVERY = 20  # which words are kept, so that they begin with every letter
FAULTS = {  # each costs a second or two: what comes next is asked for after a while
    "shard_00000.parquet": ["cut", "stall"],
    "shard_00001.parquet": ["503"],
    "words.txt": ["cut"],
    "bundle.zip": ["reset", "cut"],
}


@dataclasses.dataclass(frozen=True)
class Sources:
    """Where the files are served, and the folder of the tasks."""

    sites: dict[str, Site]
    tasks: Path

    def settings(self) -> list[str]:
        """Execution knobs that say where everything is."""
        shards = self.sites["shard_00000.parquet"].url.replace("00000", "{index:05d}")
        return [
            f"download.url={shards}",
            "download.timeout_seconds=1",
            f"task_data.source={self.tasks}",
            f"task_data.words_source={self.sites['words.txt'].url}",
            f"core_data.source={self.sites['bundle.zip'].url}",
        ]


def missing() -> str:
    """What of the shared data is not at hand, or nothing."""
    needed = ("pretrain", "core", "conversations", "words_alpha.txt", "mc_aux_train.jsonl", "humaneval.jsonl")
    return ", ".join(name for name in needed if not (SHARED / "data" / name).exists())


@contextlib.contextmanager
def serve(folder: Path) -> Iterator[Sources]:
    """Serves what it cuts; every file of FAULTS breaks as it says there, once."""
    shared = SHARED / "data"
    bodies = {
        name: _shard(shared / "pretrain" / name, folder) for name in ("shard_00000.parquet", "shard_00001.parquet")
    }
    held_out = _shard(shared / "pretrain" / HELD_OUT, folder)
    for corpus in CORPORA.values():
        if corpus.url:
            bodies[f"shard_{corpus.validation_shard:05d}.parquet"] = held_out
    words = (shared / "words_alpha.txt").read_bytes().splitlines(keepends=True)
    bodies |= {"words.txt": b"".join(words[::EVERY]), "bundle.zip": zipped(_core(folder / "bundle"))}
    with broken_folder(bodies) as sites:
        for name, faults in FAULTS.items():
            sites[name].faults = list(faults)
        yield Sources(sites, _tasks(folder / "tasks"))


def _shard(path: Path, folder: Path) -> bytes:
    """The first documents of a shard, as a shard."""
    cut = folder / path.name
    pyarrow.parquet.write_table(pyarrow.parquet.ParquetFile(path).read_row_group(0).slice(0, DOCUMENTS), cut)
    return cut.read_bytes()


def _tasks(folder: Path) -> Path:
    """The published files of the tasks, and conversations of the form that smoltalk takes."""
    folder.mkdir()
    for path in (SHARED / "data").glob("*.jsonl"):
        with path.open(encoding="utf-8") as lines:
            (folder / path.name).write_text("".join(itertools.islice(lines, LINES)), encoding="utf-8")
    for split, name in (("train", "mix_train.jsonl"), ("test", "mix_val.jsonl")):
        with (SHARED / "data" / "conversations" / name).open(encoding="utf-8") as lines:
            kept = list(itertools.islice(filter(_is_smoltalk, lines), LINES))
        (folder / f"smoltalk_{split}.jsonl").write_text("".join(kept), encoding="utf-8")
    return folder


def _is_smoltalk(line: str) -> bool:
    try:
        SmolTalk.normalise(json.loads(line))
    except ValueError:
        return False
    return True


def _core(folder: Path) -> Path:
    """The bundle with few rows of each of its tasks."""
    (folder / DATA).mkdir(parents=True)
    for name in (LIST, BASELINES):
        shutil.copyfile(SHARED / "data" / "core" / name, folder / name)
    for path in (SHARED / "data" / "core").glob("*.jsonl"):
        with path.open(encoding="utf-8") as lines:
            rows = "".join(itertools.islice(lines, CORE_ROWS))
        (folder / DATA / path.name).write_text(rows, encoding="utf-8")
    return folder
