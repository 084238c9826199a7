"""The summary page and the model card: what a reader, a browser and the hub's YAML reader find in them."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from plotly.offline import get_plotlyjs

from ghost.report import LayerView, model_card, render
from tests.report_samples import NASTY, SUMMARY, Page, channel_traces, decoded, layer_view, points, summary, traces

SIX_MEGABYTES = 6_000_000


@pytest.fixture(scope="module")
def page() -> str:
    return render(summary(), [layer_view(layer) for layer in (0, 1, 2)])


def test_every_tag_is_closed_and_every_section_is_there(page: str) -> None:
    walked = Page(page)
    assert walked.open == []
    assert {"header", "section", "table", "dl", "noscript"} <= set(walked.seen)
    assert walked.seen.count("section") == 3


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
    assert figure in re.sub(r"\s+", " ", Page(page).text)


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
    cells = re.findall(r"<td>(.*?)</td>", page)
    assert cells == ["5", "4 / 8", "2.460%", "3.000", "2.000"]


def test_methods_without_energies_leave_that_column_blank() -> None:
    page = render(summary(method="magnitude"), [layer_view(energy=None)])
    assert re.findall(r"<td>(.*?)</td>", page)[2] == "–"


def test_plot_has_every_channel_once_on_its_side_of_the_cut() -> None:
    view = layer_view(layer=3, groups=2, d_state=16, kept=6)
    kept, dropped = channel_traces(render(summary(), [view]))
    assert set(points(kept)) == {tuple(index) for index in np.argwhere(view.kept_gn).tolist()}
    assert set(points(dropped)) == {tuple(index) for index in np.argwhere(~view.kept_gn).tolist()}
    assert (kept["x0"], dropped["x0"]) == (1, 13)
    for trace, fate in ((kept, "kept"), (dropped, "dropped")):
        heights = decoded(trace["y"])
        expected = [view.saliency_gn[point] / view.saliency_gn.max() for point in points(trace)]
        assert (np.diff(heights) <= 0).all()
        np.testing.assert_allclose(heights, expected, rtol=1e-6)
        assert trace["hovertemplate"].startswith("layer 3, group %{customdata[0]}, channel %{customdata[1]}: " + fate)


def test_cut_is_marked_where_all_layers_share_it() -> None:
    shared = render(summary(), [layer_view(0), layer_view(1)])
    assert '"x0":6.5,"x1":6.5' in shared
    assert '"x1":' not in render(summary(), [layer_view(0, kept=6), layer_view(1, kept=8)]).replace(get_plotlyjs(), "")


def test_dead_channels_are_drawn_as_crosses_and_named() -> None:
    view = layer_view(layer=1)
    dropped = np.flatnonzero(~view.kept_gn[0])
    view.saliency_gn[0, dropped[:2]] = 0
    view.saliency_gn[0, dropped[2]] = 1e-9
    page = render(summary(), [layer_view(0), view])
    crosses = [trace for trace in channel_traces(page) if trace["marker"].get("symbol") == "x-thin"]
    assert len(crosses) == 1
    assert set(points(crosses[0])) == {(0, channel) for channel in dropped[:3].tolist()}
    assert sorted(decoded(crosses[0]["text"]).tolist()) == [0, 0, 1e-9]
    assert (decoded(crosses[0]["y"]) > 0).all()
    assert "3 channels below 0.001% of the largest in the layer, 2 dead" in Page(page).text


def test_no_note_about_dead_channels_where_all_live(page: str) -> None:
    assert "dead" not in Page(page).text


def test_layer_that_is_dead_altogether_still_shows_all_its_channels() -> None:
    view = layer_view()
    view.saliency_gn[:] = 0
    page = render(summary(), [view])
    assert sum(len(points(trace)) for trace in channel_traces(page)) == view.saliency_gn.size


@pytest.mark.parametrize(("count", "groups", "d_state"), [(1, 1, 128), (81, 2, 64), (64, 8, 128)])
def test_any_number_of_layers_stays_below_six_megabytes(count: int, groups: int, d_state: int) -> None:
    views = [layer_view(layer, groups, d_state, d_state // 2) for layer in range(count)]
    page = render(summary(), views)
    assert len(page.encode()) < SIX_MEGABYTES
    assert len(channel_traces(page)) == 2 * count
    assert page.count("<tr>") == count + 1
    assert any("colorbar" in trace.get("marker", {}) for trace in traces(page)) == (count > 1)


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
        (np.array([[1.0, -1.0]]), np.ones((1, 2), dtype=bool)),
    ],
)
def test_layer_view_refuses_what_cannot_be_drawn(saliency_gn: np.ndarray, kept_gn: np.ndarray) -> None:
    with pytest.raises(ValueError, match="layer 4: "):
        LayerView(layer=4, saliency_gn=saliency_gn, kept_gn=kept_gn, energy_dropped=None)


def test_card_front_matter_is_yaml() -> None:
    _, front_matter, body = model_card(summary(model=NASTY)).split("---\n", 2)
    fields = yaml.safe_load(front_matter)
    assert fields["library_name"] == "transformers"
    assert "mamba2" in fields["tags"]
    assert "\n---\n" not in body


def test_card_has_figures_loading_and_limits() -> None:
    card = model_card(summary())
    assert "| Perplexity | 24.31 | 24.80 | +2.00% |" in card
    assert "| State per sequence, bytes | 100,663,296 | 37,748,736 | −62.50% |" in card
    assert "| State size (d_state) | 128 | 48 | −62.50% |" in card
    assert "| Parameters | 1,344,123,904 | 1,312,504,832 | −2.35% |" in card
    assert 'AutoModelForCausalLM.from_pretrained(".")' in card
    assert "may fall more than perplexity" in card


def test_card_says_that_soft_pruning_shrinks_nothing() -> None:
    same = {"dense": 128, "pruned": 128}
    card = model_card(summary(soft=True, d_state=same))
    assert "set to zero; no tensor changed its shape" in card
    assert "| State size (d_state) | 128 | 128 | unchanged |" in card


def test_card_keeps_a_hostile_name_inside_code() -> None:
    card = model_card(summary(model=NASTY))
    shown = '``<script>alert("1")</script> & `a|b` # not a heading``'
    in_table = shown.replace("|", r"\|")
    assert card.count(shown) == 2
    assert f"| Model | {in_table} |" in card
    assert "<script>" not in card.replace(shown, "").replace(in_table, "")
    assert "\n# not" not in card


def test_ruined_model_keeps_readable_figures() -> None:
    card = model_card(summary(perplexity={"dense": 24.0, "pruned": 3.2e7}))
    assert "| Perplexity | 24.00 | 3.20e+07 | +133,333,233.33% |" in card
