"""Real processes, real kills, a real Prefect server: a run that was killed ends in the same bytes."""

from pathlib import Path

import pytest

from tests.chaos import Bench, contents, prefect_server, torment


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory):
    with prefect_server(tmp_path_factory.mktemp("prefect")) as address:
        yield address


def test_killed_at_random_moments_a_run_ends_in_the_same_bytes(tmp_path: Path, api: str) -> None:
    tally = torment(Bench(tmp_path, api), kills=8, seed=0)
    assert len(tally.struck_at) == 8
    assert len(set(tally.struck_at)) > 2, "the kills all struck at the same point"
    assert tally.mismatches == []


def test_a_finished_run_is_taken_from_the_store_and_prints_one_json_object(tmp_path: Path, api: str) -> None:
    bench, store = Bench(tmp_path, api), tmp_path / "store"
    first = bench.finish(store, "--out", str(tmp_path / "out"))
    before = contents(store)
    second = bench.finish(store, "--out", str(tmp_path / "out"))
    assert first["layers"] == {"computed": bench.layers, "cached": 0}
    assert second["layers"] == {"computed": 0, "cached": bench.layers}
    assert contents(store) == before
    named = ("run_id", "checkpoint", "perplexity", "state_bytes", "d_state", "parameters")
    assert {name: first[name] for name in named} == {name: second[name] for name in named}
    assert first["d_state"] == {"dense": 32, "pruned": 16}
    assert first["checkpoint"] == str(tmp_path / "out")
    stored = store / "runs" / first["run_id"] / "checkpoint"
    assert {p.name: p.read_bytes() for p in stored.iterdir()} == {
        p.name: p.read_bytes() for p in Path(first["checkpoint"]).iterdir()
    }
