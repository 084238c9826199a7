"""Layers of which everything stays, or goes, in `ghost show` and on the run page; cells that no user made fail."""

from pathlib import Path

import pytest
import torch

from artifacts.errors import MissingArtifact
from flows.summary import print_layers
from ghost.errors import CorpusError
from ghost.saliency import LayerStatistics
from ghost.selection import Selection
from tasks.run.layer_log import table_rows
from tasks.store.show import layer_rows
from tasks.sweep.outcome import failed
from tasks.sweep.settings import RunOptions, make_sweep
from tests.by_hand import small_settings, through_layers


@pytest.mark.parametrize("method", ["wanda", "sparsegpt", "shedder", "ghost"])
def test_show_has_a_row_for_every_layer(method: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = through_layers(small_settings(tmp_path, method=method))
    title, rows = layer_rows(run.run.settings.store, run.keys.run_id)
    assert [row["layer"] for row in rows] == [0, 1]
    blank = {"ghost": set(), "shedder": {"least kept saliency", "most dropped saliency"}}
    some = {name for row in rows for name, value in row.items() if value == "-"} - {"energy dropped"}
    assert some == blank.get(method, {"most dropped saliency"})
    print_layers(title, rows)
    assert run.keys.run_id in capsys.readouterr().out


def test_a_group_without_energy_dropped_none_of_it() -> None:
    statistics = LayerStatistics(norm_b_gn=torch.ones(2, 4), norm_c_gn=torch.ones(2, 4), energy_gn=torch.zeros(2, 4))
    kept = torch.tensor([[True] * 4, [False] * 4])
    rows = table_rows(statistics, Selection(torch.ones(2, 4), kept), 0.0, 0.0)
    assert [row["energy dropped"] for row in rows] == ["0.000%", "0.000%"]
    assert [row["least kept saliency"] for row in rows] == ["1", "-"]
    assert [row["most dropped saliency"] for row in rows] == ["-", "1"]


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (KeyError("x"), "unexpected KeyError: 'x'"),
        (AssertionError(), "unexpected AssertionError"),
        (ZeroDivisionError("division by zero"), "unexpected ZeroDivisionError: division by zero"),
        (CorpusError("a text\nis missing"), "a text is missing"),
        (MissingArtifact("gone; make it again"), "gone; make it again"),
        ("Crashed in a worker", "Crashed in a worker"),
    ],
)
def test_why_a_cell_failed_is_a_sentence(error: object, told: str) -> None:
    cell = make_sweep({}, RunOptions()).cells[0]
    assert failed(cell, error).error == told
