"""A sweep's plan, the dense score that its cells share, and the figures and the page that are made of its rows."""

import json
import re
from dataclasses import replace
from pathlib import Path
from statistics import correlation
from typing import Any

import numpy as np
import pytest

from artifacts.store import open_store
from ghost.errors import SettingsError
from ghost.report.sweep_page import render_sweep
from ghost.report.sweep_rows import fixed, lines
from ghost.settings import RunSettings
from tasks.run.cost import forget_peak, peak_bytes, read_cost
from tasks.run.dense_score import find_dense, keep_dense
from tasks.run.open import open_run
from tasks.sweep.settings import RunOptions, make_sweep
from tests.by_hand import through_layers
from tests.chaos import Bench
from tests.report_samples import ABOUT, view
from tests.sweeps import options, row


def test_every_option_of_a_run_is_an_axis_an_option_or_about_publishing() -> None:
    sweep = make_sweep({"methods": ["ghost", "ghost", "random"], "sparsity": [0.5], "seeds": [3]}, RunOptions())
    kept = make_sweep({"methods": ["ghost"], "keep": [64, 32]}, RunOptions())
    given = {name for cell in (*sweep.cells, *kept.cells) for name in cell.settings.model_fields_set}
    assert {"out", "recipe"} <= set(RunSettings.model_fields) - given
    assert all(name.startswith(("out", "format", "recipe", "max_")) for name in set(RunSettings.model_fields) - given)
    assert [cell.name for cell in sweep.cells] == ["demo: ghost at 0.5, seed 3", "demo: random at 0.5, seed 3"]
    assert [cell.name for cell in kept.cells] == ["demo: ghost keeps 64", "demo: ghost keeps 32"]
    assert "sparsity" not in kept.axes and "keep" not in sweep.axes and kept.sweep_id != sweep.sweep_id


def test_cells_go_through_the_methods_fastest_and_models_of_one_name_are_told_apart(tmp_path: Path) -> None:
    models = [str(tmp_path / part / "model") for part in ("a", "b")]
    for model in models:
        Path(model).mkdir(parents=True)
    sweep = make_sweep({"models": models, "methods": ["ghost", "magnitude"], "sparsity": [0.5, 0.75]}, RunOptions())
    assert [cell.name for cell in sweep.cells][:3] == [
        "model: ghost at 0.5", "model: magnitude at 0.5", "model: ghost at 0.75",
    ]  # fmt: skip
    assert sweep.cells[4].label == "model (2)"


def test_the_name_of_a_sweep_is_what_was_asked_and_not_where_it_is_kept() -> None:
    def name(axes: dict[str, Any], **fields: Any) -> str:
        return make_sweep(axes, RunOptions.make(**fields)).sweep_id

    plain = name({})
    assert plain == name({}, store="elsewhere") == name({"methods": ["ghost", "magnitude", "random"]})
    assert len({plain, name({}, samples=4), name({"seeds": [1]}), name({"methods": ["ghost"]})}) == 4


@pytest.mark.parametrize(
    ("axes", "fields", "message"),
    [({"methods": ["best"]}, {}, "method 'best' is unknown"), ({"sparsity": [1.5]}, {}, "sparsity: 1.5 is outside"),
     ({"recovery": ["most"]}, {}, "recovery: Input should be 'none'"), ({}, {"samples": 0}, "samples: Input should"),
     ({}, {"sampels": 1}, "sampels: Extra inputs"), ({"keep": [0]}, {}, "keep: Input should be greater than"),
     ({"keep": [64], "sparsity": [0.5]}, {}, "keep: 64 and sparsity 0.5 are both given; give one of them")],
)  # fmt: skip
def test_what_no_run_takes_is_refused(axes: dict[str, Any], fields: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        make_sweep(axes, RunOptions.make(**fields))


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("bench"), api="", layers=1)


def dense_perplexity(given: dict[str, Any], **changes: Any) -> float:
    """The dense figure of a run up to its evaluation, by the functions of its tasks."""
    run = through_layers(RunSettings.make(**given | changes))
    run.export()
    run.evaluate()
    return json.loads(run.store.record(run.keys.evaluation))["perplexity"]["dense"]


def test_the_dense_score_is_computed_once_and_taken_only_whole(bench: Bench, tmp_path: Path) -> None:
    given = options(bench.folder, tmp_path / "store") | {"model": str(bench.folder / "model"), "length": 32}
    given |= {"window": 128, "method": "magnitude"}
    first = dense_perplexity(given, sparsity=0.5)
    [record] = (tmp_path / "store" / "dense").iterdir()
    whole = record.read_bytes()
    digit = whole.index(b'"perplexity":') + len(b'"perplexity":') + 3
    record.write_bytes(whole[:digit] + (b"1" if whole[digit : digit + 1] != b"1" else b"2") + whole[digit + 1 :])
    assert dense_perplexity(given, sparsity=0.75) == first
    assert record.read_bytes() == whole, "a damaged score is computed again"
    run = open_run(RunSettings.make(**given, sparsity=0.25))
    score = find_dense(run)
    assert score is not None
    keep_dense(run, replace(score, perplexity=7.5))
    assert dense_perplexity(given, sparsity=0.25) == 7.5, "a score that is there is taken"
    assert dense_perplexity(given, sparsity=0.25, window=64) != 7.5, "another window"
    seconds, peak = read_cost(open_store(tmp_path / "store"), open_run(RunSettings.make(**given, sparsity=0.5)).pruning)
    assert 0 < seconds < 60 and peak is not None and 50e6 < peak < 8e9


def test_a_cell_is_not_charged_with_the_peak_of_the_one_before() -> None:
    import torch

    cpu, size = torch.device("cpu"), 400_000_000
    taken = torch.ones(size // 4)
    before = peak_bytes(cpu)
    del taken
    forget_peak()
    assert peak_bytes(cpu) < before - size // 2


def test_the_proxy_gap_is_what_counting_channel_by_channel_gives() -> None:
    seen = view()
    phantom = corporeal = total = 0
    pairs, within = [], []
    for channels in seen.layers:
        of_layer = []
        for norms, energies in zip(channels.norm_gn.tolist(), channels.energy_gn.tolist(), strict=True):
            by_norm = sorted(range(8), key=lambda n: -norms[n])[:3]
            by_energy = sorted(range(8), key=lambda n: -energies[n])[:3]
            phantom += sum(n not in by_energy for n in by_norm)
            corporeal += sum(n not in by_norm for n in by_energy)
            total += 8
            of_layer += zip(norms, energies, strict=True)
        within.append(correlation(*zip(*of_layer, strict=True)))
        pairs += of_layer
    norms, energies = zip(*pairs, strict=True)
    assert seen.gap.phantom == pytest.approx(phantom / total) and seen.gap.corporeal == pytest.approx(corporeal / total)
    assert seen.gap.disagreement == pytest.approx((phantom + corporeal) / total) and phantom > 0
    assert seen.gap.pearson == pytest.approx(correlation(norms, energies))
    assert seen.log_pearson == pytest.approx(correlation(np.log(norms).tolist(), np.log(energies).tolist()))
    assert seen.layer_pearson == pytest.approx(sum(within) / len(within))


def test_the_share_of_energy_dropped_is_that_of_the_other_channels() -> None:
    channels = view().layers[1]
    energies = [
        float(e) for e, kept in zip(channels.energy_gn.flat, channels.kept_gn["ghost"].flat, strict=True) if not kept
    ]
    assert channels.dropped_energy("ghost") == pytest.approx(sum(energies) / float(channels.energy_gn.sum()))


def test_lines_are_means_over_seeds_at_the_first_window_and_length() -> None:
    rows = [row(seed=seed, window=window, sparsity=s, perplexity=10.0 + seed + s)
            for seed in (0, 1, 2) for window in (2048, 512) for s in (0.25, 0.75)]  # fmt: skip
    rows += [row(method="random", recovery="lstsq", perplexity=99.0, sparsity=0.25)]
    ghost_line, random_line = lines(fixed(rows, "sparsity"), "sparsity", "perplexity")
    assert (ghost_line.name, ghost_line.x) == ("ghost", [0.25, 0.75])
    assert ghost_line.mean == [11.25, 11.75] and ghost_line.low == [10.25, 10.75] and ghost_line.high == [12.25, 12.75]
    assert (random_line.name, random_line.mean) == ("random + lstsq", [99.0])


def rows() -> list[dict[str, Any]]:
    return [row(), row(method="magnitude", perplexity=40.0, rise=3.0), row(sparsity=0.75, perplexity=15.0, rise=0.5)]


def figures(page: str) -> dict[str, Any]:
    data = re.search(r'<script type="application/json" id="page-data">(.*?)</script>', page, re.DOTALL)
    assert data
    return json.loads(data[1])["figures"]


def test_the_page_has_its_plots_its_figures_and_nothing_from_elsewhere() -> None:
    page = render_sweep(ABOUT, rows(), [view()])
    assert set(figures(page)) == {"sparsity-0", "seconds", "memory", "gap-0", "spectra-0", "dropped-0"}
    assert all(f'id="{name}"' in page for name in figures(page))
    assert figures(page)["sparsity-0"]["layout"]["yaxis"]["type"] == "log", "40 is more than three times 10"
    assert "+20.00% at 50% sparsity" in page and f"{view().gap.disagreement:.2%}" in page and "41.30%" in page
    assert len(page.encode()) < 6_000_000 and "<script src" not in page


def test_other_axes_have_plots_only_where_the_sweep_varied_them() -> None:
    varied = [*rows(), row(model="big", parameters=5000), row(window=512), row(calibration_length=64)]
    drawn = figures(render_sweep(ABOUT, varied, []))
    assert {"size", "lengths", "windows", "sparsity-1"} <= set(drawn) and not any("gap" in name for name in drawn)
    assert drawn["size"]["data"][0]["x"] == [1000, 5000]


def test_the_page_says_what_failed_and_which_state_does_not_shrink() -> None:
    broken = dict.fromkeys(row()) | {"model": "<b>", "method": "ghost", "recovery": "none", "sparsity": 0.9}
    same = row(method="wanda", state_bytes=1000)
    page = render_sweep(ABOUT, [*rows(), same, broken | {"error": "model <i>: no such folder"}], [])
    assert "1 cell failed" in page and "&lt;b&gt;, ghost at 90%: model &lt;i&gt;: no such folder" in page
    assert "The state does not shrink with wanda" in page
    assert "Every cell" not in render_sweep(ABOUT, [broken | {"error": "gone"}], []), "nothing to show but the failure"


def test_a_page_of_many_large_models_stays_small() -> None:
    views = [view(seed, layers=64, groups=8, d_state=128, kept=64) for seed in range(5)]
    assert len(render_sweep(ABOUT, rows(), views).encode()) < 6_000_000
