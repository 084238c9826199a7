"""`ghost compare` on runs of a tiny model, and the page by itself."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ghost.report import ComparedRun, overlaps, render_comparison
from ghost.report.comparison_page import run_labels
from ghost.report.overlap import by_chance, jaccard
from ghost.report.paired_runs import NO_SAMPLES, OTHER_SAMPLES, PERPLEXITY, Sampled
from ghost.report.table import BLANK
from tasks.store.comparison import compare_runs
from tests.by_hand import small_settings, through_layers, through_report
from tests.report_samples import NASTY, Page, page_data, summary, table_rows

pytest_plugins = ["tests.refusals"]
Execute = Callable[..., tuple[Any, str, str]]


def compared(
    kept: list[int], source: str = "a", layers: int = 2, samples: np.ndarray | None = None, **changes: Any
) -> ComparedRun:
    """A run that keeps these of 4 channels in every layer, and has these nats in windows of 100 tokens."""
    kept_gn = np.isin(np.arange(4), kept).reshape(1, 4)
    nats = {} if samples is None else {PERPLEXITY: Sampled(values=samples, sizes=np.full(len(samples), 100))}
    chosen = dict.fromkeys(range(layers), kept_gn)
    return ComparedRun(summary=summary(**changes), source=source, kept=chosen, samples=nats)


def finished(folder: Path, **settings: Any) -> str:
    """The id of a finished run."""
    run = through_report(small_settings(folder, **settings))
    run.finish()
    return run.keys.run_id


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """Two finished runs, and one whose report is missing; the store and the three ids."""
    folder = tmp_path_factory.mktemp("compared")
    ids = [finished(folder, method=m, recovery=r) for m, r in (("ghost", "lstsq"), ("random", "none"))]
    unfinished = through_layers(small_settings(folder, method="magnitude")).keys.run_id
    return folder / "store", [*ids, unfinished]


def test_command_prints_a_table_and_writes_the_page(
    store: tuple[Path, list[str]], execute: Execute, tmp_path: Path
) -> None:
    place, (first, second, _) = store
    out = tmp_path / "new" / "page.html"
    code, printed, err = execute(["compare", first, second[:10], f"--store={place}", f"--out={out}"])
    assert code == 0, err
    assert first[:8] in printed and second[:8] in printed and f"page: {out}" in printed
    page = out.read_text()
    rows = table_rows(page, "Runs")
    assert [(row[0], row[1], row[3]) for row in rows] == [(first[:8], "ghost", "lstsq"), (second[:8], "random", "none")]
    assert set(page_data(page)["figures"]) == {"quality", "overlap"}
    assert Page(page).open == []


def test_json_has_figures_and_overlap(store: tuple[Path, list[str]], execute: Execute, tmp_path: Path) -> None:
    place, (first, second, _) = store
    code, printed, err = execute(["compare", first, second, f"--store={place}", f"--out={tmp_path / 'x'}", "--json"])
    assert code == 0, err
    told = json.loads(printed)
    results = json.loads((place / "runs" / first / "evaluation" / "results.json").read_text())
    assert told["runs"][0]["perplexity"] == results["perplexity"]
    assert told["runs"][0]["perplexity_rise"] == results["perplexity"]["pruned"] / results["perplexity"]["dense"] - 1
    (overlap,) = told["overlap"]
    assert overlap["runs"] == [first, second] and len(overlap["layers"]) == 2
    assert told["page"] == str(tmp_path / "x")


def test_two_runs_are_compared_by_the_same_windows_and_prompts(
    store: tuple[Path, list[str]], execute: Execute, tmp_path: Path
) -> None:
    place, (first, second, _) = store
    other = finished(place.parent, method="magnitude", window=64)
    code, printed, _ = execute(["compare", first, second, other, f"--store={place}", f"--out={tmp_path / 'x'}"])
    assert code == 0 and printed.count(OTHER_SAMPLES["perplexity"]) == 1
    nlls = [
        json.loads((place / "runs" / run / "evaluation" / "results.json").read_text())["nll"] for run in (first, second)
    ]
    _, printed, _ = execute(["compare", first, second, other, f"--store={place}", f"--out={tmp_path / 'x'}", "--json"])
    told = json.loads(printed)
    changes = {(*c["runs"], c["part"], c["case"], c["metric"]): c for c in told["changes"]}
    found = changes[first, second, "perplexity", "", "nats"]
    assert found["change"] == pytest.approx(math.expm1(nlls[1]["pruned"] - nlls[0]["pruned"])) and found["stderr"] > 0
    assert found["beyond_noise"] == (abs(found["change"]) >= 2 * found["stderr"])
    assert changes[first, other, "perplexity", "", "nats"]["why_not"] == OTHER_SAMPLES["perplexity"]
    recall = [change for key, change in changes.items() if key[2] == "recall"]
    assert len(recall) == 3 * 3 and all(change["why_not"] is None for change in recall), "the prompts are the same"
    assert all(run["perplexity_rise_stderr"] > 0 for run in told["runs"])
    rows = table_rows((tmp_path / "x").read_text(), "Runs")
    assert [row[7] for row in rows][::2] == [BLANK, OTHER_SAMPLES["perplexity"]] and "±" in rows[1][7]
    assert len(table_rows((tmp_path / "x").read_text(), "Recall and tasks")) == 3


def test_a_run_of_before_samples_were_kept_says_so(store: tuple[Path, list[str]]) -> None:
    place, (first, second, _) = store
    runs = compare_runs(str(place), [first, second])
    older = replace(runs[0], samples={})
    assert OTHER_SAMPLES["perplexity"] not in render_comparison([older, runs[1]])
    assert [row[7] for row in table_rows(render_comparison([older, runs[1]]), "Runs")] == [BLANK, NO_SAMPLES]


def test_the_best_of_a_state_size_may_be_a_matter_of_noise() -> None:
    draws = np.random.default_rng(0)
    runs = [
        compared([0], run_id=str(i) * 16, method=method, perplexity={"dense": 20.0, "pruned": 21.0 + i},
                 samples=draws.normal(300, 1, 50) + loss)
        for i, (method, loss) in enumerate([("ghost", 0.0), ("random", 0.0), ("magnitude", 9.0)])
    ]  # fmt: skip
    text = Page(render_comparison(runs)).text
    assert (
        "+10.0% perplexity with random 62.5% (no difference beyond noise), +15.0% perplexity with magnitude 62.5%."
        in text
    )


def test_unknown_unfinished_and_single_runs_are_refused_in_one_line(
    store: tuple[Path, list[str]], execute: Execute, tmp_path: Path
) -> None:
    place, (first, second, unfinished) = store
    out = tmp_path / "no.html"
    for ids, where, words in (
        ([first, "zzz"], place, "run 'zzz' matches 0 runs"),
        ([first, unfinished], place, f"run {unfinished} is not finished"),
        ([first, first[:12]], place, f"{first} is one run; give two or more"),
        ([first, second], tmp_path / "nowhere", "there is no store"),
    ):
        code, printed, err = execute(["compare", *ids, f"--store={where}", f"--out={out}"])
        assert (code, printed, err.count("\n")) == (2, "", 1)
        assert err.startswith("ghost: error: ") and words in err
    assert not out.exists()


def test_the_page_of_a_run_shows_what_was_measured_and_recovered(store: tuple[Path, list[str]]) -> None:
    place, (first, second, _) = store
    pages = [(place / "runs" / run / "report" / "index.html").read_text() for run in (first, second)]
    measured = [set(page_data(page)["channels"]["columns"]) for page in pages]
    assert measured[1] == {"saliency", "norm_b", "norm_c"} < measured[0]
    for row in table_rows(pages[0], "Layers"):
        chosen, without, recovered = row[-3:]
        assert (chosen == "none") == (float(without) == float(recovered)) and float(recovered) <= float(without)
    assert "kl-bars" in page_data(pages[0])["figures"] and "kl-bars" not in page_data(pages[1])["figures"]
    assert [len(table_rows(page, "Layers")[0]) for page in pages] == [8, 5]
    assert 'id="gap"' in pages[0] and 'id="gap"' not in pages[1]


def test_jaccard_by_hand() -> None:
    a, b = np.array([[True, True, False, False]]), np.array([[False, True, True, False]])
    assert jaccard(a, b) == 1 / 3
    assert by_chance(a, b) == pytest.approx(0.25 / 0.75)
    assert jaccard(a, a) == 1
    assert jaccard(~a & a, ~a & a) == by_chance(~a & a, ~a & a) == 1  # neither keeps any


def test_only_choices_among_channels_of_one_model_overlap() -> None:
    runs = [
        compared([0, 1]), compared([1, 2]), compared([0, 1], source="b"), compared([0, 1], method="balanced"),
        compared([0, 1, 2, 3], method="wanda"),
    ]  # fmt: skip
    assert [overlap.pair for overlap in overlaps(runs)] == [(0, 1)]
    page = render_comparison(runs[2:])
    assert "overlap" not in page_data(page)["figures"]
    assert [row[-1] for row in table_rows(page, "Runs")] == ["demo"] * 3  # two models of one name
    assert "No two of these runs chose among channels" in Page(page).text


def test_best_run_of_a_state_size_comes_first() -> None:
    worse = compared([0], run_id="1" * 16, method="random", perplexity={"dense": 20.0, "pruned": 30.0})
    better = compared([0], run_id="2" * 16, perplexity={"dense": 20.0, "pruned": 21.0})
    text = Page(render_comparison([worse, better])).text
    assert "37.5% of the state: +5.0% perplexity with ghost 62.5%, the least of 2." in text
    assert "Then +50.0% perplexity with random 62.5%." in text
    other = compared([0], evaluation=summary()["evaluation"] | {"window": 64})
    text = Page(render_comparison([better, other])).text
    assert "No two of these runs" in text and "don't compare perplexities" in text


def test_labels_tell_runs_apart() -> None:
    runs = [compared([0], run_id="1" * 16), compared([0], run_id="2" * 16), compared([0], recovery="lstsq")]
    assert run_labels(runs) == ["ghost 62.5% (11111111)", "ghost 62.5% (22222222)", "ghost 62.5% lstsq"]
    assert run_labels([runs[2], compared([0], source="b", model="big")]) == [
        "demo ghost 62.5% lstsq",
        "big ghost 62.5%",
    ]


def test_page_escapes_names_and_is_the_same_each_time() -> None:
    runs = [compared([0], model=NASTY, method=NASTY, run_id=NASTY), compared([1], model=NASTY)]
    page = render_comparison(runs)
    assert Page(page).open == [] and page == render_comparison(runs)
    assert not any(script.startswith("alert(") for script in Page(page).scripts)
    assert len(page.encode()) < 6_000_000
