"""What the knobs of `download` mean, what they are refused for, and what the embedded corpus is made of.

The embedded corpus is made here from small folders laid in the place of the environment, and its splitting at quotes is
compared with Python's own parser.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import platform
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat.data import python_docs, sources
from nanochat.data.corpora import CORPORA
from nanochat.data.corpus_preflight import preflight
from nanochat.data.sources import (
    HuggingFaceDataset,
    ParquetShards,
    PythonDocs,
    environment_digest,
    parse_source,
)
from nanochat.pipeline import Download
from nanochat.workflow.plan import plan

WEB = {"corpus": "web", "url": "https://example.org/shard_{index:05d}.parquet", "validation_shard": 9}


def test_the_three_kinds_of_source():
    assert parse_source(Download()) == PythonDocs("auto")
    shards = parse_source(Download(**WEB, text_column="body"))
    assert shards == ParquetShards(WEB["url"], "body", 9)
    assert [shards.url_of_part(part)[-13:] for part in (0, 1, 2)] == ["00009.parquet", "00000.parquet", "00001.parquet"]
    dataset = parse_source(Download(corpus="hub", url="datasets:org/name/default/train"))
    assert dataset == HuggingFaceDataset("org/name", "default", "train", "text", -1)
    assert "org/name" in dataset.describe()
    assert "example.org" in shards.describe()


@pytest.mark.parametrize(
    ("knobs", "said"),
    [
        ({"corpus": "web"}, r"download.corpus = 'web' needs download.url"),
        ({"corpus": "climbmx"}, r"unknown corpus 'climbmx': did you mean 'climbmix'"),
        ({"corpus": "u p"}, r"download.corpus = 'u p': it is part of addresses"),
        ({"corpus": "climbmix", "num_shards": 6543}, r"num_shards = 6543: climbmix has 6542 shards to train on"),
        ({"corpus": "climbmix", "validation_shard": 6543}, r"the last shard of climbmix is number 6542"),
        ({"corpus": "climbmix", "validation_shard": 0}, r"validation_shard = 0 is one of the 1 training shards"),
        ({"corpus": "/mine", "url": "https://host/{index}"}, r"download.url = .* with the folder '/mine'"),
        ({"corpus": "/mine", "url": "folder:/mine"}, r"leave the url empty"),
        ({"corpus": "mine", "url": "folder:mine"}, r"leave the url empty"),
        ({"corpus": "~/mine", "validation_shard": 1}, r"validation_shard = 1 with the folder '~/mine'"),
        ({"corpus": "./mine", "environment": "new"}, r"environment = 'new' with the folder './mine'"),
        (WEB | {"url": "ftp://host/{index}"}, r"unknown kind of source 'ftp'"),
        (WEB | {"url": "https://host/shard.parquet"}, r"needs the shard number"),
        (WEB | {"url": "https://host/{index}{other}"}, r"needs the shard number"),
        (WEB | {"url": "https://host/{index.real}"}, r"needs the shard number"),
        (WEB | {"url": "file://data/{index}"}, r"write the absolute path after three slashes"),
        (WEB | {"validation_shard": -1}, r"download.validation_shard = -1: pin a shard"),
        (WEB | {"num_shards": 10}, r"download.validation_shard = 9 is one of the 10 training shards"),
        (WEB | {"url": "datasets:name/train"}, r"write datasets:PATH/CONFIG/SPLIT"),
        (WEB | {"url": "datasets:a/b/c", "validation_shard": -2}, r"download.validation_shard = -2: give the number"),
        ({"url": "https://host/{index}"}, r"download.url = 'https://host/\{index\}' with the corpus 'python-docs'"),
        ({"validation_shard": 3}, r"download.validation_shard = 3 with"),
        ({"text_column": "body"}, r"download.text_column = 'body' with"),
        ({"num_shards": 5}, r"download.num_shards = 5 with the corpus 'python-docs': it has 4 shards"),
        ({"environment": "mine"}, r"download.environment = 'mine' with"),
    ],
)
def test_what_does_not_go_together_is_refused_with_the_knob_and_the_remedy(knobs, said):
    with pytest.raises(ValueError, match=said):
        Download(**knobs)


def test_a_name_of_the_table_is_enough_and_however_it_is_said_the_address_is_one():
    table = CORPORA["climbmix"]
    short = Download(corpus="climbmix", num_shards=9)
    assert parse_source(short) == ParquetShards(table.url, "text", 6542)
    assert short.resolved().resolved() == short.resolved()
    ways = [
        short,
        short.replaced(validation_shard=6542),
        short.replaced(url="file:///mirror/{index}", text_column="text"),
    ]
    assert len({plan([way])[0].address for way in ways}) == 1
    assert parse_source(ways[-1]).pattern == "file:///mirror/{index}"
    assert plan([short.replaced(validation_shard=6541)])[0].address != plan([short])[0].address


@pytest.mark.parametrize("corpus", [each for each in CORPORA.values() if each.url])
def test_every_corpus_of_the_table_can_be_taken_whole(corpus):
    source = parse_source(Download(corpus=corpus.name, num_shards=corpus.num_training_shards))
    urls = {source.url_of_part(part) for part in range(corpus.num_shards)}
    assert len(urls) == corpus.num_shards


def write(path, texts, column="text"):
    pq.write_table(pa.table({column: texts}), path)


def on_disk(folder, **knobs):
    return Download(
        corpus="mine", url=f"file://{folder}/a%20{{index}}.parquet", validation_shard=2, num_shards=2, **knobs
    )


def test_preflight_counts_the_training_text_of_local_shards(tmp_path):
    for index in range(3):
        write(tmp_path / f"a {index}.parquet", [f"{number} text {index}" for number in range(1000 * (index + 1))])
    size = preflight(on_disk(tmp_path))
    exact = sum(len(f"{number} text {index}") for index in (0, 1) for number in range(1000 * (index + 1)))
    assert exact <= size <= 1.6 * exact  # four bytes of length for each document


def test_preflight_refuses_what_is_not_there(tmp_path):
    for index in range(2):
        write(tmp_path / f"a {index}.parquet", ["x"])
    with pytest.raises(ValueError, match=r"a%202.parquet of download.url: there is no such file"):
        preflight(on_disk(tmp_path))
    write(tmp_path / "a 2.parquet", ["x"], column="body")
    with pytest.raises(ValueError, match=r"download.text_column = 'text': shard .* has no such column: take body"):
        preflight(on_disk(tmp_path))
    (tmp_path / "a 2.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(ValueError, match="not a readable parquet file"):
        preflight(on_disk(tmp_path))
    with pytest.raises(ValueError, match="there is no folder /nowhere/at/all"):
        preflight(Download(corpus="mine", url="datasets:/nowhere/at/all/default/train"))


def test_preflight_does_not_know_what_lies_elsewhere():
    assert preflight(Download(**WEB)) is None
    assert preflight(Download(corpus="hub", url="datasets:org/name/default/train")) is None


STDLIB_MODULE = '''"""The module says what it is for, at some length, so that it counts as a document of the corpus we make."""

TEMPLATE = """This string opens no line, so it is no documentation, however long it may be, and however much it says.
"""


def function():
    \'\'\'A function has a docstring of its own.

    Its lines lose the indentation they share; but an example
        stays indented, and all of this is one document of the corpus.
    \'\'\'
'''


def lay_environment(root, order, versions="1.0"):
    """A standard library and a site-packages folder with a few files, made in the given order."""
    long = " and says so in a sentence that is long enough to count as a document, whatever else may be."
    files = {
        "stdlib/module.py": STDLIB_MODULE,
        "stdlib/test/test_it.py": f'"""A test explains itself{long}"""',
        "site/package/__init__.py": f'"""The package explains itself{long}"""\n',
        "site/package/copy.py": f'"""THE package  explains itself{long} 2"""\n',
        "site/package/short.py": '"""Too short."""\n',
        "site/package/table.py": '"""' + "0x00 0x01\n" * 40 + '"""\n',
        "site/package/latin.py": b'# coding: latin-1\n"""Encod\xe9d text explains itself' + long.encode() + b'"""\n',
        "site/package/README.md": f"# Package\n\nThe README explains itself{long}\n",
        "site/package/LICENSE.md": f"The licence explains itself{long}\n",
        f"site/package-{versions}.dist-info/METADATA": f"Name: package\n\nThe description explains itself{long}\n",
        "site/nanochat/__init__.py": f'"""Our own text explains itself{long}"""\n',
        "site/nanobpe-0.1.dist-info/METADATA": f"Name: nanobpe\n\nOur description explains itself{long}\n",
    }
    for name in sorted(files, reverse=order):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        text = files[name]
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return {"stdlib": str(root / "stdlib"), "purelib": str(root / "site"), "platlib": str(root / "site")}


@pytest.fixture
def environment(tmp_path, monkeypatch):
    """Lays an environment in a folder of its own and makes it the one that is looked at."""
    count = itertools.count()

    def lay(order=False, versions="1.0"):
        paths = lay_environment(tmp_path / str(next(count)), order, versions)
        monkeypatch.setattr(sources.sysconfig, "get_paths", lambda: paths)

    return lay


def test_the_embedded_corpus_is_the_documentation_and_nothing_else(environment):
    environment()
    from pydoc_data.topics import topics

    texts = set(python_docs.documents().values()) - {text.strip() for text in topics.values()}
    assert sorted(" ".join(text.split()[:3]) for text in texts) == [
        "# Package The",
        "A function has",
        "THE package explains",  # of two that differ in case, blanks and digits, the first in the order of bytes
        "The description explains",
        "The module says",
    ]
    assert "\n\nIts lines lose the indentation they share; but an example\n    stays" in "".join(texts)


def test_the_embedded_corpus_does_not_depend_on_where_and_in_which_order_it_lies(environment):
    environment(order=False)
    first = python_docs.split(python_docs.documents())
    environment(order=True)
    assert python_docs.split(python_docs.documents()) == first


def test_the_digest_of_an_environment_is_its_versions(environment, monkeypatch):
    environment()
    one = environment_digest()
    environment(order=True)
    assert environment_digest() == one
    environment(versions="1.1")
    assert environment_digest() != one
    environment()
    monkeypatch.setattr(platform, "python_version", lambda: "3.99.0")
    assert environment_digest() != one


def test_another_environment_than_the_planned_one_is_refused(environment):
    environment()
    planned = environment_digest()
    assert python_docs.shard(1, planned) == python_docs.shard(1, "auto")
    environment(versions="1.1")
    with pytest.raises(ValueError, match=rf"download.environment = '{planned}', but the Python and packages"):
        python_docs.shard(1, planned)


def test_preflight_estimates_the_embedded_corpus(environment):
    environment()
    one, four = preflight(Download()), preflight(Download(num_shards=4))
    assert 0 < one <= four / 3.9


@given(st.lists(st.binary(min_size=16, max_size=16), unique=True, max_size=400))
def test_shards_and_held_out_documents_are_a_partition(keys):
    held_out, *shards = python_docs.split({key: key.hex() for key in keys})
    everything = [text for part in (held_out, *shards) for text in part]
    assert sorted(everything) == sorted(key.hex() for key in keys)
    assert len(held_out) == len(keys) // 100
    assert len(shards) == sources.PYTHON_DOCS_SHARDS


def test_at_most_five_hundred_documents_are_held_out():
    held_out, *_ = python_docs.split({number.to_bytes(16, "big"): "" for number in range(60_000)})
    assert len(held_out) == 500


@pytest.mark.parametrize("module", ["argparse", "logging", "typing", "pathlib"])
def test_splitting_at_quotes_finds_the_docstrings_that_the_parser_finds(module):
    __import__(module)
    source = inspect.getsource(sys.modules[module])
    nodes = [n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Module | ast.ClassDef | ast.FunctionDef)]
    parsed = [ast.get_docstring(node) for node in nodes]
    found = {b" ".join(python_docs.clean(text).split()) for text in python_docs.docstrings(source.encode())}
    missed = [
        doc
        for doc in parsed
        if doc and len(doc) >= 100 and "\\" not in doc and " ".join(doc.split()).encode() not in found
    ]
    assert missed == []


@given(st.lists(st.text(st.sampled_from("ab \n"), max_size=12), max_size=6))
def test_clean_is_what_the_standard_library_does_but_for_trailing_blanks(lines):
    text = "x\n" + "\n".join(lines)
    expected = "\n".join(line.rstrip() for line in inspect.cleandoc(text).splitlines()).strip()
    got = "\n".join(line.rstrip() for line in python_docs.clean(text.encode()).decode().splitlines()).strip()
    assert got == expected


def test_tabs_count_as_the_blanks_they_stand_for():
    assert python_docs.clean(b"first\n\tsecond\n        third  \n") == b"first\nsecond\nthird"
