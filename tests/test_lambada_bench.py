"""LAMBADA in the proof: which passages a model has learned from, what is measured of them, and the table."""

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from bench.lambada import LEARNED, NEW, measure, split, write
from bench.proof_tables import tables
from bench.train_text import HELD_OUT
from ghost.calibration.corpus import read_text
from tests.models import make_model, open_stack, text

PASSAGES = [f"{text(20, seed=i)} {i} ends here" for i in range(50)]


@pytest.fixture(scope="module")
def lambada(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lambada") / "passages.jsonl"
    path.write_text("".join(json.dumps({"text": passage}) + "\n" for passage in PASSAGES))
    return path


def test_passages_are_parted_where_training_cut_the_text(lambada: Path) -> None:
    whole, parts = read_text(str(lambada), "calibration"), split(lambada)
    cut = len(whole) - len(whole) // HELD_OUT
    learned, held_out = whole[:cut], whole[cut:]
    assert parts[NEW] == [passage for passage in PASSAGES if passage in held_out]
    assert len(parts[LEARNED]) == len(parts[NEW]) > 0
    assert all(passage in learned for passage in parts[LEARNED])


def test_both_parts_are_measured_each_for_itself(lambada: Path, tmp_path: Path) -> None:
    stack = open_stack(make_model(tmp_path / "model", layers=1))
    figures = measure(stack, write(lambada, tmp_path))
    for part, passages in split(lambada).items():
        said = figures[f"{part}: said"]
        assert len(said) == len(passages) and sum(said) / len(said) == figures[f"{part}: accuracy"]
        assert figures[f"{part}: perplexity"] > 1


def cell(learned: list[float], new: list[float]) -> dict[str, Any]:
    figures: dict[str, Any] = {"nll": 3.0, "ssm_bytes": 1024, "conv_bytes": 0}
    for part, said in ((LEARNED, learned), (NEW, new)):
        figures |= {f"{part}: said": said, f"{part}: accuracy": sum(said) / len(said), f"{part}: perplexity": 12.5}
    return figures


def test_the_table_tells_noise_from_losses_by_part(capsys: pytest.CaptureFixture[str]) -> None:
    dense = cell([1.0] * 40, [1.0, 0.0] * 20)
    pruned = cell([1.0, 0.0] * 20, [0.0, 1.0] + [1.0, 0.0] * 19)
    found = {"prose": {"dense": {"128": dense}, "ghost": {"16": pruned}}}
    for table in tables(found):
        Console(width=120).print(table)
    lines = capsys.readouterr().out.splitlines()
    learned, new = (next(line for line in lines if line.startswith(f"│ {part} (40)")) for part in (LEARNED, NEW))
    assert "100.0%" in learned and "50.0% (-50.0% ± 8.0%)" in learned
    assert "50.0% (+0.0% ± 3.6%, noise)" in new
