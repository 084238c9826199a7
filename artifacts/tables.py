"""Tables to Parquet bytes and back, under a schema of `artifacts.schemas`."""

import io
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from artifacts.errors import DamagedArtifact, StoreError
from artifacts.schemas import NAME_KEY, READABLE, VERSION_KEY

_RESERVED = "ghost."


def encode(columns: Mapping[str, Any] | pa.Table, schema: pa.Schema, extra: Mapping[str, str] | None = None) -> bytes:
    """Parquet bytes of `columns` (name -> sequence or array, or a table); equal content gives equal bytes.

    `extra` is text kept in the file's metadata, under names that do not start with 'ghost.'. Raises ValueError
    where the names of columns or extras are wrong, and pyarrow's errors where values do not fit their column.
    """
    table = _conforming(columns, schema.with_metadata(_annotated(schema, extra or {})))
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    return sink.getvalue()


def decode(data: bytes, schema: pa.Schema) -> pa.Table:
    """The table that `encode` wrote under `schema`, its extras in its metadata.

    Raises DamagedArtifact where `data` is no such table, StoreError where it is of another format version.
    """
    try:
        return _parsed(data, schema)
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise DamagedArtifact(f"{_named(schema)} table cannot be read as Parquet: {reason}; make it again") from error


def metadata(table: pa.Table) -> dict[str, str]:
    """The extras that `encode` was given for this table."""
    entries = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    return {key: value for key, value in entries.items() if not key.startswith(_RESERVED)}


def _annotated(schema: pa.Schema, extra: Mapping[str, str]) -> dict[str, str]:
    for key in extra:
        if key.startswith(_RESERVED):
            raise ValueError(f"extra {key!r} starts with {_RESERVED!r}, which is reserved; choose another name")
    own = {key.decode(): value.decode() for key, value in (schema.metadata or {}).items()}
    return dict(sorted((own | dict(extra)).items()))


def _conforming(columns: Mapping[str, Any] | pa.Table, schema: pa.Schema) -> pa.Table:
    table = pa.table(dict(columns)) if isinstance(columns, Mapping) else columns
    if set(table.column_names) != set(schema.names):
        found = sorted(table.column_names)
        raise ValueError(f"{_named(schema)} table has columns {found}; give exactly {sorted(schema.names)}")
    # Pages follow the chunks a table happens to be in: one chunk, so that equal tables give equal bytes.
    return table.select(schema.names).cast(schema).replace_schema_metadata(schema.metadata).combine_chunks()


def _parsed(data: bytes, schema: pa.Schema) -> pa.Table:
    table = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True).read()
    _check_version(table.schema, schema)
    if not table.schema.equals(schema, check_metadata=False):
        found = ", ".join(f"{field.name} {field.type}" for field in table.schema)
        raise DamagedArtifact(f"{_named(schema)} table has the columns {found}; make it again")
    return table.replace_schema_metadata(_annotated(schema, metadata(table)))


def _check_version(found: pa.Schema, known: pa.Schema) -> None:
    entries, name = found.metadata or {}, _named(known)
    version, expected = entries.get(VERSION_KEY), (known.metadata or {})[VERSION_KEY]
    readable = {str(number).encode() for number in READABLE}
    if version is None or entries.get(NAME_KEY) != name.encode():
        raise DamagedArtifact(f"{name} table was not written as one by ghost; make it again")
    if version not in readable:
        raise StoreError(
            f"{name} table has format version {version.decode()}, this version of ghost knows {expected.decode()}; "
            "read it with the ghost that wrote it, or choose another --store"
        )


def _named(schema: pa.Schema) -> str:
    return (schema.metadata or {})[NAME_KEY].decode()
