"""Streams a text column of parquet files."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanogpt_kit.core.errors import Fault, KitError, did_you_mean
from nanogpt_kit.corpus.decompress import READ_BYTES, file_error, open_decompressed, peek_head
from nanogpt_kit.corpus.file_signatures import detect_format, is_text

if TYPE_CHECKING:
    import pyarrow as pa  # type: ignore[import-untyped]
    from pyarrow.parquet import ParquetFile  # type: ignore[import-untyped]

BATCH_BYTES = 2 << 20  # of text decoded at once
MAX_BATCH_ROWS = 1024

UTF8_REMEDY = 'save it as UTF-8, or read it with dataset.use = "text" and dataset.errors = "replace"'


@contextmanager
def parquet_file(path: Path, codec: str | None) -> Iterator[ParquetFile]:
    """An open file, decompressed where it has a `codec`. Raises KitError for another format, also while it is read."""
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

    check_parquet(path, codec)
    with open_seekable(path, codec) as source:
        try:  # a small buffer and no prefetching: a row group may be as large as the file
            with ParquetFile(source, buffer_size=READ_BYTES, pre_buffer=False) as file:
                yield file
        except (pa.ArrowException, OSError) as error:
            raise file_error(path, f"not a parquet file, or damaged: {str(error).splitlines()[0]}") from None


def check_parquet(path: Path, codec: str | None) -> None:
    """Raises KitError where the content is in another known format."""
    with open_decompressed(path, codec) as file:
        head = peek_head(file)
    content = detect_format(head) or ("plain text" if head and is_text(head) else None)
    if content and content != "parquet":
        raise file_error(path, f"is {content}, not parquet as its name says; give it the ending of its format")


@contextmanager
def open_seekable(path: Path, codec: str | None) -> Iterator[Any]:
    """Parquet is read from its end, so a compressed file is first decompressed to a temporary one."""
    if codec is None:
        import pyarrow as pa

        with pa.OSFile(os.fsencode(path), "rb") as file:  # as bytes: not every name is UTF-8
            yield file
        return
    with open_decompressed(path, codec) as packed, tempfile.TemporaryFile() as temporary:
        shutil.copyfileobj(packed, temporary, READ_BYTES)
        yield temporary


def parquet_texts(file: ParquetFile, field: str, location: str, errors: str = "strict") -> Iterator[str]:
    """A text column, batch by batch. Raises KitError for another column, and pyarrow's own errors."""
    check_text_column(file.schema_arrow, field, location)
    rows = max(1, min(MAX_BATCH_ROWS, BATCH_BYTES * file.metadata.num_rows // max(1, column_bytes(file, field))))
    rows_before = 0
    for batch in file.iter_batches(rows, columns=[field], use_threads=False):
        try:
            yield from column_texts(batch.column(0), errors)
        except UnicodeDecodeError:
            raise not_utf8_error(batch.column(0), rows_before, field, location) from None
        rows_before += len(batch)


def not_utf8_error(column: Any, first_row: int, field: str, location: str) -> KitError:
    """`first_row` is the index of the column's first row, from 0."""
    for row, raw in enumerate(raw_column_values(column), start=first_row):
        try:
            raw.decode("utf-8")
        except UnicodeDecodeError as error:
            byte = f"byte 0x{raw[error.start]:02x} at offset {error.start} of {field!r} in row {row}"
            return KitError(Fault(f"not UTF-8: {byte}; {UTF8_REMEDY}", location=location))
    raise AssertionError("one of the rows is invalid")


def column_bytes(file: ParquetFile, field: str) -> int:
    """Uncompressed size of the column's pages; equal values may be stored only once."""
    groups = [file.metadata.row_group(index) for index in range(file.metadata.num_row_groups)]
    columns = [group.column(index) for group in groups for index in range(group.num_columns)]
    return sum(int(column.total_uncompressed_size) for column in columns if column.path_in_schema == field)


def check_text_column(schema: pa.Schema, field: str, location: str) -> None:
    """Raises KitError where there is no such column, or it does not hold strings."""
    import pyarrow as pa

    if field not in schema.names:
        raise KitError(
            Fault(f"dataset.field: no column {field!r}{did_you_mean(field, schema.names)}", location=location)
        )
    column_type = schema.field(field).type
    value_type = column_type.value_type if pa.types.is_dictionary(column_type) else column_type
    if value_type not in (pa.string(), pa.large_string(), pa.string_view(), pa.null()):
        string_columns = [name for name in schema.names if schema.field(name).type in (pa.string(), pa.large_string())]
        hint = f"; columns of strings: {', '.join(string_columns)}" if string_columns else ""
        content = "values of several types" if "arrow.json" in str(column_type) else str(column_type)
        raise KitError(Fault(f"dataset.field: column {field!r} holds {content}, not strings{hint}", location=location))


def column_texts(column: Any, errors: str = "strict") -> list[str]:
    """An arrow array or column of strings; null becomes "". Raises UnicodeDecodeError: parquet may hold any bytes."""
    try:
        return [text or "" for text in column.to_pylist()]
    except UnicodeDecodeError:
        if errors == "strict":
            raise
        return [raw.decode("utf-8", errors) for raw in raw_column_values(column)]


def raw_column_values(column: Any) -> list[bytes]:
    """The bytes of an array of strings, also of invalid ones."""
    import pyarrow as pa

    plain = column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
    return [raw or b"" for raw in plain.cast(pa.large_binary()).to_pylist()]
