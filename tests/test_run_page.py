"""What a run shows on its page in Prefect's UI: tables, progress, summary, message; and what its form refuses."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import torch
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import Artifact, FlowRun
from prefect.client.schemas.sorting import ArtifactSort, FlowRunSort
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.console import Bars
from flows.deploy import surroundings
from flows.options import flow_parameters
from flows.prune import check_places, ghost
from flows.summary import as_markdown, print_summary
from ghost.errors import CheckpointError, SettingsError
from ghost.saliency import LayerStatistics
from ghost.selection import Selection
from ghost.settings import RunSettings
from tasks.run.layer_log import log_line, table_rows
from tasks.run.page import RunPage
from tests.chaos import served_by
from tests.models import make_model, text

Shown = tuple[dict[str, Any], list[Artifact], list[FlowRun]]
LAYERS, GROUPS = 2, 2
FIGURES = {
    "model": "m", "method": "ghost", "sparsity": 0.5, "run_id": "0123", "kept_channels": 16, "channels": 32,
    **{name: {"dense": 2.0, "pruned": 1.0} for name in ("perplexity", "state_bytes", "d_state", "parameters")},
}  # fmt: skip


@pytest.fixture(scope="module")
def parameters(tmp_path_factory: pytest.TempPathFactory, prefect_api: str) -> Iterator[dict[str, Any]]:
    """Parameters of a run against a real server."""
    folder = tmp_path_factory.mktemp("page")
    make_model(folder / "model", layers=LAYERS, n_groups=GROUPS)
    (folder / "text.txt").write_text(text(400))
    texts = dict.fromkeys(("calibration", "evaluation"), str(folder / "text.txt"))
    places = {"model": str(folder / "model"), "store": str(folder / "store")}
    with served_by(prefect_api):
        yield places | texts | {"samples": 4, "length": 32, "window": 128, "round_to": 8}


@pytest.fixture(scope="module")
def shown(parameters: dict[str, Any]) -> Shown:
    """The result of a run, and all artifacts and runs that the server has since."""
    before = datetime.now(UTC)
    result = ghost(**parameters)
    with get_client(sync_client=True) as client:
        artifacts = [found for found in client.read_artifacts(sort=ArtifactSort.CREATED_DESC) if since(before, found)]
        runs = [found for found in client.read_flow_runs(sort=FlowRunSort.START_TIME_DESC) if since(before, found)]
    return result, artifacts, runs


def since(moment: datetime, found: Artifact | FlowRun) -> bool:
    return found.created is not None and found.created > moment


def test_every_artifact_is_on_the_run_s_page_and_once(shown: Shown) -> None:
    _, artifacts, [run] = shown
    layers = [f"ghost-layer-{layer:02d}" for layer in range(LAYERS)]
    assert sorted(str(artifact.key) for artifact in artifacts) == [*layers, "ghost-progress", "ghost-summary"]
    assert {artifact.flow_run_id for artifact in artifacts} == {run.id}
    assert [artifact.data for artifact in artifacts if artifact.type == "progress"] == [100]


def test_the_summary_links_to_the_report(shown: Shown) -> None:
    result, artifacts, _ = shown
    [summary] = [str(artifact.data) for artifact in artifacts if artifact.type == "markdown"]
    assert Path(result["page"]).is_file()
    assert f"]({Path(result['page']).as_uri()})" in summary
    assert result["run_id"] in summary and result["checkpoint"] in summary


def test_a_table_has_a_row_per_group_of_what_was_kept_and_dropped() -> None:
    energy_gn = torch.tensor([[4.0, 1, 3, 2], [0, 0, 0, 8]], dtype=torch.float64)
    kept_gn = torch.tensor([[True, False, True, False], [True, True, True, True]])
    statistics = LayerStatistics(energy_gn, energy_gn, energy_gn=energy_gn)
    first, second = table_rows(statistics, Selection(energy_gn.sqrt(), kept_gn), seconds=1.234, memory=512.4)
    whole_layer = {"seconds": 1.23, "MB": 512}
    assert first == whole_layer | {
        "group": 0, "kept": 2, "dropped": 2, "energy dropped": "30.000%", "least kept saliency": "1.732",
        "most dropped saliency": "1.414",
    }  # fmt: skip
    assert (second["dropped"], second["energy dropped"], second["most dropped saliency"]) == (0, "0.000%", "-")


@pytest.mark.parametrize(("energy", "share"), [(torch.tensor([[3.0, 1.0]]), "0.2500"), (None, "none")])
def test_a_log_line_has_the_same_keys_whatever_the_method_measures(energy: Any, share: str) -> None:
    selection = Selection(torch.ones(1, 2), torch.tensor([[True, False]]))
    statistics = LayerStatistics(torch.ones(1, 2), torch.ones(1, 2), energy_gn=energy)
    line = log_line(7, 1.234, 512.4, "cached", statistics, selection)
    assert line == f"layer=07 seconds=1.23 kept=1 of=2 energy_dropped={share} memory_mb=512 state=cached"


@pytest.mark.parametrize(("every", "told"), [(16, ""), (52, "16 of 52 have a Mamba2 state; ")])
def test_the_terminal_counts_layers_before_and_after(every: int, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    with Bars() as bars:
        bars.start(every, 16)
    assert capsys.readouterr().err.startswith(f"{every} layers, {'16' if told else 'all'} with a Mamba2 state\n")
    counts = {"layers": {"computed": 12, "cached": 4}, "decoder_layers": every, "seconds": 3.5}
    print_summary(FIGURES | counts | {"checkpoint": "c", "page": "p"}, as_json=False)
    assert f"layers: {told}12 computed, 4 cached; 3.5 seconds" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("endpoint", "link"),
    [("", None), ("https://user:secret@minio.internal:9000", None),
     ("http://minio.internal:9000/", "http://minio.internal:9000/bucket/a%20b/runs/0123/report/index.html")],
)  # fmt: skip
def test_a_report_in_s3_is_named_and_linked_only_by_an_open_address(
    endpoint: str, link: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3", raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    page = "s3://bucket/a b/runs/0123/report/index.html"
    written = as_markdown(FIGURES, "s3://bucket/a b/runs/0123/checkpoint", page)
    assert f"`{page}`" in written and "secret" not in written
    assert re.findall(r"\]\((.*?)\)", written) == ([link] if link else [])


def test_a_mistake_is_the_state_s_message_and_raised_to_the_caller(parameters: dict[str, Any], tmp_path: Path) -> None:
    missing = parameters | {"model": str(tmp_path / "nowhere")}
    state: Any = ghost(**missing, return_state=True)
    assert state.is_failed() and re.fullmatch(f"model {tmp_path / 'nowhere'}: no such folder; give .*", state.message)
    with pytest.raises(CheckpointError, match="no such folder"):
        ghost(**missing)


def test_a_server_that_is_gone_costs_the_page_and_not_the_run(parameters: dict[str, Any]) -> None:
    @flow
    def telling() -> str:
        with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
            page = RunPage()
        page.table("ghost-layer-00", [{"group": 0}], "one row")
        page.progress("ghost-progress", 0, "nothing yet")
        page.progress("ghost-progress", 100, "all")
        return "went on"

    assert telling() == "went on"


@pytest.mark.parametrize("place", ["store", "out"])
def test_a_worker_s_run_does_not_leave_its_results_in_a_temporary_folder(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    relative = RunSettings.make(**{"store": str(tmp_path)} | {place: "some/folder"})
    check_places(relative)
    monkeypatch.setenv("PREFECT__RUNTIME__DEPLOYMENT__ID", "a-deployment")
    check_places(RunSettings.make(store="s3://bucket/prefix", out=str(tmp_path / "out")))
    with pytest.raises(
        SettingsError, match=f"{place} some/folder is relative to the worker's folder.*give an absolute"
    ):
        check_places(relative)


def test_what_a_deployment_takes_from_where_it_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("GHOST_STORE", "GHOST_DEVICE", "GHOST_RECIPE", "AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GHOST_CACHE", "/cache")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://user:secret@minio.internal")
    env = {"GHOST_STORE": str(tmp_path / "ghost-runs"), "GHOST_CACHE": "/cache"}
    assert surroundings() == {"env": env, "recipe": "", "watching": False}
    monkeypatch.setenv("GHOST_STORE", "s3://bucket/prefix")
    monkeypatch.setenv("GHOST_RECIPE", "recipe.yaml")
    env["GHOST_STORE"] = "s3://bucket/prefix"
    assert surroundings() == {"env": env, "recipe": str(tmp_path / "recipe.yaml"), "watching": True}
    monkeypatch.setenv("GHOST_DEVICE", "gpu")
    with pytest.raises(SettingsError, match="GHOST_DEVICE: 'gpu' is not a device"):
        surroundings()


@pytest.mark.parametrize(
    ("field", "values"),
    [("sparsity", [-1.0, 0.0, 1e-9, 0.999, 1.0]), ("device", ["auto", "cpu", "cuda", "cuda:7", "cuda:", "gpu", "CPU"])],
)  # fmt: skip
def test_limits_of_the_form_are_those_of_the_settings(field: str, values: list[Any]) -> None:
    limit = RunSettings.model_json_schema()["properties"][field]
    assert [fits(limit, value) for value in values] == [accepted(**{field: value}) for value in values]


def fits(limit: dict[str, Any], value: Any) -> bool:
    if "pattern" in limit:
        return bool(re.search(limit["pattern"], value))
    return limit["exclusiveMinimum"] < value < limit["exclusiveMaximum"]


def accepted(**fields: Any) -> bool:
    try:
        return bool(RunSettings.make(**fields))
    except SettingsError:
        return False


def test_called_directly_a_flow_refuses_in_one_line_too() -> None:
    with pytest.raises(SettingsError, match=r"sparsity: 2.0 is outside \(0, 1\)"):
        flow_parameters(RunSettings)(lambda settings: settings)(sparsity=2)
