"""Tables: the schema in the file, the same bytes for the same content, damage and other versions refused."""

from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from artifacts import tables
from artifacts.errors import DamagedArtifact, StoreError
from artifacts.keys import PruningKeys
from artifacts.schemas import FORMAT_VERSION, SELECTION, STATS, TOKENS
from artifacts.store import open_store

NAMES = {"stats": STATS, "selection": SELECTION, "tokens": TOKENS}
MEASURED = {"controllability", "observability", "energy", "gradient", "fisher", "rank"}
MATRICES = {"coupling", "controllability_gramian", "observability_gramian"}
NULLABLE = MEASURED | MATRICES


def stats(channels: int = 300) -> dict[str, Any]:
    random = np.random.default_rng(0)
    numbers: dict[str, Any] = {name: random.random(channels) for name in (*sorted(MEASURED), "norm_b", "norm_c")}
    numbers |= {name: list(random.random((channels, 3))) for name in sorted(MATRICES)}
    index = np.arange(channels)
    return {"layer": index * 0 + 3, "group": index // 150, "channel": index % 150, **numbers, "tokens": [99] * channels}


def selection() -> dict[str, Any]:
    return {"layer": [0, 0], "group": [0, 1], "channel": [4, 4], "saliency": [0.25, 1e-300], "kept": [True, False]}


def tokens() -> dict[str, Any]:
    return {"sample": [0, 1, 2], "tokens": [[5, 6, 7], [], [50287]]}


CONTENTS = {"stats": stats(), "selection": selection(), "tokens": tokens()}


@pytest.mark.parametrize("name", NAMES)
def test_a_table_comes_back_equal(name: str) -> None:
    table = tables.decode(tables.encode(CONTENTS[name], NAMES[name]), NAMES[name])
    assert table.schema.equals(NAMES[name], check_metadata=False)
    expected = {column: np.asarray(values, dtype=object).tolist() for column, values in CONTENTS[name].items()}
    assert table.to_pydict() == expected


@pytest.mark.parametrize("name", NAMES)
def test_equal_content_gives_equal_bytes(name: str) -> None:
    extra = {"b": "ü", "a": "1"}
    data = tables.encode(CONTENTS[name], NAMES[name], extra)
    table = tables.decode(data, NAMES[name])
    in_chunks = pa.concat_tables([table.slice(0, 1), table.slice(1)])
    backwards = dict(reversed(CONTENTS[name].items()))
    for columns in (CONTENTS[name], backwards, table, in_chunks):
        assert tables.encode(columns, NAMES[name], dict(reversed(extra.items()))) == data


def test_a_table_of_many_pages_does_not_show_the_chunks_it_came_in() -> None:
    table = tables.decode(tables.encode(stats(300_000), STATS), STATS)
    in_chunks = pa.concat_tables([table.slice(start, 700) for start in range(0, table.num_rows, 700)])
    assert tables.encode(in_chunks, STATS) == tables.encode(table, STATS)


@pytest.mark.parametrize("name", NAMES)
def test_the_file_says_what_it_is(name: str) -> None:
    schema = pq.read_schema(pa.BufferReader(tables.encode(CONTENTS[name], NAMES[name])))
    assert schema.metadata == {b"ghost.schema": name.encode(), b"ghost.version": str(FORMAT_VERSION).encode()}
    assert all(len(field.metadata[b"description"]) > 20 for field in schema)


def test_statistics_that_were_not_collected_are_null_and_nothing_else_may_be() -> None:
    without = stats() | dict.fromkeys(NULLABLE, [None] * 300)
    assert tables.decode(tables.encode(without, STATS), STATS)["energy"].null_count == 300
    assert {field.name for field in STATS if field.nullable} == NULLABLE
    with pytest.raises(ValueError, match="'norm_b' with null"):
        tables.encode(stats() | {"norm_b": [None] * 300}, STATS)


def test_extras_travel_with_the_table() -> None:
    extra = {"corpus": "stdlib", "größe": "128\nx 128"}
    table = tables.decode(tables.encode(tokens(), TOKENS, extra), TOKENS)
    assert tables.metadata(table) == extra
    assert tables.metadata(tables.decode(tables.encode(tokens(), TOKENS), TOKENS)) == {}
    with pytest.raises(ValueError, match=r"extra 'ghost\.version' .* reserved"):
        tables.encode(tokens(), TOKENS, {"ghost.version": "2"})


@pytest.mark.parametrize(
    ("columns", "complaint"),
    [
        ({"sample": [0]}, r"tokens table has columns \['sample'\]; give exactly \['sample', 'tokens'\]"),
        (tokens() | {"text": ["a", "b", "c"]}, "give exactly"),
        (tokens() | {"sample": [0.5, 1, 2]}, "truncated"),
        (tokens() | {"sample": [2**40, 1, 2]}, "not in range"),
        (tokens() | {"sample": [1, 2]}, "length"),
    ],
)
def test_columns_that_do_not_fit_are_refused(columns: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        tables.encode(columns, TOKENS)


def test_what_is_no_such_table_is_damage() -> None:
    data = tables.encode(stats(), STATS)
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"layer": [1]}), sink)
    sparse = tables.encode({"layer": [1], "norm_b": [1]}, _with_columns(STATS, "layer", "norm_b"))
    foreign = {"empty": b"", "text": b"PAR1", "cut": data[:-100], "foreign": sink.getvalue().to_pybytes()}
    foreign |= {"another": tables.encode(selection(), SELECTION), "other columns": sparse}
    for content in foreign.values():
        with pytest.raises(DamagedArtifact, match=r"^stats table .*; make it again$"):
            tables.decode(content, STATS)


def test_another_version_is_refused_with_both_versions_and_the_remedy() -> None:
    entries = {**STATS.metadata, b"ghost.version": b"7"}
    newer = tables.encode({"layer": [1]}, _with_columns(STATS, "layer").with_metadata(entries))
    with pytest.raises(StoreError, match=rf"stats table has format version 7, .* knows {FORMAT_VERSION}; read it with"):
        tables.decode(newer, STATS)


def test_a_flipped_bit_in_the_numbers_is_found() -> None:
    """By the page checksums. What is around the pages is covered by the digests of the records."""
    data = tables.encode(stats(), STATS)
    footer = pq.read_metadata(pa.BufferReader(data)).row_group(0)
    for column in map(footer.column, range(footer.num_columns)):
        end = column.dictionary_page_offset + column.total_compressed_size
        for byte in range(end - 6, end):
            flipped = bytearray(data)
            flipped[byte] ^= 1 << byte % 8
            with pytest.raises(DamagedArtifact, match="stats table cannot be read as Parquet"):
                tables.decode(bytes(flipped), STATS)


def test_statistics_of_many_runs_read_the_same_from_pandas_duckdb_and_dataset(tmp_path: Path) -> None:
    store, expected = open_store(tmp_path), {}
    for layer in range(3):
        energies = np.random.default_rng(layer).random((2, 300))
        expected[layer] = energies.mean()
        for run, energy in zip(("first", "second"), energies, strict=True):
            columns = stats() | {"layer": [layer] * 300, "energy": energy}
            store.put(PruningKeys.of(run).stats(layer), tables.encode(columns, STATS))
    paths = [str(store.fetch(key, store.sha256(key))) for key in store.list("prunings/")]

    frame = pd.concat(map(pd.read_parquet, paths)).groupby("layer", as_index=False).agg({"energy": "mean"})
    by_pandas = dict(zip(frame["layer"], frame["energy"], strict=True))
    query = "select layer, avg(energy) from read_parquet(?) group by layer"
    by_duckdb = dict(duckdb.execute(query, [f"{store.url}/prunings/*/layers/*/stats.parquet"]).fetchall())
    table = ds.dataset(paths, schema=STATS).to_table(columns=["layer", "energy"])
    grouped = table.group_by("layer").aggregate([("energy", "mean")]).to_pydict()
    by_dataset = dict(zip(grouped["layer"], grouped["energy_mean"], strict=True))

    for means in (by_pandas, by_duckdb, by_dataset):
        assert means == pytest.approx(expected, rel=1e-12)


def _with_columns(schema: pa.Schema, *names: str) -> pa.Schema:
    return pa.schema([schema.field(name) for name in names], metadata=schema.metadata)
