"""Real processes, real kills, a real Prefect server: a run that was killed ends in the same bytes."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from artifacts.keys import RunKeys
from artifacts.publish import MANIFEST
from artifacts.store import open_store
from tasks.stored_run import StoredRun
from tests.chaos import contents, ghost_here
from tests.chaos_main import World, torment, world
from tests.chaos_places import Ledger


@pytest.fixture(scope="module")
def tormented(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world(tmp_path_factory.mktemp("chaos"), seed=0, layers=5) as made:
        made.reach, made.delays = (9, 12), (0.0,)  # one or two layers
        yield made


@pytest.mark.parametrize(
    ("flavour", "store", "kinds"), [("command", "local", ("command",)), ("pipeline", "s3", ("both", "server"))]
)
def test_whatever_is_killed_the_run_ends_in_the_same_bytes(
    tormented: World, flavour: str, store: str, kinds: tuple[str, ...]
) -> None:
    """`make chaos` has more kinds of blows, and test_deployments the one to the flow under a worker."""
    runs, tally = tormented.runs(flavour, store), tormented.tally
    runs.kinds = kinds
    torment(tormented, runs, kills=len(kinds))
    assert {kind for kind, at in tally.kills if at == store} == set(kinds)
    assert tally.finished[store] == 1 and tally.resumed[store] > 0
    assert tally.clean, (tally.recomputed, tally.mismatches, tally.orphans)


@pytest.mark.parametrize("store", ["local", "s3"])
def test_a_layer_that_is_written_again_is_noticed(tormented: World, store: str) -> None:
    place = tormented.place(store)
    opened, ledger = open_store(place.store), Ledger(place, tormented.run_id)
    for key, data in contents(tormented.folder / "local-0" / "store").items():
        opened.put(key, data)
    assert ledger.look() == ledger.look() == tormented.bench.layers
    assert ledger.recomputed == 0
    weights = StoredRun(opened, RunKeys(tormented.run_id)).pruning.weights(1)
    opened.put(weights, opened.record(weights))
    assert ledger.look() == tormented.bench.layers
    assert ledger.recomputed == 1


def test_a_finished_run_is_taken_from_the_store_and_prints_one_json_object(tormented: World) -> None:
    first, store = tormented.undisturbed, tormented.folder / "local-0" / "store"
    before = contents(store)
    code, printed, err = ghost_here(
        tormented.bench.api, tormented.bench.arguments(store, f"--out={first['checkpoint']}")
    )
    second, layers = json.loads(printed), tormented.bench.layers
    assert code == 0, err
    assert first["layers"] == {"computed": layers, "cached": 0}
    assert second["layers"] == {"computed": 0, "cached": layers}
    assert contents(store) == before
    named = ("run_id", "checkpoint", "perplexity", "state_bytes", "d_state", "parameters")
    assert {name: first[name] for name in named} == {name: second[name] for name in named}
    assert first["d_state"] == {"dense": 32, "pruned": 16}
    stored = store / "runs" / first["run_id"] / "checkpoint"
    published = {path.name: path.read_bytes() for path in Path(first["checkpoint"]).iterdir()}
    assert {path.name: path.read_bytes() for path in stored.iterdir()} == {
        name: data for name, data in published.items() if name != MANIFEST
    }
