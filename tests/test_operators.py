"""What a GPU is asked for: operators of a layer's forward and energies."""

import pytest

from bench.operators import TOKENS, counted, layout
from bench.random_checkpoint import REAL

BOUND = 250


@pytest.mark.parametrize("shape", REAL)
@pytest.mark.parametrize("size", TOKENS.values(), ids=TOKENS)
def test_a_layer_and_its_energies_are_few_operators(shape: str, size: tuple[int, int]):
    counts = counted(layout(shape), *size)
    assert 0 < counts["forward"] < counts["both"] <= BOUND


def test_every_operator_of_every_chunk_is_counted():
    """Twice the chunks in one window take twice the scan, and nothing else: two operators for each chunk."""
    short, long = (counted(layout("130m"), 1, length)["both"] for length in (1024, 2048))
    assert long - short == 2 * (2048 - 1024) // 64
