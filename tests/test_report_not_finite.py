"""Perplexities that came out infinite or as no number, None in what a report is made of; and warnings."""

import math
from typing import Any

import pytest

from ghost.report import ComparedRun, model_card, render, render_comparison
from ghost.report.figures import change, rise
from ghost.report.sweep_page import render_sweep
from ghost.report.verdict import headline, verdict
from tests.report_samples import ABOUT, NASTY, Page, layer_view, page_data, summary, table_rows
from tests.sweeps import row

NEITHER = {"dense": None, "pruned": None}
PAIRS = [{"dense": 20.0, "pruned": None}, {"dense": None, "pruned": 20.0}, NEITHER]


@pytest.mark.parametrize("pair", [*PAIRS, {"dense": 20.0, "pruned": math.inf}, {"dense": math.nan, "pruned": 1.0}])
def test_a_rise_from_or_to_what_is_not_finite_is_none(pair: dict[str, Any]) -> None:
    assert rise(pair) is None and change(pair) == "not finite"


@pytest.mark.parametrize("pair", PAIRS)
def test_page_and_card_say_it_and_are_whole(pair: dict[str, Any]) -> None:
    found = summary(perplexity=pair)
    page, card = Page(render(found, [layer_view()])), model_card(found)
    sides = ["not finite" if value is None else "20.00" for value in pair.values()]
    assert page.open == [] and f"{sides[0]} → {sides[1]} not finite" in page.text
    assert f"| Perplexity | {sides[0]} | {sides[1]} | not finite |" in card
    assert headline(found) == "37.5% of the state, perplexity not finite"
    assert not any(word in page.text + card for word in ("None", "nan", "inf%"))


def test_verdict_blames_the_model_that_fell_apart() -> None:
    assert "Too much was lost" in verdict(summary(perplexity=PAIRS[0]))[0]
    for pair in PAIRS[1:]:
        assert "The dense model's perplexity on this text is not finite" in verdict(summary(perplexity=pair))[0]


def score(dense: float | None, pruned: float | None, **more: Any) -> dict[str, Any]:
    loss = None if dense is None or pruned is None else pruned / dense - 1
    sides = {"value": {"dense": dense, "pruned": pruned}, "stderr": {"dense": None, "pruned": None}, "loss": loss}
    named = {"task": "wikitext", "metric": "word_perplexity", "main": True, "higher_is_better": False, "samples": 62}
    return named | sides | more


def test_a_task_without_a_finite_value_is_worse_and_the_worst() -> None:
    scores = [score(20, 30, task="a"), score(20, None, task="b"), score(None, 20, task="c")]
    found = summary(tasks={"scores": scores, "protocol": "lm-eval", "seed": 3})
    told = "Worse on b (word_perplexity 20 → not finite); a (word_perplexity 20 → 30)."
    assert verdict(found)[-1] == told
    assert table_rows(render(found, [layer_view()]), "Tasks")[1][3:] == ["20", "not finite", "not finite"]
    assert "| `b` | `word_perplexity` | 62 | 20 | not finite |" in model_card(found)


def compared(dense: float | None, pruned: float | None, **changes: Any) -> ComparedRun:
    pair = {"dense": dense, "pruned": pruned}
    return ComparedRun(summary=summary(perplexity=pair, **changes), source="a", kept={0: layer_view().kept_gn})


def test_comparison_puts_it_last_and_leaves_it_out_of_the_plot() -> None:
    page = render_comparison([compared(20.0, None, method="random"), compared(20.0, 21.0)])
    text = Page(page).text
    assert "+5.0% perplexity with ghost 62.5%, the least of 2. Then perplexity not finite with random 62.5%." in text
    assert table_rows(page, "Runs")[0][5:7] == ["not finite", "not finite"]
    drawn = page_data(page)["figures"]["quality"]["data"]
    assert [(trace["name"], trace["y"]) for trace in drawn] == [("random", []), ("ghost", [21.0]), ("dense", [20.0])]


def test_comparison_of_nothing_but_ruins() -> None:
    page = render_comparison([compared(None, None, method="random"), compared(None, None)])
    assert "37.5% of the state: perplexity not finite with any of 2 runs." in Page(page).text
    assert page_data(page)["figures"]["quality"]["data"][-1]["y"] == []


def test_sweep_shows_it_in_the_table_and_leaves_it_out_of_the_plots() -> None:
    ruined = row(method="random", perplexity=None, rise=None)
    page = render_sweep(ABOUT, [ruined, row(), row(sparsity=0.75, perplexity=None, rise=None)], [])
    assert "10.00 → not finite not finite at 50% sparsity" in Page(page).text
    assert ["random", "50%", "192", "64", "not finite", "not finite"] in [
        cells[:6] for cells in table_rows(page, "every cell")
    ]
    drawn = page_data(page)["figures"]["sparsity-0"]["data"]
    assert [(trace["name"], trace["x"]) for trace in drawn] == [("dense", [0.5, 0.75]), ("ghost", [0.5])]


def test_sweep_in_which_nothing_is_finite_has_a_page() -> None:
    rows = [row(perplexity_dense=None, perplexity=None, rise=None, window=window) for window in (64, 128)]
    page = render_sweep(ABOUT, rows, [])
    assert Page(page).open == [] and "not finite → not finite" in Page(page).text
    assert "windows" not in page_data(page)["figures"]


def test_warnings_are_at_the_top_of_the_page_and_of_the_card() -> None:
    told = ["97% of the calibration text is one token, <unk>", "Is it in another language?", NASTY]
    page, card = render(summary(warnings=told), [layer_view()]), model_card(summary(warnings=told))
    text = Page(page).text
    assert "Warnings 97% of the calibration text is one token, <unk>. Is it in another language? <script>" in text
    assert text.index("Warnings") < text.index("37.5% of the state, +2.0%")
    assert card.index(r"> **Warning:** 97% of the calibration text is one token, \<unk\>.") < card.index("## Figures")
    assert "<script>" not in card and "\n# not" not in card


def test_no_box_without_warnings() -> None:
    assert "Warning" not in Page(render(summary(), [layer_view()])).text + model_card(summary())
    assert "Warning" not in Page(render(summary(warnings=[]), [layer_view()])).text
