"""The page's scripts and what they read: packed figures, rankings, sorting, in Python and in node."""

import dataclasses

import numpy as np
import pytest

from ghost.report import LayerView, proxy_gap
from ghost.report.channels import pack, whole_gap
from tests.report_samples import layer_view, script, unpacked, unpacked_bits


def views(groups: int = 2) -> list[LayerView]:
    return [layer_view(layer, groups) for layer in range(3)]


def test_packed_figures_are_right_to_three_digits_and_zero_stays_zero() -> None:
    given = views()
    given[1].saliency_gn[0, :2] = (0, 1e-30)
    packed = pack(given)
    assert set(packed["columns"]) == {"saliency", "energy", "controllability", "observability", "norm_b", "norm_c"}
    for name, column in packed["columns"].items():
        true = np.concatenate([v.saliency_gn if name == "saliency" else v.measured[name] for v in given]).ravel()
        np.testing.assert_allclose(unpacked(column), true, rtol=1e-3)
        assert ((unpacked(column) == 0) == (true == 0)).all()


def test_node_reads_the_figures_that_python_packed() -> None:
    packed = pack(views())
    for column in packed["columns"].values():
        read = script("unpack.js", "Array.from(unpack(given[0]))", column)
        np.testing.assert_allclose(read, unpacked(column), rtol=1e-12)
    kept = np.concatenate([view.kept_gn for view in views()]).ravel()
    assert script("unpack.js", "Array.from(unpackBits(given[0]))", packed["bits"]["kept"]) == kept.astype(int).tolist()


def test_figures_that_are_all_alike_are_packed() -> None:
    view = dataclasses.replace(layer_view(energy=None), saliency_gn=np.full((1, 16), 3.0))
    np.testing.assert_allclose(unpacked(pack([view])["columns"]["saliency"]), 3.0)


def test_bits_are_the_choices_of_norms_energy_and_run() -> None:
    given, bits = views(), pack(views())["bits"]
    kept, by_norm, by_energy = (unpacked_bits(bits[name]).reshape(6, 16) for name in ("kept", "by_norm", "by_energy"))
    assert (kept == by_energy).all()  # the samples' energy is the square of their saliency
    norms = np.concatenate([view.measured["norm_b"] * view.measured["norm_c"] for view in given])
    for row, norm_n in zip(by_norm, norms, strict=True):
        assert row.sum() == 6 and norm_n[row == 1].min() > norm_n[row == 0].max()
    found = whole_gap(given)
    assert found and found.phantom == (by_norm & ~by_energy & 1).mean()


def test_without_energies_there_is_no_gap() -> None:
    given = [layer_view(energy=None)]
    assert whole_gap(given) is None
    assert set(pack(given)["bits"]) == {"kept"}


def test_layers_of_different_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="layers of one model"):
        pack([layer_view(groups=1), layer_view(groups=2)])


def test_kept_channels_rank_before_dropped_ones() -> None:
    kept, saliency = [0, 1, 0, 1, 0], [9.0, 1.0, 9.0, 2.0, 3.0]
    assert script("unpack.js", "ranking(0, 5, ...given)", kept, saliency) == [3, 1, 0, 2, 4]
    assert script("unpack.js", "ranking(2, 5, ...given)", kept, saliency) == [3, 2, 4]


@pytest.mark.parametrize(("descending", "names"), [(False, ["b", "c", "a", "blank"]), (True, ["a", "c", "b", "blank"])])
def test_rows_sort_by_value_and_blanks_stay_last(descending: bool, names: list[str]) -> None:
    rows = [
        {"name": "a", "value": 10, "text": "10%"},
        {"name": "blank", "value": None, "text": "–"},
        {"name": "b", "value": -2, "text": "−2%"},
        {"name": "c", "value": 9, "text": "9%"},
    ]
    assert script("tables.js", "ordered(...given).map(row => row.name)", rows, descending) == names


@pytest.mark.parametrize("descending", [False, True])
def test_figures_that_are_not_finite_stay_last_among_figures(descending: bool) -> None:
    values = [None, 30, None, 4, 200]
    rows = [{"value": value, "text": "not finite" if value is None else str(value)} for value in values]
    found = script("tables.js", "ordered(...given).map(row => row.value)", rows, descending)
    assert found == [*sorted((value for value in values if value), reverse=descending), None, None]


def test_texts_sort_with_their_numbers() -> None:
    rows = [{"value": None, "text": text} for text in ("run 10", "run 9", "Run 1")]
    assert script("tables.js", "ordered(given[0], false).map(row => row.text)", rows) == ["Run 1", "run 9", "run 10"]


def test_gap_by_hand() -> None:
    norm_gn, energy_gn = np.array([[4.0, 3, 2, 1], [1, 2, 3, 4]]), np.array([[1.0, 2, 3, 4], [1, 2, 3, 4]])
    gap = proxy_gap(norm_gn, energy_gn, 1)
    assert (gap.phantom, gap.corporeal, gap.disagreement) == (1 / 8, 1 / 8, 1 / 4)
    assert gap.pearson == pytest.approx(0.0)
    assert proxy_gap(-norm_gn, norm_gn, 2).pearson == pytest.approx(-1)
    assert proxy_gap(norm_gn, energy_gn, 4).disagreement == 0


def test_one_row_ranks_the_whole_model_at_once() -> None:
    norm_gn, energy_gn = np.array([[4.0, 3], [2, 1]]), np.array([[4.0, 1], [3, 2]])
    assert proxy_gap(norm_gn, energy_gn, 1).phantom == 0
    assert proxy_gap(norm_gn.reshape(1, -1), energy_gn.reshape(1, -1), 2).phantom == 1 / 4


def test_correlation_with_a_constant_is_not_defined() -> None:
    assert proxy_gap(np.ones((1, 4)), np.arange(4.0).reshape(1, 4), 2).pearson is None


@pytest.mark.parametrize(("shape", "kept"), [((1, 3), 2), ((1, 4), 0), ((1, 4), 5)])
def test_gap_refuses_what_does_not_fit(shape: tuple[int, int], kept: int) -> None:
    with pytest.raises(ValueError, match="give two tables"):
        proxy_gap(np.ones((1, 4)), np.ones(shape), kept)
