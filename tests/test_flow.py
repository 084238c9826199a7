"""The flow in process, against a real Prefect server: states, artifacts, damage, partial layers, options."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.client.schemas.sorting import FlowRunSort
from prefect.settings import PREFECT_EVENTS_MAXIMUM_SIZE_BYTES, temporary_settings

from artifacts.publish import published
from ghost.errors import QualityGateError
from tasks.run.events import FIGURES, GATE_FAILED, PUBLISHED, RESUMED
from tests.chaos import Bench, contents, served_by
from tests.models import make_native
from tests.pipeline import events, task_states

STAGES = ("calibrate", "score", "prune")


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory, prefect_api: str) -> Iterator[Bench]:
    with served_by(prefect_api):
        yield Bench(tmp_path_factory.mktemp("bench"), prefect_api, layers=3)


def run(bench: Bench, store: Path, **changes: Any) -> dict[str, Any]:
    return bench.finish_here(store, **changes)


@pytest.fixture(scope="module")
def finished(bench: Bench) -> tuple[Path, dict[str, Any]]:
    store = bench.folder / "finished"
    return store, run(bench, store)


def last_run_tasks(bench: Bench) -> dict[str, str]:
    """State name of every task of the newest flow run, by the task run's name."""
    with get_client(sync_client=True) as client:
        newest = client.read_flow_runs(sort=FlowRunSort.START_TIME_DESC, limit=1)[0]
    return task_states(bench.api, newest)


def test_every_layer_has_its_three_tasks_and_a_second_run_reports_them_cached(bench: Bench, tmp_path: Path) -> None:
    run(bench, tmp_path / "store")
    first = last_run_tasks(bench)
    run(bench, tmp_path / "store")
    second = last_run_tasks(bench)
    for layer in range(bench.layers):
        for stage in STAGES:
            assert first[f"layer {layer:02d}: {stage}"] == "Completed"
            assert second[f"layer {layer:02d}: {stage}"] == "Cached"
    assert {name for name, state in second.items() if state != "Cached"} == set()


def test_the_summary_is_a_markdown_artifact(bench: Bench, finished: tuple[Path, dict[str, Any]]) -> None:
    summaries = ArtifactFilter(key=ArtifactFilterKey(any_=["ghost-summary"]))
    with get_client(sync_client=True) as client:
        texts = [str(artifact.data) for artifact in client.read_artifacts(artifact_filter=summaries)]
    assert any(finished[1]["run_id"] in text and "perplexity" in text for text in texts)


def one_of(store: Path, run_id: str, name: str) -> Path:
    """A file of the one run in the store, or of its pruning."""
    (pruning,) = store.glob("prunings/*")
    return (pruning if (pruning / name).exists() else store / "runs" / run_id) / name


def test_a_flipped_bit_in_any_file_is_found_and_mended(bench: Bench, tmp_path: Path) -> None:
    store = tmp_path / "store"
    run_id = run(bench, store)["run_id"]
    expected = contents(store)
    kinds = ("layers/001/stats.parquet", "layers/001/selection.parquet", "layers/001/weights.safetensors",
             "layers/001/layer.json", "calibration/tokens.parquet", "checkpoint/model.safetensors",
             "checkpoint/config.json", "evaluation/results.json", "report/index.html", "manifest.json")  # fmt: skip
    for name in kinds:
        path = one_of(store, run_id, name)
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(bytes(data))
        result = run(bench, store)
        assert contents(store) == expected, name
        assert result["layers"]["computed"] == int(name.startswith("layers/")), name


def test_a_failed_layer_resumes_from_its_statistics(bench: Bench, tmp_path: Path) -> None:
    store = tmp_path / "store"
    run_id = run(bench, store)["run_id"]
    expected = contents(store)
    for name in ("manifest.json", "layers/002/layer.json", "layers/002/selection.parquet"):
        one_of(store, run_id, name).unlink()
    run(bench, store)
    states = last_run_tasks(bench)
    assert [states[f"layer 02: {stage}"] for stage in STAGES] == ["Cached", "Completed", "Completed"]
    assert contents(store) == expected


def test_statistics_of_another_chain_are_not_used(bench: Bench, tmp_path: Path) -> None:
    store = tmp_path / "store"
    run(bench, store)
    expected = contents(store)
    (folder,) = store.glob("prunings/*")
    (folder / "layers/002/stats.parquet").write_bytes((folder / "layers/001/stats.parquet").read_bytes())
    (folder / "layers/002/layer.json").unlink()
    run(bench, store)
    assert last_run_tasks(bench)["layer 02: calibrate"] == "Completed"
    assert contents(store) == expected


Finished = tuple[Path, dict[str, Any]]


def test_a_checkpoint_is_announced_when_it_is_published(bench: Bench, finished: Finished, tmp_path: Path) -> None:
    (store, result), out = finished, str(tmp_path / "out")
    for _ in range(2):
        run(bench, store, out=out, recipe="half@1")
    [event] = events(bench.api, PUBLISHED, f"ghost.checkpoint.{result['run_id']}")
    assert (event.resource["ghost.method"], event.resource["ghost.recipe"]) == ("ghost", "half@1")
    assert event.payload["place"] == out
    assert {name: event.payload[name] for name in FIGURES} == {name: result[name] for name in FIGURES}
    related = {resource.role: resource.id for resource in event.related}
    assert related["run"] == f"ghost.run.{result['run_id']}" and related["model"].startswith("ghost.model.")
    assert related["flow-run"].startswith("prefect.flow-run.")


def test_a_failed_gate_is_announced_with_what_was_exceeded(bench: Bench, finished: Finished, tmp_path: Path) -> None:
    store, result = finished
    for _ in range(2):
        with pytest.raises(QualityGateError) as failed:
            run(bench, store, out=str(tmp_path / "out"), max_perplexity=1.5)
    [event] = events(bench.api, GATE_FAILED, f"ghost.run.{result['run_id']}")
    assert str(failed.value).startswith(f"quality gate: {event.payload['exceeded'][0]}; ")
    assert event.payload["kept"] == result["checkpoint"]


def test_a_start_that_goes_on_from_a_part_is_announced(bench: Bench, tmp_path: Path) -> None:
    store = tmp_path / "store"
    run_id = run(bench, store, method="magnitude", seed=9)["run_id"]  # no other test resumes it
    run(bench, store, method="magnitude", seed=9)  # of a run that is there to the end, this is no resumption
    for name in ("manifest.json", "layers/002/layer.json"):
        one_of(store, run_id, name).unlink()
    run(bench, store, method="magnitude", seed=9)
    [event] = events(bench.api, RESUMED, f"ghost.run.{run_id}")
    assert (event.payload["layers_done"], event.payload["layers"]) == (2, 3)


def test_an_event_that_cannot_be_sent_is_no_harm(bench: Bench, finished: Finished, tmp_path: Path) -> None:
    with temporary_settings({PREFECT_EVENTS_MAXIMUM_SIZE_BYTES: 3000}):  # Prefect's own, of tasks, are of 400
        result = run(bench, finished[0], out=str(tmp_path / "out"), recipe="x" * 3000)
    assert published(result["checkpoint"])


@pytest.mark.parametrize(
    "changes",
    [{"soft": True}, {"policy": "pooled"}, {"sequential": False}, {"method": "magnitude"}, {"method": "random"},
     {"method": "ghost-mean"}, {"dtype": "bfloat16"}, {"seed": 1}, {"sparsity": 0.75}],
    ids=str,
)  # fmt: skip
def test_every_setting_that_matters_makes_another_run(
    bench: Bench, finished: tuple[Path, dict[str, Any]], changes: dict[str, Any]
) -> None:
    store, plain = finished
    result = run(bench, store, **changes)
    assert result["run_id"] != plain["run_id"]
    assert result["d_state"]["pruned"] == {"soft": 32, "sparsity": 8}.get(next(iter(changes)), 16)
    assert result["layers"] == {"computed": bench.layers, "cached": 0}


def test_out_is_a_copy_and_never_overwrites_something_else(bench: Bench, finished, tmp_path: Path) -> None:
    from ghost.errors import SettingsError

    store, plain = finished
    out = tmp_path / "out"
    assert run(bench, store, out=str(out))["checkpoint"] == str(out)
    assert json.loads((out / "ghost.json").read_text())["ghost"]["run_id"] == plain["run_id"]
    with pytest.raises(SettingsError, match="holds something else"):
        run(bench, store, out=str(out), sparsity=0.75)
    assert json.loads((out / "ghost.json").read_text())["ghost"]["run_id"] == plain["run_id"]


def test_a_finished_run_verifies(bench: Bench, finished: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    from tasks.evaluate import verify_checkpoint

    model, corpus = str(bench.folder / "model"), str(bench.folder / "evaluation.txt")
    for number, changes in enumerate([{}, {"policy": "pooled"}, {"soft": True}]):
        result = run(bench, finished[0], out=str(tmp_path / str(number)), **changes)
        assert verify_checkpoint(result["checkpoint"], model, corpus, 200)["difference"] < 1e-4


def test_a_native_model_with_a_tokenizer_of_its_own_comes_out_complete(bench: Bench, tmp_path: Path) -> None:
    from tasks.evaluate import verify_checkpoint

    native = make_native(tmp_path / "native", bench.folder / "model")
    result = run(bench, tmp_path / "store", model=str(native), tokenizer=str(bench.folder / "model"))
    verified = verify_checkpoint(result["checkpoint"], str(native), str(bench.folder / "evaluation.txt"), 200)
    assert verified["difference"] < 1e-4


def test_nothing_of_this_machine_is_in_what_is_hashed(bench: Bench, finished: tuple[Path, dict[str, Any]]) -> None:
    store, _ = finished
    for name, data in contents(store).items():
        assert str(bench.folder).encode() not in data, name
