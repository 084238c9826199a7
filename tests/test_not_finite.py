"""Perplexities that are infinite or no number: results, null in JSON, told in words, and over every limit."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from markupsafe import escape
from rich.console import Console
from safetensors.torch import load_file, save_file

from artifacts.schemas import EVALUATION
from flows.compare_command import _rows as compared_rows
from flows.compare_command import _table as compared_table
from flows.summary import as_markdown, as_table, headline, print_summary
from flows.sweep_command import print_sweep
from ghost.calibration.tokens import load_tokenizer
from ghost.checkpoint.source import open_checkpoint
from ghost.errors import QualityGateError
from ghost.evaluation import rows
from ghost.evaluation.decode import stock_model
from ghost.evaluation.harness import benchmark_manager, parse_benchmarks, run_benchmarks
from ghost.evaluation.perplexity import Perplexity, perplexity
from ghost.report import verdict
from ghost.report.card import model_card
from ghost.report.comparison_page import render_comparison
from ghost.report.figures import NOT_FINITE
from ghost.report.overlap import ComparedRun
from ghost.report.page import render
from ghost.report.recall_and_tasks import task_losses
from ghost.report.sweep_page import render_sweep
from ghost.settings import RunSettings
from tasks.run.dense_score import find_dense
from tasks.run.gate import check_gate, failed_limits, failed_tasks
from tasks.run.report import summarise
from tasks.store.comparison import machine_readable
from tasks.stored_run import StoredRun
from tests.by_hand import ByHand, small_settings, through_report
from tests.models import make_model, open_stack, random_tokens, text
from tests.report_samples import layer_view, summary
from tests.sweeps import row

pytest_plugins = ["tests.refusals"]

BROKEN: dict[str, Callable[[Any], Any]] = {
    "infinite": lambda weight: weight * 1e6,
    "no number": lambda weight: torch.full_like(weight, 3e38),
}
"""What becomes of the final norm's weight: thousands of nats, whose exponential no float holds; infinite logits."""


def broken(folder: Path, how: str) -> Path:
    """A model whose layers are whole and whose logits are of no use."""
    make_model(folder, layers=2)
    path, name = folder / "model.safetensors", "backbone.norm_f.weight"
    weights = load_file(path)
    save_file(weights | {name: BROKEN[how](weights[name])}, path, {"format": "pt"})
    return folder


@pytest.fixture(scope="module", params=BROKEN)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ByHand:
    """A run of such a model, to its report."""
    folder = tmp_path_factory.mktemp("run")
    broken(folder / "model", request.param)
    (folder / "text.txt").write_text(text(400))
    return through_report(small_settings(folder))


def strict(data: bytes | str) -> Any:
    """JSON as its grammar has it, without Python's NaN and Infinity."""

    def refuse(constant: str) -> None:
        raise ValueError(constant)

    return json.loads(data, parse_constant=refuse)


@pytest.mark.parametrize("how", BROKEN)
def test_a_perplexity_beyond_all_floats_is_a_result(how: str, tmp_path: Path) -> None:
    found = perplexity(open_stack(broken(tmp_path / "model", how)), random_tokens(1, 100)[0], 32)
    assert not math.isfinite(found.perplexity) and (found.nll > 709 or math.isnan(found.nll))
    plain = strict(json.dumps(found.as_dict()))
    assert plain["perplexity"] is None and (plain["nll"] is None) == (how == "no number")
    assert Perplexity.from_dict(plain).as_dict() == plain


def test_a_run_ends_with_it_and_tells(run: ByHand) -> None:
    results = strict(run.store.record(run.keys.evaluation))
    assert results["perplexity"] == {"dense": None, "pruned": None}
    card, page = (run.store.record(key).decode() for key in (f"{run.keys.checkpoint}/README.md", run.keys.report))
    assert f"| Perplexity | {NOT_FINITE} | {NOT_FINITE} | {NOT_FINITE} |" in card
    assert f"perplexity {NOT_FINITE}" in page and str(escape(verdict.NO_DENSE)) in page
    assert strict(run.store.record(f"{run.keys.checkpoint}/ghost.json"))["figures"]["perplexity"]["pruned"] is None


def test_another_run_takes_the_dense_figure_as_it_is(run: ByHand) -> None:
    kept = find_dense(run.run)
    assert kept is not None and not math.isfinite(kept.perplexity)


def test_every_gate_refuses_it(run: ByHand) -> None:
    for limit in ("max_perplexity", "max_perplexity_rise"):
        before = run.run.settings
        run.run.settings = before.model_copy(update={limit: 1e300})
        with pytest.raises(QualityGateError, match=NOT_FINITE):
            check_gate(run.run, run.evaluated.results)
        run.run.settings = before


@pytest.mark.parametrize(("dense", "pruned"), [(None, 8.0), (8.0, None), (None, None)])
def test_a_rise_from_or_to_no_number_is_over_every_limit(dense: float | None, pruned: float | None) -> None:
    (told,) = failed_limits(RunSettings.make(max_perplexity_rise=0.5), dense, pruned)
    assert NOT_FINITE in told
    assert len(failed_limits(RunSettings.make(max_perplexity=100.0), dense, pruned)) == (pruned is None)


def task_scores(**figures: dict[str, Any]) -> list[dict[str, Any]]:
    found = {
        model: {
            "a task": {"metrics": {"ppl": {"stderr": None, "higher_is_better": False, "documents": []} | figure},
                       "main": "ppl", "samples": 3, "version": 1}
        }
        for model, figure in figures.items()
    }  # fmt: skip
    return rows.side_by_side(found)


@pytest.mark.parametrize("pruned", [math.inf, math.nan])
def test_a_task_without_a_finite_figure_is_lost(pruned: float) -> None:
    scores = task_scores(dense={"value": 3.0}, pruned={"value": pruned})
    assert strict(json.dumps(scores)) == scores and scores[0]["loss"] is None
    assert NOT_FINITE in failed_tasks(1e300, scores)[0]
    assert NOT_FINITE in task_losses(scores)[0]
    found = summary(tasks={"scores": scores, "protocol": "by hand", "seed": 0})
    assert NOT_FINITE in model_card(found) and NOT_FINITE in render(found, [layer_view()])
    assert NOT_FINITE in as_markdown(found, "checkpoint", "/page")


def test_a_loss_from_nothing_is_no_infinity_in_json() -> None:
    (score,) = task_scores(dense={"value": 0.0}, pruned={"value": 1.0})
    assert score["loss"] is None and failed_tasks(1e300, [score])


def test_the_terminal_and_prefects_page_say_so(capsys: pytest.CaptureFixture[str]) -> None:
    found = summary(perplexity={"dense": 10.0, "pruned": None})
    more = {"layers": {"computed": 1, "cached": 0}, "seconds": 1.0, "checkpoint": "c", "page": "/p"}
    print_summary(found | more, as_json=False)
    assert NOT_FINITE in capsys.readouterr().out
    assert (
        as_table(found).row_count == 5 and NOT_FINITE in headline(found) and NOT_FINITE in as_markdown(found, "c", "/p")
    )
    print_summary(found | more, as_json=True)
    assert strict(capsys.readouterr().out)["perplexity"]["pruned"] is None


def test_a_comparison_shows_it_last(capsys: pytest.CaptureFixture[str]) -> None:
    runs = [
        ComparedRun(
            summary=summary(run_id=name, perplexity={"dense": 10.0, "pruned": pruned}),
            source="s",
            kept={0: np.eye(4, dtype=bool)},
        )
        for name, pruned in (("a" * 16, None), ("b" * 16, 12.0))
    ]
    told = machine_readable(runs)
    assert strict(json.dumps(told))["runs"][0]["perplexity_rise"] is None
    Console(width=200).print(compared_table(compared_rows(told)))
    assert NOT_FINITE in capsys.readouterr().out
    page = render_comparison(runs)
    assert page.index("+20.0% perplexity") < page.index(f"perplexity {NOT_FINITE}")


@pytest.mark.parametrize("dense", [10.0, None])
def test_a_sweep_shows_it_in_table_and_page(dense: float | None, capsys: pytest.CaptureFixture[str]) -> None:
    lost = row(perplexity_dense=dense, perplexity=None, rise=None, method="random")
    cells = [lost, *([row()] if dense else [])]
    print_sweep({"cells": cells, "failed": {}, "page": "p"})
    assert NOT_FINITE in capsys.readouterr().out
    about = {"sweep_id": "s", "axes": {"models": ["demo"], "methods": ["ghost"], "sparsity": [0.5]}, "options": {},
             "versions": {}}  # fmt: skip
    assert NOT_FINITE in render_sweep(about, cells, [])


def test_eval_has_null_in_json_and_parquet_and_words_in_its_table(tmp_path: Path, execute: Any) -> None:
    whole, lost = make_model(tmp_path / "whole", layers=2), broken(tmp_path / "lost", "infinite")
    (tmp_path / "text.txt").write_text(text(400))
    argv = ["eval", str(lost), f"--against={whole}", f"--text={tmp_path / 'text.txt'}", "--contexts=4", "--segments=4",
            "--pairs=", "--batch-sizes=", f"--out={tmp_path / 'out'}"]  # fmt: skip
    code, out, err = execute(argv)
    assert code == 0 and NOT_FINITE in out, err
    found = {line["model"]: line["value"] for line in strict((tmp_path / "out" / "results.json").read_text())["rows"]}
    assert found["dense"] > 1 and (found["pruned"], found["change"]) == (None, None)
    table = pq.read_table(tmp_path / "out" / "results.parquet")
    assert table.schema.equals(EVALUATION) and table["value"].null_count == 2


def test_means_of_losses_that_overflow_are_null_with_their_errors() -> None:
    for nll in ([1.0, 2000.0], [1.0, math.inf], [1.0, math.nan]):
        for found in rows.perplexities(
            "context", "4", {"dense": torch.tensor([1.0, 2.0]), "pruned": torch.tensor(nll)}
        ):
            assert (found["value"] is None) == (found["model"] != "dense")
            assert found["stderr"] is None or math.isfinite(found["stderr"])


def test_lm_evals_own_perplexity_is_infinite_and_no_crash(tmp_path: Path) -> None:
    folder = broken(tmp_path / "lost", "infinite")
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": text(4)}))
    tasks = parse_benchmarks(f"local_lambada:{tmp_path / 'a.jsonl'}", allow_code=False)
    model = stock_model(open_checkpoint(folder), torch.device("cpu"), torch.float32)
    found = run_benchmarks(
        model, load_tokenizer(folder), tasks, manager=benchmark_manager(tasks), limit=None, seed=0, batch=1
    )
    assert found["local_lambada"]["metrics"]["perplexity"]["value"] == math.inf


def test_what_was_published_is_read_again(run: ByHand) -> None:
    run.finish()
    assert StoredRun(run.store, run.keys).results()["perplexity"]["pruned"] is None
    again = through_report(run.run.settings)
    assert set(again.states.values()) == {"Cached"}
    assert summarise(again.run, again.evaluated)["perplexity"]["pruned"] is None
