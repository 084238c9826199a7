"""lm-eval tasks inside a run, for real and offline: figures of both models, the gate on them, resuming, refusals."""

import json
import re
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from artifacts.schemas import EVALUATION
from artifacts.tables import decode
from ghost.errors import QualityGateError, SettingsError
from ghost.evaluation.rows import loss
from ghost.report.card import model_card
from ghost.settings import RunSettings
from tasks.run import benchmarks
from tasks.run.benchmark_process import BenchmarkJob, benchmark_figures
from tasks.run.gate import failed_tasks
from tasks.run.open import open_run
from tasks.run.report import summarise
from tasks.watch.recipe import Recipe
from tests.by_hand import ByHand, small_settings, through_layers, through_report
from tests.chaos import contents

WORDS = ("kept", "written", "read", "scored")
PAGE = " = {0} = \n \n {0} is a small @-@ town film . \n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("tasks")
    passages = [json.dumps({"text": f"The state of a recurrent model is {word} and {word}"}) for word in WORDS]
    (made / "lambada.jsonl").write_text("\n".join(passages))
    (made / "wikitext.txt").write_text("".join(map(PAGE.format, "ABC")))
    return made


@pytest.fixture(scope="module")
def settings(folder: Path) -> dict[str, Any]:
    spec = f"local_lambada:{folder / 'lambada.jsonl'},local_wikitext:{folder / 'wikitext.txt'}"
    return {"tasks": spec, "limit": 3, "sparsity": 0.75}


@pytest.fixture(scope="module")
def finished(folder: Path, settings: dict[str, Any]) -> ByHand:
    """A run with both bundled tasks, to its end."""
    run = through_layers(small_settings(folder, **settings))
    assert [stage() for stage in (run.export, run.evaluate, run.report)] == ["Completed"] * 3
    run.finish()
    return run


def scores(run: ByHand) -> dict[tuple[str, str], dict[str, Any]]:
    found = json.loads(run.store.record(run.keys.evaluation))["tasks"]["scores"]
    return {(score["task"], score["metric"]): score for score in found}


def test_both_models_have_figures_and_errors_by_the_same_protocol(finished: ByHand):
    about = json.loads(finished.store.record(finished.keys.evaluation))["tasks"]
    assert (about["limit"], about["seed"]) == (3, 0) and "the same seed for every model" in about["protocol"]
    found = scores(finished)
    lambada, perplexity = found["local_lambada", "acc"], found["local_lambada", "perplexity"]
    words = found["local_wikitext", "word_perplexity"]
    assert all(score["samples"] == 3 and score["version"] == 1.0 for score in found.values())
    for name in ("dense", "pruned"):
        assert perplexity["value"][name] > 1 and perplexity["stderr"][name] > 0
        assert lambada["stderr"][name] is not None and words["stderr"][name] is None
    assert perplexity["value"]["dense"] != perplexity["value"]["pruned"]
    assert lambada["higher_is_better"] and not words["higher_is_better"]
    main = {key for key, score in found.items() if score["main"]}
    assert main == {("local_lambada", "acc"), ("local_wikitext", "word_perplexity")}
    assert words["loss"] == pytest.approx(words["value"]["pruned"] / words["value"]["dense"] - 1)


def test_the_table_has_the_described_columns_and_the_figures_of_the_results(finished: ByHand):
    table = decode(finished.store.record(finished.keys.benchmarks), EVALUATION)
    assert pq.read_schema(finished.store.locate(finished.keys.benchmarks)).field("stderr").metadata[b"description"]
    rows = {(row["case"], row["metric"], row["model"]): row for row in table.to_pylist()}
    for (task, metric), score in scores(finished).items():
        for model, value in score["value"].items():
            row = rows[task, metric, model]
            assert (row["part"], row["value"], row["stderr"]) == ("task", value, score["stderr"][model])
    assert {model for *_, model in rows} == {"dense", "pruned", "change"}


def test_summary_and_model_card_have_the_tasks(finished: ByHand):
    summary = summarise(finished.run, finished.evaluated)
    card = model_card(summary)
    assert summary["tasks"]["scores"] and "\n## Tasks\n" in card
    words = scores(finished)["local_wikitext", "word_perplexity"]["value"]
    assert f"| `local_wikitext` | `word_perplexity` | 3 | {words['dense']:.4g} | {words['pruned']:.4g} |" in card
    assert re.search(r"\| `local_lambada` \| `perplexity` \| 3 \| \S+ ± \S+ \| \S+ ± \S+ \| [+−][^|]+ \|\n", card)
    assert "## Tasks" not in model_card({name: value for name, value in summary.items() if name != "tasks"})


def test_the_same_model_twice_has_the_same_figures_and_errors(finished: ByHand):
    model = str(finished.source.folder)
    job = BenchmarkJob(
        models={"dense": model, "pruned": model}, tokenizer=model, tasks=finished.run.benchmarks, limit=3, seed=0,
        device="cpu", dtype="float32", threads=torch.get_num_threads(),
    )  # fmt: skip
    found = benchmark_figures(asdict(job), print)
    assert found["dense"] == found["pruned"]
    perplexity, expected = found["dense"]["local_lambada"]["metrics"]["perplexity"], scores(finished)
    assert perplexity["stderr"] == expected["local_lambada", "perplexity"]["stderr"]["dense"]


def test_a_run_killed_before_its_results_takes_the_tasks_from_the_store(
    finished: ByHand, folder: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    expected = contents(folder / "store")
    for key in (finished.keys.manifest, finished.keys.evaluation, finished.keys.stage("evaluation")):
        finished.store.delete(key)
    monkeypatch.setattr(benchmarks, "run_benchmarks_apart", None)
    again = through_layers(small_settings(folder, **settings))
    assert (again.export(), again.evaluate()) == ("Cached", "Completed")
    again.report()
    again.finish()
    assert contents(folder / "store") == expected


def test_a_damaged_table_is_not_taken(
    finished: ByHand, folder: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(benchmarks, "run_benchmarks_apart", lambda job, timeout: benchmark_figures(asdict(job), print))
    expected = contents(folder / "store")
    finished.store.delete(finished.keys.manifest)
    finished.store.put(finished.keys.benchmarks, finished.store.record(finished.keys.benchmarks)[:-1] + b"?")
    again = through_layers(small_settings(folder, **settings))
    assert (again.export(), again.evaluate()) == ("Cached", "Completed")
    again.report()
    again.finish()
    assert contents(folder / "store") == expected


def test_a_run_that_loses_too_much_is_not_published_and_published_with_a_higher_limit(
    finished: ByHand, folder: Path, settings: dict[str, Any]
):
    lost = [score["loss"] for score in scores(finished).values() if score["main"]]
    limit = max(lost) / 2
    assert limit > 0
    run = through_report(small_settings(folder, **settings, out=str(folder / "out"), max_task_loss=limit))
    assert set(run.states.values()) == {"Cached"} and run.keys == finished.keys
    with pytest.raises(QualityGateError) as refused:
        run.finish()
    line, words = str(refused.value), scores(finished)["local_wikitext", "word_perplexity"]["value"]
    figures = f"local_wikitext word_perplexity {words['pruned']:.6g} is worse than the dense {words['dense']:.6g} by "
    assert "\n" not in line and figures in line and f"over {limit:.3%} (--max-task-loss)" in line
    assert "was not published; give a lower --sparsity or a higher limit" in line and not (folder / "out").exists()
    through_report(small_settings(folder, **settings, out=str(folder / "out"), max_task_loss=2 * max(lost))).finish()
    assert (folder / "out" / "model.safetensors").exists()


SCORE: dict[str, Any] = {"task": "piqa", "metric": "acc", "main": True, "higher_is_better": True}
SCORE |= {"value": {"dense": 0.7, "pruned": 0.6}}


@pytest.mark.parametrize(
    ("changes", "failed"),
    [({"loss": 0.1}, 1), ({"loss": 0.05}, 0), ({"loss": -0.2}, 0), ({"loss": float("nan")}, 1),
     ({"loss": 0.1, "main": False}, 0), ({"loss": 0.1, "higher_is_better": False}, 1)],
    ids=str,
)  # fmt: skip
def test_a_limit_fails_main_metrics_that_lose_more_or_are_no_number(changes: dict[str, Any], failed: int):
    said = failed_tasks(0.05, [SCORE | changes])
    assert len(said) == failed
    if changes == {"loss": 0.1}:
        assert said == ["piqa acc 0.6 is worse than the dense 0.7 by 0.1, over 0.05 (--max-task-loss)"]


@pytest.mark.parametrize(
    ("dense", "pruned", "higher", "expected"),
    [(0.7, 0.6, True, 0.1), (0.6, 0.7, True, -0.1), (10.0, 11.0, False, 0.1), (10.0, 9.0, False, -0.1),
     (0.0, 0.0, False, 0.0), (0.0, 1.0, False, float("inf"))],
)  # fmt: skip
def test_loss_is_in_points_for_shares_and_relative_for_perplexities(
    dense: float, pruned: float, higher: bool, expected: float
):
    assert loss(dense, pruned, higher_is_better=higher) == pytest.approx(expected)


def test_tasks_make_another_run_by_name_limit_and_content_and_no_tasks_the_one_before(
    finished: ByHand, folder: Path, settings: dict[str, Any], tmp_path: Path
):
    def identity(**changes: Any) -> str:
        return open_run(small_settings(folder, **settings | changes)).keys.run_id

    spec = f"local_lambada:{tmp_path / 'elsewhere'}"
    (tmp_path / "elsewhere").write_bytes((folder / "lambada.jsonl").read_bytes())
    moved, fewer = identity(tasks=spec), identity(tasks=spec, limit=2)
    assert moved == identity(tasks=f"local_lambada:{folder / 'lambada.jsonl'}")
    (tmp_path / "elsewhere").write_text(json.dumps({"text": "another text"}))
    assert len({moved, fewer, identity(tasks=spec), identity(), identity(tasks="")}) == 5
    assert open_run(small_settings(folder)).determinants["tasks"] is None
    assert identity(tasks="") == open_run(small_settings(folder, sparsity=0.75)).keys.run_id
    assert identity(max_task_loss=0.5) == finished.keys.run_id


@pytest.mark.parametrize(
    ("tasks", "message"),
    [("humaneval", "humaneval runs code that the model writes; allow it with --allow-code"),
     ("local_lambada:/none", "local_lambada: no file /none; give one such as lambada_test.jsonl"),
     ("local_wikitext", "local_wikitext reads a local file; give it as local_wikitext:PATH/")],
)  # fmt: skip
def test_tasks_that_cannot_work_are_refused_before_the_first_layer(tmp_path: Path, tasks: str, message: str):
    with pytest.raises(SettingsError, match=f"^tasks: {re.escape(message)}"):
        open_run(small_settings(tmp_path, tasks=tasks))
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("missing", ["lm_eval.tasks", "accelerate", "peft"])
def test_tasks_without_the_extra_are_refused_with_the_remedy(
    folder: Path, settings: dict[str, Any], missing: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(SettingsError, match=r"install it with pip install 'ghost-ssm\[eval\]'$"):
        open_run(small_settings(folder, **settings, seed=9))


def test_an_unknown_task_is_refused_before_the_first_layer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from lm_eval.tasks import TaskManager

    def without_its_own_tasks(include_defaults: bool, **options: Any) -> TaskManager:  # to read those takes 10 seconds
        return TaskManager(include_defaults=not include_defaults, **options)

    monkeypatch.setattr("lm_eval.tasks.TaskManager", without_its_own_tasks)
    with pytest.raises(SettingsError, match=r"^tasks: lm-eval knows no task 'helaswag'; `lm-eval ls tasks` lists"):
        open_run(small_settings(tmp_path, tasks="helaswag"))
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("tasks", ["", " , "])
def test_a_limit_on_tasks_without_tasks_is_refused_when_the_settings_are_made(tasks: str):
    with pytest.raises(SettingsError, match=r"^max_task_loss: 0\.02 limits what tasks lose, .*; give --tasks, such as"):
        RunSettings.make(max_task_loss=0.02, tasks=tasks)


RECIPE = {"name": "half", "source": "/models/new", "publish": "/models/pruned"}


def test_a_recipe_gives_its_runs_tasks_and_a_limit_on_them():
    given = {"tasks": "local_lambada:s3://texts/lambada.jsonl,piqa", "limit": 100}
    recipe = Recipe.model_validate(RECIPE | {"settings": given, "gate": {"max_task_loss": 0.02}})
    parameters = recipe.parameters("/models/new/a", "/models/pruned/a")
    assert RunSettings.make(**parameters).max_task_loss == 0.02 and given.items() <= parameters.items()
    assert recipe.version != Recipe.model_validate(RECIPE | {"settings": given}).version


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"gate": {"max_task_loss": 0.02}}, "gate: max_task_loss: 0.02 limits what tasks lose"),
     ({"settings": {"tasks": "local_lambada:a.jsonl"}}, "local_lambada: 'a.jsonl' is no absolute path; give one, or"),
     ({"settings": {"tasks": "humaneval"}}, "tasks: humaneval runs code that the model writes")],
    ids=str,
)  # fmt: skip
def test_a_recipe_whose_tasks_cannot_work_is_refused(changes: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=re.escape(message)):
        Recipe.model_validate(RECIPE | changes)
