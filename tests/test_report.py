"""The summary page of a run: what a reader and a browser find in it."""

import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from plotly.offline import get_plotlyjs

from ghost.report import LayerView, model_card, render
from ghost.report.channels import whole_gap
from ghost.report.figures import NOT_FINITE
from tests.report_samples import NASTY, SUMMARY, Page, layer_view, page_data, summary, table_rows

SIX_MEGABYTES = 6_000_000


@pytest.fixture(scope="module")
def page() -> str:
    return render(summary(), [layer_view(layer) for layer in (0, 1, 2)])


def test_every_tag_is_closed_and_every_section_is_there(page: str) -> None:
    walked = Page(page)
    assert walked.open == []
    assert {"header", "section", "table", "dl", "noscript"} <= set(walked.seen)
    assert walked.seen.count("section") == 6


def test_page_loads_nothing_from_a_network(page: str) -> None:
    assert Page(page).addresses == ["data:,"]
    own = page.replace(get_plotlyjs(), "")
    assert len(own) < len(page)
    assert not re.search(r"https?://|@import|url\(", own)
    assert "default-src 'none'" in own


@pytest.mark.parametrize(
    "figure",
    ["24.31 → 24.80", "+2.00%", "100.66 → 37.75", "−62.50%", "384 → 144", "128 → 48", "1.34 B → 1.31 B", "−2.35%"],
)
def test_headline_figure_is_shown(page: str, figure: str) -> None:
    assert figure in Page(page).text


@pytest.mark.parametrize(
    "setting",
    [
        "62.5%",
        "balanced",
        "hard",
        "sequential",
        "128 × 96 tokens, seed 7",
        "hf:wikitext",
        "2,048",
        "412,672",
        "3f9c1e0a",
    ],
)
def test_setting_is_shown_on_page_and_card(page: str, setting: str) -> None:
    assert setting in Page(page).text
    assert setting in model_card(summary())


def test_titles_give_the_share_that_was_pruned_and_settings_the_one_asked_for() -> None:
    asked = summary(sparsity=0.6)
    page, card = Page(render(asked, [layer_view()])).text, model_card(asked)
    assert "62.5% of the recurrent state pruned" in page
    assert "# `demo`, 62.5% of its state pruned" in card
    assert re.search(r"Sparsity\s+60%", page)
    assert "| Sparsity | `60%` |" in card


def test_table_gives_both_sides_of_the_cut() -> None:
    saliency_gn = np.array([[4.0, 0.5, 3.0, 0.25], [0.125, 2.0, 9.0, 8.0]])
    kept_gn = np.array([[True, False, True, False], [False, False, True, True]])
    page = render(summary(), [LayerView(layer=5, saliency_gn=saliency_gn, kept_gn=kept_gn, energy_dropped=0.0246)])
    assert table_rows(page, "Layers") == [["5", "4 / 8", "2.460%", "3.000", "2.000"]]


def test_methods_without_energies_leave_that_column_blank() -> None:
    page = render(summary(method="magnitude"), [layer_view(energy=None)])
    assert table_rows(page, "Layers")[0][2] == "–"
    assert re.search(r'<th scope="col" class="number" aria-sort="none"><button type="button">Energy dropped<', page)
    assert set(page_data(page)["figures"]) == {"kept-bars"}
    assert 'id="gap"' not in page and 'id="pick-gap"' not in page


def test_cut_is_marked_where_all_layers_share_it() -> None:
    def cuts(*kept: int) -> list[float]:
        views = [layer_view(layer, kept=count) for layer, count in enumerate(kept)]
        look = page_data(render(summary(), views))["layouts"]["spectrum"]["layout"]
        return [shape["x0"] for shape in look.get("shapes", [])]

    assert cuts(6, 6) == [6.5]
    assert cuts(6, 8) == []
    assert cuts(16, 16) == []  # nothing was dropped


def test_dead_channels_are_counted() -> None:
    view = layer_view(layer=1)
    dropped = np.flatnonzero(~view.kept_gn[0])
    view.saliency_gn[0, dropped[:2]] = 0
    view.saliency_gn[0, dropped[2]] = 1e-9
    page = render(summary(), [layer_view(0), view])
    assert "3 channels below 0.001% of the largest in the layer, 2 dead" in Page(page).text


def test_no_note_about_dead_channels_where_all_live(page: str) -> None:
    assert "dead" not in Page(page).text


def test_layer_that_is_dead_altogether_is_drawn() -> None:
    view = layer_view()
    view.saliency_gn[:] = 0
    page = render(summary(), [view])
    assert 0 < page_data(page)["foot"] < 1
    assert "16 channels below" in Page(page).text


def test_layers_of_which_nothing_or_all_is_kept() -> None:
    none, everything = layer_view(0, kept=6), layer_view(1, kept=16)
    none.kept_gn[:] = False
    page = render(summary(method="shedder"), [none, everything])
    least = f"{everything.saliency_gn.min():#.4g}"
    assert [row[1:5:2] for row in table_rows(page, "Layers")] == [["0 / 16", "–"], ["16 / 16", least]]
    assert table_rows(page, "Layers")[1][4] == "–"


def test_gap_is_said_in_words_and_can_be_picked_by_layer(page: str) -> None:
    found = whole_gap([layer_view(layer) for layer in (0, 1, 2)])
    assert found and found.pearson is not None
    text = Page(page).text
    assert f"their correlation is {found.pearson:.2f}".replace("-", "−") in text
    assert f"disagree on {found.disagreement * 100:.4g}%" in text
    options = re.search(r'<select id="pick-gap">(.*?)</select>', page)
    assert options and re.findall(r"value=\"(.*?)\"", options[1]) == ["all", "0", "1", "2"]


def test_headings_sort_by_keyboard_and_say_so(page: str) -> None:
    headings = re.findall(r"<th [^>]*>.*?</th>", page)
    assert len(headings) == 5
    assert all('aria-sort="none"' in heading and '<button type="button">' in heading for heading in headings)
    assert re.search(r'<td class="number" data-value="0.125">12.500%</td>', page)


@pytest.mark.parametrize(("count", "step"), [(1, 1), (3, 1), (12, 1), (24, 2), (81, 7)])
def test_bars_are_labelled_by_whole_layers_at_most_twelve(count: int, step: int) -> None:
    page = render(summary(), [layer_view(layer) for layer in range(count)])
    assert page_data(page)["figures"]["kept-bars"]["layout"]["xaxis"]["tickvals"] == [*range(0, count, step)]


def test_only_layers_that_have_a_bar_are_labelled() -> None:
    page = render(summary(), [layer_view(layer) for layer in (0, 2, 6)])
    assert page_data(page)["figures"]["kept-bars"]["layout"]["xaxis"]["tickvals"] == [0, 2, 6]


def test_recovery_is_told_by_layer_where_there_was_one() -> None:
    told = "lstsq x0.5, held-back KL 0.019 against 0.030 without"
    page = render(summary(recovery="lstsq"), [dataclasses.replace(layer_view(), recovery=told)])
    assert table_rows(page, "Layers")[0][-1] == told, "as records of before its figures were kept have it"
    assert "lstsq: out_proj fitted" in Page(page).text
    views = [
        dataclasses.replace(layer_view(0), recovery="lstsq x0.5", kl=(0.03, 0.019)),
        dataclasses.replace(layer_view(1), recovery="none", kl=(None, None)),
    ]
    page = render(summary(recovery="lstsq"), views)
    assert [row[-3:] for row in table_rows(page, "Layers")] == [
        ["lstsq x0.5", "0.0300", "0.0190"], ["none", NOT_FINITE, NOT_FINITE],
    ]  # fmt: skip
    without, recovered = page_data(page)["figures"]["kl-bars"]["data"]
    assert (without["x"], without["y"], recovered["y"]) == ([0, 1], [0.03, None], [0.019, None])
    assert "perplexity is 24.31, the pruned one's 24.80" in Page(page).text


def test_directions_are_called_directions() -> None:
    text = Page(render(summary(method="balanced"), [layer_view(energy=None)])).text
    assert "Saliency of every direction" in text and "Kept directions" in text
    assert "channel" not in text


def test_layers_are_counted_by_their_kind() -> None:
    assert "pruned with ghost; 3 Mamba2 layers, run" in Page(render(summary(), [layer_view()])).text
    hybrid = summary(decoder_layers=7, layer_kinds={"Mamba2": 3, "MLP": 4})
    text = Page(render(hybrid, [layer_view()])).text
    assert "pruned with ghost; 3 of 7 layers have a Mamba2 state, run" in text
    assert re.search(r"Layers\s+3 Mamba2, 4 MLP", text)


def test_what_went_is_said_of_every_kind_of_method() -> None:
    def told(**changes: Any) -> str:
        return Page(render(summary(**changes), [layer_view()])).text

    assert "62.5% of the weights of B and C zeroed with wanda" in told(method="wanda")
    assert "62.5% of the recurrent state silenced by whole layers with shedder" in told(method="shedder")
    assert re.search(r"Kept\s+99% of the energy", told(method="balanced", energy=0.99))


def test_tasks_have_a_table() -> None:
    score = {
        "task": "arc_easy", "metric": "acc", "main": True, "higher_is_better": True, "samples": 570, "version": 1,
        "value": {"dense": 0.61, "pruned": 0.52}, "stderr": {"dense": 0.01, "pruned": None}, "loss": 0.09,
    }  # fmt: skip
    page = render(summary(tasks={"scores": [score], "protocol": "lm-eval", "seed": 3}), [layer_view()])
    assert table_rows(page, "Tasks") == [["arc_easy", "acc", "570", "0.61 ± 0.01", "0.52", "+9.00%"]]
    assert "lm-eval; seed 3" in Page(page).text


@pytest.mark.parametrize(("count", "groups", "d_state"), [(1, 1, 128), (81, 2, 64), (64, 8, 128)])
def test_any_number_of_layers_stays_below_six_megabytes(count: int, groups: int, d_state: int) -> None:
    views = [layer_view(layer, groups, d_state, d_state // 2) for layer in range(count)]
    page = render(summary(), views)
    assert len(page.encode()) < SIX_MEGABYTES
    assert len(page_data(page)["channels"]["layers"]) == len(table_rows(page, "Layers")) == count
    drawn = page_data(page)["layouts"]["spectrum"]["data"]
    assert any("colorbar" in trace["marker"] for trace in drawn) == (count > 1)


def test_page_escapes_every_text() -> None:
    nested = {"calibration": SUMMARY["calibration"] | {"corpus": NASTY}}
    nested["evaluation"] = SUMMARY["evaluation"] | {"corpus": NASTY, "protocol": NASTY}
    page = render(summary(model=NASTY, method=NASTY, policy=NASTY, run_id=NASTY, **nested), [layer_view()])
    walked = Page(page)
    assert walked.open == []
    assert not any("alert(" in script for script in Page(page.replace(get_plotlyjs(), "")).scripts)
    assert walked.text.count('<script>alert("1")</script> & ') >= 8


def page_and_card() -> bytes:
    return (render(summary(), [layer_view(layer) for layer in (0, 1, 2)]) + model_card(summary())).encode()


def test_same_input_gives_same_bytes_in_another_process() -> None:
    code = "import sys, test_report; sys.stdout.buffer.write(test_report.page_and_card())"
    environment = os.environ | {"PYTHONHASHSEED": "99", "PYTHONPATH": os.pathsep.join(sys.path), "TZ": "Asia/Tokyo"}
    command = [sys.executable, "-c", code]
    other = subprocess.run(command, env=environment, cwd=Path(__file__).parent, capture_output=True, check=True)
    assert other.stdout == page_and_card()


@pytest.mark.parametrize(
    ("saliency_gn", "kept_gn"),
    [
        (np.ones((1, 4)), np.ones((2, 4), dtype=bool)),
        (np.ones(4), np.ones(4, dtype=bool)),
        (np.array([[1.0, np.nan]]), np.ones((1, 2), dtype=bool)),
        (np.array([[1.0, np.inf]]), np.ones((1, 2), dtype=bool)),
    ],
)
def test_layer_view_refuses_what_cannot_be_drawn(saliency_gn: np.ndarray, kept_gn: np.ndarray) -> None:
    with pytest.raises(ValueError, match="layer 4: "):
        LayerView(layer=4, saliency_gn=saliency_gn, kept_gn=kept_gn, energy_dropped=None)
