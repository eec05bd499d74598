"""Texts in every form count alike, files as their contents, and what is no text is refused by where it lies."""

import gzip
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import nanobpe
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

TEXT = st.text(st.sampled_from(list("ab é\n\r\t!/日\u0301\u3000\U0001f600")), max_size=40)
ROWS = st.lists(TEXT | st.none(), max_size=12)
SOME = ["some words", "", None, "naïve\n\n日本語", "0123"]


def there(rows: list[str | None]) -> list[str]:
    return [row for row in rows if row is not None]


def same(texts: object, expected: list[str], **knobs: object) -> bool:
    found = nanobpe.count(texts, **knobs)  # type: ignore[arg-type]
    return found.items() == nanobpe.count(expected).items() and found.total_bytes == sum(
        len(t.encode()) for t in expected
    )


@given(ROWS, st.sampled_from([pa.string(), pa.large_string(), pa.binary(), pa.large_binary()]), st.data())
@settings(max_examples=200, deadline=None)
def test_bytes_and_arrow_arrays_and_their_slices_count_as_strings(
    rows: list, kind: pa.DataType, data: st.DataObject
) -> None:
    encoded = [row and row.encode() for row in rows]
    assert same([text.encode() for text in there(rows)], there(rows))
    array = pa.array(encoded, pa.binary()).cast(kind)
    start = data.draw(st.integers(0, len(rows)))
    part, expected = array.slice(start), there(rows[start:])
    assert same(part, expected)
    assert same([part, "more"], [*expected, "more"])
    assert same(pa.chunked_array([array, part]), there(rows) + expected)
    assert same(pa.concat_arrays([array, part]).slice(start), (there(rows[start:]) + expected))


def test_an_arrow_array_of_many_batches_counts_as_its_strings() -> None:
    rows = ["some words, and more\n" * 5000, None, "x"] * 200
    assert same(pa.array(rows), there(rows))
    assert same(pa.array(["a b"] * 200_000), ["a b"] * 200_000)


@given(ROWS, st.integers(1, 60), st.booleans())
@settings(max_examples=100, deadline=None)
def test_files_count_as_their_contents(tmp_path_factory, rows: list, batch_bytes: int, ahead: bool) -> None:
    folder = tmp_path_factory.mktemp("files")
    pq.write_table(
        pa.table({"n": range(len(rows)), "text": pa.array(rows, pa.string())}), folder / "a.parquet", row_group_size=5
    )
    lines = [json.dumps({"n": i, "text": row}, ensure_ascii=i % 2 == 0) for i, row in enumerate(rows)]
    (folder / "a.jsonl").write_bytes("\n".join(lines).encode())
    (folder / "A.NDJSON").write_bytes("\r\n\n".join([*lines, ""]).encode())
    for name in ("a.parquet", "a.jsonl", "A.NDJSON"):
        read = list(nanobpe.read(folder / name, batch_bytes=batch_bytes, ahead=ahead))
        assert [text for batch in read for text in batch.to_list()] == there(rows)
        assert sum(batch.num_bytes for batch in read) == sum(len(text.encode()) for text in there(rows))
        assert same(nanobpe.read([folder / name]), there(rows))
    plain = "".join(there(rows))
    (folder / "a.txt").write_bytes(plain.encode())
    assert same(nanobpe.read(str(folder / "a.txt"), batch_bytes=batch_bytes, ahead=ahead), [plain])


def test_long_plain_text_and_a_long_text_count_as_one(tmp_path: Path) -> None:
    line = "Some words, and more: 1234 !/\n" * 10 + "\n  \n/path 字。\n"
    text = line * 6000
    (tmp_path / "a.md").write_text(text, newline="", encoding="utf-8")
    expected = nanobpe.count([line * 6]).items()
    for texts in ([text], nanobpe.read(tmp_path / "a.md"), nanobpe.read(tmp_path / "a.md", batch_bytes=1000)):
        assert nanobpe.count(texts).items() == [(word, n * 1000) for word, n in expected]
    assert len(next(nanobpe.read(tmp_path / "a.md"))) > 4


def test_columns_encoded_in_other_ways_are_read(tmp_path: Path) -> None:
    for number, array in enumerate(
        [
            pa.array(SOME).dictionary_encode(),
            pa.array(SOME, pa.string_view()),
            pa.array([row and row.encode() for row in SOME]),
        ]
    ):
        path = tmp_path / f"{number}.parquet"
        pq.write_table(pa.table({"body": array}), path)
        assert same(nanobpe.read(path, column="body"), there(SOME))


def test_many_files_of_all_kinds_train_at_once(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["low lower"]}), tmp_path / "a.parquet")
    (tmp_path / "b.json").write_bytes(b'\xef\xbb\xbf{"text": "lowest"}\n')
    (tmp_path / "c.txt").write_text("new newer newest", encoding="utf-8")
    learnt = nanobpe.train(nanobpe.read(tmp_path / name for name in ("a.parquet", "b.json", "c.txt")), vocab_size=259)
    assert learnt == nanobpe.train(["low lower", "lowest", "new newer newest"], vocab_size=259)


def not_utf8(folder: Path) -> Path:
    column = pa.array([b"good", b"good", b"caf\xe9"])
    raw = pa.Array.from_buffers(pa.string(), 3, column.buffers())
    pq.write_table(pa.table({"text": raw}), folder / "bad.parquet", row_group_size=2)
    return folder / "bad.parquet"


def written(folder: Path, name: str, content: bytes) -> Path:
    (folder / name).write_bytes(content)
    return folder / name


@pytest.mark.parametrize(
    ("error", "message", "path", "column"),
    [
        (nanobpe.TextError, r"bad\.parquet, row 2: not UTF-8 at its byte 3", not_utf8, "text"),
        (nanobpe.FileFormatError, r"bad\.parquet: no column 'body'; it has 'text'", not_utf8, "body"),
        (nanobpe.TextError, r"a\.jsonl, line 3: EOF", lambda f: written(f, "a.jsonl", b'{"text": "a"}\n\n{"text": "b"'), "text"),
        (nanobpe.TextError, r"a\.json, line 1: .* no key \"body\"", lambda f: written(f, "a.json", b'{"text": "a"}'), "body"),
        (nanobpe.TextError, r"line 2: .*expected a string", lambda f: written(f, "a.json", b'{"text": ""}\n{"text": 5}'), "text"),
        (nanobpe.TextError, r"line 1: .*unicode", lambda f: written(f, "a.json", b'{"text": "\xe9"}'), "text"),
        (nanobpe.TextError, r"a\.txt: not UTF-8 at byte 6", lambda f: written(f, "a.txt", b"a\nb\nc\n\xe9"), "text"),
        (nanobpe.FileFormatError, r"a\.parquet: not a whole Parquet file", lambda f: written(f, "a.parquet", b"PAR1"), "text"),
        (nanobpe.FileFormatError, r"not a whole Parquet file", lambda f: truncated(f), "text"),
        (nanobpe.FileFormatError, r"column 'text' holds int64, not text", lambda f: numbers(f), "text"),
        (nanobpe.FileFormatError, r"a\.txt\.gz: nanobpe reads \.parquet, .*\.txt", lambda f: zipped(f), "text"),
    ],
)  # fmt: skip
def test_a_file_that_is_not_what_it_should_be_is_named(
    tmp_path: Path, error: type[Exception], message: str, path: Callable[[Path], Path], column: str
) -> None:
    assert issubclass(error, nanobpe.NanobpeError)
    with pytest.raises(error, match=message):
        nanobpe.train(nanobpe.read(path(tmp_path), column=column, batch_bytes=4), vocab_size=256)


def zipped(folder: Path) -> Path:
    return written(folder, "a.txt.gz", gzip.compress(b"text"))


def numbers(folder: Path) -> Path:
    pq.write_table(pa.table({"text": [1]}), folder / "a.parquet")
    return folder / "a.parquet"


def truncated(folder: Path) -> Path:
    pq.write_table(pa.table({"text": [str(i) * 50 for i in range(5000)]}), folder / "whole.parquet")
    whole = (folder / "whole.parquet").read_bytes()
    middle = len(whole) // 2
    return written(folder, "a.parquet", whole[: middle - 9000] + bytes(18000) + whole[middle + 9000 :])


def test_files_that_are_missing_are_refused_at_once_and_those_that_vanish_when_reached(tmp_path: Path) -> None:
    here, gone = written(tmp_path, "a.txt", b"some text"), written(tmp_path, "b.parquet", b"")
    with pytest.raises(FileNotFoundError, match=r"absent\.txt"):
        nanobpe.read([here, tmp_path / "absent.txt"])
    (tmp_path / "folder.txt").mkdir()
    with pytest.raises(IsADirectoryError, match="folder"):
        nanobpe.read(tmp_path / "folder.txt")
    with pytest.raises(nanobpe.NanobpeError, match="batch_bytes=0"):
        nanobpe.read(here, batch_bytes=0)
    for name in ("b.parquet", "b.jsonl", "b.txt"):
        gone = written(tmp_path, name, b"")
        texts = nanobpe.read([here, gone])
        gone.unlink()
        with pytest.raises(FileNotFoundError, match=name):
            nanobpe.count(texts)


def test_parquet_without_pyarrow_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(nanobpe.FileFormatError, match=r"pip install 'nanobpe\[parquet\]'"):
        nanobpe.read(tmp_path / "a.parquet")


@pytest.mark.parametrize(
    ("error", "message", "texts"),
    [
        (TypeError, "not one str: put it in a list", "one text"),
        (TypeError, "not one bytes: put it in a list", b"one text"),
        (TypeError, "not iterable", 5),
        (TypeError, "text 1 is of type int", ["a", 5]),
        (TypeError, "array of dictionary", pa.array(["a"]).dictionary_encode()),
        (TypeError, "array of int64 is none of strings: cast", ["a", pa.array([1])]),
        (TypeError, "array of string_view", pa.array(["a"], pa.string_view())),
        (nanobpe.TextError, r"text 2: .*surrogates not allowed", ["a", "b", "x\ud800"]),
        (nanobpe.TextError, "text 1: not UTF-8 at its byte 3", ["a", b"caf\xe9"]),
        (nanobpe.TextError, "text 3: not UTF-8 at its byte 0", ["a", pa.array([b"a", None, b"\xff"])]),
        (nanobpe.TextError, "text 4: not UTF-8", [pa.array(["a", None, None, "b"]), b"\xff"]),
    ],
)
def test_what_is_no_text_is_refused_by_its_number(error: type[Exception], message: str, texts: object) -> None:
    with pytest.raises(error, match=message):
        nanobpe.count(texts)  # type: ignore[arg-type]


class Lying:
    """An array of one row or two whose buffers are not what they should be, which pyarrow itself would not make."""

    type, offset = "string", 0

    def __init__(self, offsets: list[int] | None, data: bytes | None, offset: int = 0) -> None:
        self.rows = len(offsets) - 1 if offsets else 1
        self.offset = offset
        packed = offsets and b"".join(number.to_bytes(4, sys.byteorder, signed=True) for number in offsets)
        self.all_buffers: list[bytes | None] = [None, packed or None, data]

    def __len__(self) -> int:
        return self.rows

    def buffers(self) -> list[bytes | None]:
        return self.all_buffers


@pytest.mark.parametrize(
    "array",
    [
        Lying([0, 5], b"ab"),
        Lying([2, 0], b"ab"),
        Lying([-1, 1], b"ab"),
        Lying([0, 2, 1], b"ab"),
        Lying([0, 2, 9], b"ab"),
        Lying([0, 2], None),
        Lying(None, b"ab"),
        Lying([0, 2], b"ab", offset=7),
    ],
)
def test_an_arrow_array_whose_buffers_lie_is_refused(array: Lying) -> None:
    with pytest.raises((nanobpe.TextError, TypeError), match="Arrow array"):
        nanobpe.count([array])


class Endless(Lying):
    """Claims more rows than any machine has, or to be made of itself."""

    def __init__(self, **also: object) -> None:
        super().__init__([0, 2], b"ab")
        self.rows, self.all_buffers = sys.maxsize, [None, None, None]
        vars(self).update(also)


def test_an_array_without_end_is_refused() -> None:
    itself = Endless()
    for array in (Endless(), Endless(offset=sys.maxsize), Endless(chunks=[Endless()]), itself):
        itself.chunks = [itself]  # type: ignore[attr-defined]
        with pytest.raises((nanobpe.TextError, TypeError), match="Arrow array"):
            nanobpe.count(array)


def test_names_of_files_and_columns_may_be_any(tmp_path: Path) -> None:
    column = pa.array([{"text": "ab"}])
    pq.write_table(pa.table({"doc.text": ["low lower"], "doc": column, "\u00e9.": ["a"]}), tmp_path / "a.parquet")
    texts = nanobpe.read(tmp_path / "a.parquet", column="doc.text")
    assert same(texts, ["low lower"])
    assert same(nanobpe.read(tmp_path / "a.parquet", column="\u00e9."), ["a"])
    odd = tmp_path / b"caf\xe9.txt".decode("utf-8", "surrogateescape")
    odd.write_text("low lower", encoding="utf-8")
    assert same(nanobpe.read(odd), ["low lower"])
    odd.write_bytes(b"\xff")
    with pytest.raises(nanobpe.TextError, match=r"caf.*udce9"):
        nanobpe.count(nanobpe.read(odd))
    (tmp_path / "a.jsonl").write_text('{"text": "a"}', encoding="utf-8")
    with pytest.raises(nanobpe.TextError, match="no key"):
        nanobpe.count(nanobpe.read(tmp_path / "a.jsonl", column="\ud800"))


def test_an_error_of_the_texts_themselves_comes_through() -> None:
    def texts() -> Iterator[str]:
        yield "a"
        raise LookupError("shard lost")

    with pytest.raises(LookupError, match="shard lost"):
        nanobpe.train(texts(), vocab_size=256)
