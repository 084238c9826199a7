"""Unattended compression against a real server, worker and deployments, with tiny models in a local source."""

import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from datetime import datetime, timedelta

import pytest
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterName
from prefect.client.schemas.objects import FlowRun
from prefect.states import Cancelled, Crashed, Failed, Running

from artifacts.publish import published
from ghost.errors import SettingsError
from tasks.watch import attempts
from tests.models import make_model, text
from tests.pipeline import client, deploy, prefect, served, wait_for, worker
from tests.watched import House, automated, listening, reasons, scheduled, wait_until


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("house")
    for number, name in enumerate(("one", "two", "three")):
        make_model(folder / name, layers=2, seed=number, max_shard_size="30KB" if name == "three" else "5GB")
    for number, kind in enumerate(("calibration", "evaluation")):
        (folder / f"{kind}.txt").write_text(text(400, seed=number))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS", "3")  # by default a new schedule waits a minute
        with served(folder) as api:
            deploy(api, GHOST_STORE=str(folder / "store"))
            yield House(api, folder)


def test_looks_at_once_trigger_each_checkpoint_once(house: House) -> None:
    with house.watched("at-once") as watched:
        for name in ("one", "two", "three"):
            watched.drop(name, name)
        with ThreadPoolExecutor(4) as pool:
            looks = [pool.submit(copy_context().run, watched.look) for _ in range(4)]
        reports = [look.result() for look in looks]
        assert len(watched.runs()) == 3
    triggered = [row for report in reports for row in report["triggered"]]
    assert sorted(row["checkpoint"] for row in triggered) == ["one", "three", "two"]
    skipped = {why.partition(":")[0] for report in reports for why in reasons(report, "skipped").values()}
    assert skipped == {"waiting for its turn"}
    watched.abandon()


def test_a_look_takes_the_families_that_the_recipe_lists(house: House) -> None:
    with house.watched("families", families=["bamba", "zamba2"]) as watched:
        watched.drop("one", "a")
        assert reasons(watched.look(), "skipped") == {"a": "of the family mamba2; the recipe takes bamba, zamba2"}
        assert not watched.runs()


def test_a_run_that_ends_badly_is_tried_again_up_to_the_limit_and_then_left(house: House) -> None:
    with house.watched("stubborn", max_attempts=3) as watched:
        watched.drop("one", "a")
        assert reasons(watched.look(), "triggered") == {"a": "new"}
        assert reasons(watched.look(), "skipped")["a"].startswith("waiting for its turn: run ")
        for number, state in enumerate([Failed(message="out of\nmemory"), Cancelled()]):
            watched.put(watched.runs()[number], state)
            ended = "it is Cancelled" if number else "out of memory"
            why = f"attempt {number + 2} of 3, the one before: {ended}"
            assert reasons(watched.look(), "triggered") == {"a": why}
        watched.put(watched.runs()[2], Crashed(message="killed"))
        for _ in range(2):
            assert reasons(watched.look(), "given up") == {"a": "3 of 3 attempts failed, the last with: killed"}
        assert len(watched.runs()) == 3


def test_a_run_that_has_fallen_silent_counts_as_crashed(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    with house.watched("silent", stale_hours=1) as watched:
        watched.drop("one", "a")
        watched.look()
        watched.put(watched.runs()[0], Running())
        monkeypatch.setattr(attempts, "now", lambda: entered(watched.runs()[0]) + timedelta(hours=1))
        assert "no sign of life for 1.0 hours" in reasons(watched.look(), "triggered")["a"]
        assert [str(run.state_name) for run in watched.runs()] == ["Crashed", "Scheduled"]
        watched.abandon()


def test_a_heartbeat_is_a_sign_of_life(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    with house.watched("alive", stale_hours=1) as watched:
        watched.drop("one", "a")
        watched.look()
        watched.put(watched.runs()[0], Running())
        watched.beat(watched.runs()[0])
        monkeypatch.setattr(attempts, "now", lambda: entered(watched.runs()[0]) + timedelta(hours=1))
        assert reasons(watched.look(), "skipped")["a"].startswith("being compressed: run ")
        assert [str(run.state_name) for run in watched.runs()] == ["Running"]
        watched.abandon()


def test_a_server_ends_a_run_without_heartbeats_and_looks_when_an_event_comes(house: House) -> None:
    """Both in one: a server takes 10 s at least to miss a heartbeat."""
    with house.watched("automated") as watched, automated(house, silence=10):
        watched.drop("one", "a")
        watched.look()
        watched.put(watched.runs()[0], Running())
        watched.beat(watched.runs()[0])
        arrived(house)  # nobody watches yet
        prefect(house.api, "deploy", "-n", "nightly", env={"GHOST_RECIPE": watched.recipe})
        for _ in range(3):
            arrived(house)
        wait_until(lambda: looks(house))
        [dead] = [wait_for(house.api, run, timeout=60) for run in watched.runs()]
        prefect(house.api, "deploy", "-n", "nightly")
        [look] = looks(house)
        watched.put(look, Cancelled())
    assert look.parameters["recipe"] == watched.recipe
    assert look.expected_start_time and look.created
    assert timedelta(seconds=110) < look.expected_start_time - look.created < timedelta(seconds=130)
    assert dead.state is not None and dead.state.is_crashed()
    assert str(dead.state.message).startswith("no heartbeat for 10 minutes")


def arrived(house: House) -> None:
    prefect(house.api, "event", "emit", "ghost.checkpoint.arrived", "--resource-id", "ghost.source.new")


def looks(house: House) -> list[FlowRun]:
    """The looks that events have asked for."""
    with client(house.api) as opened:
        nightly = DeploymentFilter(name=DeploymentFilterName(any_=["nightly"]))
        runs = opened.read_flow_runs(deployment_filter=nightly)
    return [run for run in runs if run.created_by and run.created_by.type == "AUTOMATION"]


def entered(run: FlowRun) -> datetime:
    """When the run entered its state."""
    assert run.state is not None
    return run.state.timestamp


def test_the_same_content_under_two_names_is_compressed_once(house: House) -> None:
    with house.watched("twins") as watched:
        watched.drop("one", "a")
        watched.drop("one", "b")
        report = watched.look()
        watched.abandon()
    assert reasons(report, "triggered") == {"a": "new"}
    assert reasons(report, "skipped") == {"b": "has the same content as a"}


def test_a_look_leaves_a_table_and_a_page_in_words(house: House) -> None:
    with house.watched("told") as watched:
        watched.drop("one", "a")
        (watched.folder / "new/other").mkdir()
        (watched.folder / "new/other/config.json").write_text('{"model_type": "a|b"}')
        report = watched.look()
        artifacts = house.artifacts()
        watched.abandon()
    assert f"found 2 in {watched.folder}/new: 1 triggered, 1 skipped, 0 given up" in artifacts["ghost-watch-told"]
    assert "| other | skipped | model_type 'a\\|b' is none that ghost" in artifacts["ghost-watch-told"]
    assert report["triggered"][0]["target"] in artifacts["ghost-watch-told"]
    assert [row["checkpoint"] for row in json.loads(artifacts["ghost-watch-told-table"])] == ["a", "other"]


def test_an_empty_source_is_no_mistake(house: House) -> None:
    with house.watched("empty") as watched:
        report = watched.look()
        assert (report["found"], report["triggered"]) == (0, [])
        assert "found 0 in" in house.artifacts()["ghost-watch-empty"]


def test_a_bad_recipe_ends_the_look_in_one_line_before_anything_runs(house: House) -> None:
    with house.watched("bad", settings={"sparsity": 2}) as watched:
        watched.drop("one", "a")
        with pytest.raises(SettingsError, match=r"settings: sparsity: 2\.0 is outside"):
            watched.look()
        assert not (watched.folder / "pruned").exists()


def test_a_deployment_that_is_not_there_is_named_with_the_remedy(house: House) -> None:
    with house.watched("nowhere") as watched:
        watched.drop("one", "a")
        with pytest.raises(SettingsError, match="deployment ghost/none is not on this Prefect server; run `prefect"):
            watched.look(deployment="ghost/none")


def test_only_the_checkpoint_that_changed_is_compressed_again(house: House) -> None:
    with house.watched("changed") as watched:
        watched.drop("one", "a")
        watched.drop("two", "b")
        watched.look()
        config = watched.folder / "new/a/config.json"
        config.write_text(config.read_text() + " ")
        report = watched.look()
        watched.abandon()
    assert reasons(report, "triggered") == {"a": "new"}
    assert reasons(report, "skipped")["b"].startswith("waiting for its turn")


@pytest.fixture(scope="module")
def working(house: House) -> Iterator[House]:
    """The house with a worker in it. The tests above it have none, so that their runs stay as they are."""
    with worker(house.api, house.folder):
        yield house


def test_each_new_checkpoint_is_compressed_exactly_once_on_a_schedule(working: House) -> None:
    with working.watched("half") as watched:
        with scheduled(watched):
            watched.drop("one", "a")
            wait_until(watched.runs)
            wait_for(working.api, watched.runs()[0], "Running")
            watched.drop("two", "b")
            shard = sorted(path.name for path in (working.folder / "three").glob("*.safetensors"))[-1]
            watched.drop("three", "c", but=shard)
            wait_until(lambda: len(watched.runs()) == 2)
            incomplete = watched.look()
            shutil.copyfile(working.folder / "three" / shard, watched.folder / "new/c" / shard)
            wait_until(lambda: len(watched.runs()) == 3)
        for run in watched.runs():
            wait_for(working.api, run)
        last = [watched.look() for _ in range(2)]
    assert watched.published() == ["a", "b", "c"]
    assert [str(run.state_name) for run in watched.runs()] == ["Completed"] * 3
    assert "shards missing" in reasons(incomplete, "skipped")["c"]
    for report in last:
        assert reasons(report, "skipped") == dict.fromkeys("abc", "published already")
        assert report["triggered"] == report["given up"] == []
    assert all(run.parameters["recipe"] == report["recipe"] for run in watched.runs() for report in last)
    for target in {row["target"] for row in last[0]["skipped"]}:
        assert (published(target) or {})["recipe"] == last[0]["recipe"]


def test_what_the_gate_stops_is_not_published_and_somebody_is_told(working: House) -> None:
    with (
        working.watched("strict", gate={"max_perplexity": 1.5}) as watched,
        listening() as (address, posted),
        automated(working, notify=address),
    ):
        watched.drop("one", "a")
        watched.look()
        wait_for(working.api, watched.runs()[0])
        report = watched.look()
        why = reasons(report, "given up")["a"]
        told = json.loads(posted.get(timeout=60))["text"]
    assert why.startswith("quality gate: perplexity ") and "--max-perplexity" in why
    assert watched.published() == []
    assert len(watched.runs()) == 1
    exceeded = why.removeprefix("quality gate: ").partition(";")[0]
    assert told.startswith("ghost: a quality gate failed: a: ghost at 0.5 (run ") and exceeded in told
