"""A column of text in parquet files, streamed."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanogpt_kit.core.errors import Fault, KitError, did_you_mean
from nanogpt_kit.corpus.decompress import PIECE_BYTES, fault_at, head_of, unpacked
from nanogpt_kit.corpus.formats import by_magic, is_text

if TYPE_CHECKING:
    import pyarrow as pa  # type: ignore[import-untyped]
    from pyarrow.parquet import ParquetFile  # type: ignore[import-untyped]

BATCH_BYTES = 2 << 20  # of text that is decoded at once
BATCH_ROWS = 1024  # at the most

REMEDY = 'save it as UTF-8, or read it with dataset.use = "text" and dataset.errors = "replace"'


@contextmanager
def parquet_file(path: Path, codec: str | None) -> Iterator[ParquetFile]:
    """Opened, under a `codec` if there is one. Raises KitError for another format, also while it is read."""
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

    check_parquet(path, codec)
    with seekable(path, codec) as source:
        try:  # a small buffer and nothing ahead: a row group may be as large as the file
            with ParquetFile(source, buffer_size=PIECE_BYTES, pre_buffer=False) as file:
                yield file
        except (pa.ArrowException, OSError) as error:
            raise fault_at(path, f"not a parquet file, or damaged: {str(error).splitlines()[0]}") from None


def check_parquet(path: Path, codec: str | None) -> None:
    """Raises KitError where the content is of another format that is known."""
    with unpacked(path, codec) as file:
        head = head_of(file)
    found = by_magic(head) or ("plain text" if head and is_text(head) else None)
    if found and found != "parquet":
        raise fault_at(path, f"is {found}, not parquet in spite of its name; rename it to what it is")


@contextmanager
def seekable(path: Path, codec: str | None) -> Iterator[Any]:
    """Parquet is read from its end, so what is compressed once more has to be unpacked."""
    if codec is None:
        import pyarrow as pa

        with pa.OSFile(os.fsencode(path), "rb") as file:  # bytes: not every name is UTF-8
            yield file
        return
    with unpacked(path, codec) as packed, tempfile.TemporaryFile() as temporary:
        shutil.copyfileobj(packed, temporary, PIECE_BYTES)
        yield temporary


def parquet_texts(file: ParquetFile, field: str, place: str, errors: str = "strict") -> Iterator[str]:
    """A column of a parquet file, batch by batch. Raises KitError for what is no text, and pyarrow's own errors."""
    check_text_column(file.schema_arrow, field, place)
    rows = max(1, min(BATCH_ROWS, BATCH_BYTES * file.metadata.num_rows // max(1, column_bytes(file, field))))
    done = 0
    for batch in file.iter_batches(rows, columns=[field], use_threads=False):
        try:
            yield from texts_of(batch.column(0), errors)
        except UnicodeDecodeError:
            raise not_utf8(batch.column(0), done, field, place) from None
        done += len(batch)


def not_utf8(column: Any, first: int, field: str, place: str) -> KitError:
    """`first`: the number of the column's first row, from 0."""
    for row, raw in enumerate(raw_of(column), start=first):
        try:
            raw.decode("utf-8")
        except UnicodeDecodeError as error:
            byte = f"byte 0x{raw[error.start]:02x} at offset {error.start} of {field!r} in row {row}"
            return KitError(Fault(f"not UTF-8: {byte}; {REMEDY}", location=place))
    raise AssertionError("there is such a row")


def column_bytes(file: ParquetFile, field: str) -> int:
    """Of its pages, unpacked: what is equal may be there once."""
    groups = [file.metadata.row_group(number) for number in range(file.metadata.num_row_groups)]
    columns = [group.column(number) for group in groups for number in range(group.num_columns)]
    return sum(int(column.total_uncompressed_size) for column in columns if column.path_in_schema == field)


def check_text_column(schema: pa.Schema, field: str, place: str) -> None:
    """Raises KitError where there is no such column, or none of strings."""
    import pyarrow as pa

    if field not in schema.names:
        raise KitError(Fault(f"dataset.field: no column {field!r}{did_you_mean(field, schema.names)}", location=place))
    found = schema.field(field).type
    held = found.value_type if pa.types.is_dictionary(found) else found
    if held not in (pa.string(), pa.large_string(), pa.string_view(), pa.null()):
        texts = [name for name in schema.names if schema.field(name).type in (pa.string(), pa.large_string())]
        hint = f"; columns of strings: {', '.join(texts)}" if texts else ""
        what = "values of several types" if "arrow.json" in str(found) else str(found)
        raise KitError(Fault(f"dataset.field: column {field!r} holds {what}, no strings{hint}", location=place))


def texts_of(column: Any, errors: str = "strict") -> list[str]:
    """An arrow array or column of strings; null is empty. Raises UnicodeDecodeError: parquet may hold anything."""
    try:
        return [text or "" for text in column.to_pylist()]
    except UnicodeDecodeError:
        if errors == "strict":
            raise
        return [raw.decode("utf-8", errors) for raw in raw_of(column)]


def raw_of(column: Any) -> list[bytes]:
    """The bytes of strings, whatever they are."""
    import pyarrow as pa

    plain = column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
    return [raw or b"" for raw in plain.cast(pa.large_binary()).to_pylist()]
