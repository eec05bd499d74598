"""Which column of a parquet file holds the text: one answer for preflight and for the reader.

Promises: what preflight accepts the reader reads, and the columns that an error names would be accepted. Text is
strings or UTF-8 bytes, plain or as a dictionary, in a column or in a field of a struct (`meta.text`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa


def check(schema: pa.Schema, name: str, what: str) -> None:
    """ValueError, if the column or field `name` is not there or holds no text; it names those that would do."""
    found = dict(_leaves(schema))
    if name in found and holds_text(found[name]):
        return
    able = [each for each, kind in found.items() if holds_text(kind)]
    remedy = f"take {', '.join(able)}" if able else "none of its columns holds text"
    trouble = f"in {what} it holds {found[name]}, not text" if name in found else f"{what} has no such column"
    raise ValueError(f"download.text_column = {name!r}: {trouble}: {remedy}")


def holds_text(kind: pa.DataType) -> bool:
    """Whether values of the type are text: strings, or bytes, which are read as UTF-8."""
    import pyarrow.types as types

    if types.is_dictionary(kind):
        return holds_text(kind.value_type)
    tests = ("is_string", "is_large_string", "is_string_view", "is_binary", "is_large_binary", "is_binary_view")
    return any(getattr(types, test)(kind) for test in tests)


def _leaves(schema: pa.Schema) -> Iterator[tuple[str, Any]]:
    """Columns by name, and fields of structs by their path."""
    import pyarrow.types as types

    todo = [(field.name, field.type) for field in reversed(schema)]
    while todo:
        path, kind = todo.pop()
        yield path, kind
        if types.is_struct(kind):
            todo += [(f"{path}.{kind.field(i).name}", kind.field(i).type) for i in reversed(range(kind.num_fields))]


def texts(batch: pa.RecordBatch, name: str, what: str) -> list[str | None]:
    """The texts of that column of a batch which was read with it alone. ValueError: bytes that are not UTF-8."""
    import pyarrow.compute as pc

    column = batch.column(0)
    rest = name.removeprefix(batch.schema.names[0])
    while rest:  # a field: the structs around it have come, with it alone; a name may itself hold dots
        (field,) = column.type
        column, rest = pc.struct_field(column, [0]), rest.removeprefix(f".{field.name}")
    try:
        return [value.decode() if isinstance(value, bytes) else value for value in column.to_pylist()]
    except UnicodeDecodeError as error:
        raise ValueError(f"{what}: the text is not valid UTF-8: {error}") from error
