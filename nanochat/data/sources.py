"""Where the text comes from: the knobs of `download`, parsed into one of four kinds of source.

Parquet shards behind https://, s3:// or file:// (those of corpora.py by their name alone), a Hugging Face dataset, a
folder of one's own, or the documentation of the installed Python (`python-docs`, the embedded default). Promises: what
does not go together is refused before anything is fetched; two ways of saying the same are resolved to the same knobs.
It fetches nothing and opens no file but for a digest. Not here: how much text there is (corpus_preflight.py).
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import platform
import re
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote

from nanochat.data import own_text
from nanochat.data.corpora import CORPORA, PYTHON_DOCS, Corpus
from nanochat.data.web import quoted
from nanochat.errors import unknown
from nanochat.locations import INDEX, bucket_of, folder_of
from nanochat.redaction import redacted

PYTHON_DOCS_SHARDS = CORPORA[PYTHON_DOCS].num_training_shards
FETCHED = "source.parquet"  # a shard as it came, in the work folder of its part
SCHEMES = ("https", "http", "s3", "file")
DIGEST = r"auto|[0-9a-f]{12}"
GIVE_DIGEST = "give the 12 hexadecimal digits that `nanochat explain` shows, or auto"
OURS = ("nanochat", "nanobpe")  # never part of the corpus: it would change with every edit
SKIPPED_FOLDERS = {"test", "tests", "__pycache__", "site-packages", "dist-packages", "licenses"}
SKIPPED_FILES = {"_virtualenv.py"}  # written by some makers of environments and not by others


class SourceKnobs(Protocol):
    """The knobs of the stage `download` that say where the text comes from; they are explained there."""

    @property
    def corpus(self) -> str: ...
    @property
    def url(self) -> str: ...
    @property
    def num_shards(self) -> int: ...
    @property
    def validation_shard(self) -> int: ...
    @property
    def text_column(self) -> str: ...
    @property
    def environment(self) -> str: ...


@dataclasses.dataclass(frozen=True)
class PythonDocs:
    """Documentation text of the standard library and of the installed packages."""

    environment: str  # digest of the versions, or auto

    def describe(self) -> str:
        return f"{PYTHON_DOCS} of environment {self.environment}"


@dataclasses.dataclass(frozen=True)
class ParquetShards:
    """Numbered parquet files; one of them is pinned for validation."""

    pattern: str  # with {index} or {index:05d}
    text_column: str
    validation_shard: int

    @property
    def scheme(self) -> str:
        return _scheme(self.pattern)

    def url_of_part(self, part: int) -> str:
        """Part 0 is the validation shard, part i the training shard i - 1."""
        return self.pattern.format(index=part - 1 if part else self.validation_shard)

    def path_of_part(self, part: int) -> Path:
        """The same as a path of this machine; only for file://. As it is written, else percent-decoded."""
        assert self.scheme == "file", self.pattern
        path = folder_of(self.url_of_part(part))
        return path if path.exists() else Path(unquote(str(path)))

    def describe(self) -> str:
        return f"{redacted(self.pattern)} (column {self.text_column}, validation shard {self.validation_shard})"


@dataclasses.dataclass(frozen=True)
class HuggingFaceDataset:
    """A split of a Hugging Face dataset; its files are the shards."""

    path: str  # on the hub, or a folder of this machine
    config: str
    split: str
    text_column: str
    validation_shard: int  # -1: every hundredth document of the first file

    def describe(self) -> str:
        return f"datasets:{self.path}/{self.config}/{self.split} (column {self.text_column})"


@dataclasses.dataclass(frozen=True)
class OwnText:
    """A folder of one's own, or a file."""

    path: Path  # from the root on
    label: str
    text_column: str
    num_shards: int
    environment: str  # digest of the files, or auto

    def describe(self) -> str:
        return f"{self.label} of one's own (column {self.text_column}, digest {self.environment})"


Source = PythonDocs | ParquetShards | HuggingFaceDataset | OwnText


@dataclasses.dataclass(frozen=True)
class Filled:
    """The knobs with what the table of corpora knows in the place of defaults."""

    corpus: str
    url: str
    num_shards: int
    validation_shard: int
    text_column: str
    environment: str


def parse_source(knobs: SourceKnobs) -> Source:
    """The source that the knobs of `download` mean.

    Raises:
        ValueError: knobs that do not go together, with knob, value and remedy.
    """
    if own_text.is_path(knobs.corpus) or knobs.url.startswith(own_text.SCHEME):
        return _own_text(knobs)
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._/-]*", knobs.corpus):
        raise ValueError(f"download.corpus = {knobs.corpus!r}: it is part of addresses: use letters, digits and ._-/")
    if knobs.corpus == PYTHON_DOCS:
        return _python_docs(knobs)
    knobs = _filled(knobs)
    if not knobs.url:
        raise ValueError(
            f"download.corpus = {knobs.corpus!r} needs download.url: https://, s3:// or file:// with {{index:05d}}, or "
            f"datasets:PATH/CONFIG/SPLIT; a folder of your own is written /..., ~/... or ./...; without these it is an "
            f"{unknown('corpus', knobs.corpus, CORPORA)}"
        )
    if (corpus := CORPORA.get(knobs.corpus)) is not None:
        _check_there(knobs, corpus)
    source = _dataset(knobs) if knobs.url.startswith("datasets:") else _parquet(knobs)
    if 0 <= knobs.validation_shard < knobs.num_shards:
        raise ValueError(
            f"download.validation_shard = {knobs.validation_shard} is one of the {knobs.num_shards} training shards "
            f"(0 to {knobs.num_shards - 1}): pin one outside of them"
        )
    return source


def resolve(knobs: SourceKnobs) -> dict[str, Any]:
    """The knobs that the table, the folder or this machine's packages fill in, with their values.

    A path becomes a label and a digest, which say what is there, and a url, which says where: no address has it.

    Raises:
        ValueError: the knobs do not go together, or there is no text in the folder.
    """
    source = parse_source(knobs)
    environment = knobs.environment
    if isinstance(source, OwnText):
        if environment == "auto":
            environment = own_text.digest(source.path, source.num_shards)
        url = f"{own_text.SCHEME}{source.path}"
        return {"corpus": source.label, "url": url, "environment": environment}
    if isinstance(source, PythonDocs):
        return {"environment": environment_digest() if environment == "auto" else environment}
    filled = _filled(knobs)
    names = ("url", "validation_shard", "text_column")
    return {name: getattr(filled, name) for name in names} | {"environment": ""}


def _filled(knobs: SourceKnobs) -> Filled:
    corpus = CORPORA.get(knobs.corpus)
    default = {"url": "", "validation_shard": -1, "text_column": "text"}
    values = {field.name: getattr(knobs, field.name) for field in dataclasses.fields(Filled)}
    left = {name for name, value in default.items() if values[name] == value} if corpus else set()
    return Filled(**values | {name: getattr(corpus, name) for name in left})


def _check_there(knobs: SourceKnobs, corpus: Corpus) -> None:
    """ValueError for more shards than the corpus has."""
    if knobs.num_shards > corpus.num_training_shards:
        raise ValueError(
            f"download.num_shards = {knobs.num_shards}: {corpus.name} has {corpus.num_training_shards} shards to train "
            f"on, and number {corpus.validation_shard} for validation: take at most {corpus.num_training_shards}"
        )
    if knobs.validation_shard >= corpus.num_shards:
        raise ValueError(
            f"download.validation_shard = {knobs.validation_shard}: the last shard of {corpus.name} is number "
            f"{corpus.num_shards - 1}: leave it at -1 to take that"
        )


def _own_text(knobs: SourceKnobs) -> OwnText:
    written = knobs.corpus
    if knobs.url.startswith(own_text.SCHEME):
        path = Path(written := knobs.url.removeprefix(own_text.SCHEME))
        if own_text.is_path(knobs.corpus) or not path.is_absolute():
            raise ValueError(
                f"download.url = {knobs.url!r} with download.corpus = {knobs.corpus!r}: leave the url empty and write "
                "the path of the folder as download.corpus"
            )
    elif knobs.url:
        raise ValueError(
            f"download.url = {redacted(knobs.url)!r} with the folder {knobs.corpus!r} as download.corpus: leave the "
            "url empty, or give the corpus a name"
        )
    if knobs.validation_shard != -1:
        raise ValueError(
            f"download.validation_shard = {knobs.validation_shard} with the folder {written!r}: every hundredth "
            "document of its first shard is held out: leave it at -1"
        )
    if not re.fullmatch(DIGEST, knobs.environment):
        raise ValueError(f"download.environment = {knobs.environment!r} with the folder {written!r}: {GIVE_DIGEST}")
    path = own_text.absolute(written)
    return OwnText(path, own_text.label(path), knobs.text_column, knobs.num_shards, knobs.environment)


def _python_docs(knobs: SourceKnobs) -> PythonDocs:
    for knob, wrong, remedy in (
        ("url", knobs.url != "", "it is made on this machine: leave it empty, or name another corpus"),
        ("validation_shard", knobs.validation_shard != -1, "it holds out documents of its own: leave it at -1"),
        ("text_column", knobs.text_column != "text", "it has no columns: leave it at 'text'"),
        ("num_shards", knobs.num_shards > PYTHON_DOCS_SHARDS, f"it has {PYTHON_DOCS_SHARDS} shards"),
        (
            "environment",
            not re.fullmatch(DIGEST, knobs.environment),
            GIVE_DIGEST,
        ),
    ):
        if wrong:
            raise ValueError(f"download.{knob} = {getattr(knobs, knob)!r} with the corpus {PYTHON_DOCS!r}: {remedy}")
    return PythonDocs(knobs.environment)


def _dataset(knobs: SourceKnobs) -> HuggingFaceDataset:
    path, _, rest = knobs.url.removeprefix("datasets:").rpartition("/")
    path, _, config = path.rpartition("/")
    if not (path and config and rest):
        raise ValueError(
            f"download.url = {knobs.url!r}: write datasets:PATH/CONFIG/SPLIT, e.g. datasets:a/b/default/train"
        )
    if knobs.validation_shard < -1:
        raise ValueError(
            f"download.validation_shard = {knobs.validation_shard}: give the number of a file of the dataset, "
            "or -1 for every hundredth document of the first"
        )
    return HuggingFaceDataset(path, config, rest, knobs.text_column, knobs.validation_shard)


def _parquet(knobs: SourceKnobs) -> ParquetShards:
    scheme, shown = _scheme(knobs.url), redacted(knobs.url)
    if scheme not in SCHEMES:
        raise ValueError(
            f"download.url = {shown!r}: unknown kind of source {scheme!r}: use https://, s3://, file:// or datasets:"
        )
    rest, count = INDEX.subn("", knobs.url)
    if not count or "{" in rest or "}" in rest:
        raise ValueError(
            f"download.url = {shown!r}: needs the shard number once or more, as in shard_{{index:05d}}.parquet"
        )
    _check_address(scheme, INDEX.sub("0", knobs.url))
    if knobs.validation_shard < 0:
        raise ValueError(
            f"download.validation_shard = {knobs.validation_shard}: pin a shard of {knobs.corpus!r} "
            "that is not trained on, such as its last"
        )
    return ParquetShards(knobs.url, knobs.text_column, knobs.validation_shard)


def _scheme(url: str) -> str:
    return url.partition("://")[0].lower() if "://" in url else url.partition(":")[0]


def _check_address(scheme: str, url: str) -> None:
    """ValueError for an address that nobody could ask, or a folder that is none."""
    try:
        if scheme == "file":
            folder_of(url)
        elif scheme == "s3":
            bucket_of(url)
        else:
            quoted(url)
            if "#" in url:
                raise ValueError(f"{redacted(url)!r}: nothing behind # is sent to a server: write %23")
    except ValueError as error:
        raise ValueError(f"download.url: {redacted(str(error))}") from error


def environment_digest() -> str:
    """12 hex digits of the versions of Python and of all installed packages but ours: what python-docs is made of.

    Names and versions are read off the names of the metadata folders (packaging.python.org, "Recording installed
    projects"): opening each METADATA instead takes 0.15 s for 220 packages.
    """
    versions = {
        re.sub(r"[-_.]+", "-", entry.name.rsplit(".", 1)[0]).lower()
        for folder in site_folders()
        for entry in os.scandir(folder)
        if entry.name.endswith((".dist-info", ".egg-info")) and not is_ours(entry.name)
    }
    lines = [f"python {platform.python_version()}", *sorted(versions)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]


def site_folders() -> list[Path]:
    """Where the packages of this environment are installed."""
    paths = sysconfig.get_paths()
    return [folder for folder in sorted({Path(paths["purelib"]), Path(paths["platlib"])}) if folder.is_dir()]


def is_ours(name: str) -> bool:
    """Whether a file or folder of site-packages belongs to this project."""
    return any(ours in name.lower() for ours in OURS)


def python_files() -> Iterator[Path]:
    """Files of the standard library and of the packages that may hold documentation, without tests and without ours."""
    stack = [Path(sysconfig.get_paths()["stdlib"]), *site_folders()]
    while stack:
        for entry in os.scandir(stack.pop()):
            if is_ours(entry.name) or entry.name in SKIPPED_FILES:
                continue
            if entry.is_dir(follow_symlinks=False):
                if entry.name not in SKIPPED_FOLDERS:
                    stack.append(Path(entry.path))
            elif entry.name.endswith((".py", ".md", ".rst")) or entry.name == "METADATA":
                yield Path(entry.path)
