"""The numbers of the demo model are those on record."""

import json

import pytest

from tests.golden import FILE, METHODS, compute


def test_saliency_selection_and_loss_are_those_on_record() -> None:
    recorded, computed = json.loads(FILE.read_text()), compute()
    assert computed["nll"] == pytest.approx(recorded["nll"], rel=1e-6)
    for method in METHODS:
        for found, expected in zip(computed["layers"][method], recorded["layers"][method], strict=True):
            assert found["saliency"] == pytest.approx(expected["saliency"], rel=1e-4)
            assert found["kept"] == expected["kept"]
