"""Forms: a made-up fifth goes all the way with no file but this one knowing it; what each admits and is called."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import ghost
from ghost.checkpoint.source import Checkpoint, open_checkpoint
from ghost.errors import SettingsError, VerificationError
from ghost.evaluation.verify import STORED, verify
from ghost.forms import Dense, Form, Projected, Silenced, Sliced, Thinned, Words, Zeroed
from ghost.mixer import MixerLayout, Weights
from ghost.report import model_card, render
from ghost.report.verdict import verdict
from ghost.saliency import METHODS, Method, check_pruning, find_method, form_of, methods_in_words
from ghost.saliency.energy import ghost as by_energy
from ghost.selection import Channels, Projection, Selection
from ghost.settings import RunSettings
from ghost.surgery import project_mixer, slice_mixer
from ghost.walk import Walk, walk
from tests.by_hand import small_settings, through_report
from tests.chaos import contents
from tests.models import load_stock, make_model, open_stack, random_tokens, stock_logits
from tests.report_samples import layer_view, summary

TOKENS, KEPT = random_tokens(6, 24), 8
WORDS = Words(
    unit="echo",
    ranked="echo",
    pruning="quiet: what is dropped is read at half its strength",
    described="This is {model}, {titled}; {kept} of {channels} are loud in {layers}, by {by}.",
    went="{pruned} of the state made quiet",
    titled="{pruned} of its state quiet",
    caveat="{method} saves nothing.",
    computes="with the dropped channels read at half their strength",
)


class Quiet(Form):
    """Dropped channels are read at half their strength: C goes through a diagonal, and the state keeps its size."""

    words, changes, carries_code, ranks_channels = WORDS, True, True, False
    admits = frozenset({"recovery"})

    def reduce(self, dense: Dense) -> dict[str, Tensor]:
        return project_mixer(dense.layout, dense.weights, *_diagonals(dense.selection))

    def channels(self, selection: Selection, pruned: Weights | None) -> Channels:
        return Projection(*_diagonals(selection))

    def layout(self, dense: MixerLayout, selections: Any, round_to: int) -> MixerLayout:
        return dense.projected_to(dense.d_state)


class Merged(Form):
    """Channels are cut out, and what is left of B reads louder: weights that no original computes."""

    words, changes = replace(WORDS, unit="channel"), True

    def reduce(self, dense: Dense) -> dict[str, Tensor]:
        layout, sliced = slice_mixer(dense.layout, dense.weights, dense.selection)
        rows, louder = slice(sum(layout.in_proj_sections[:2]), sum(layout.in_proj_sections[:3])), dict(sliced)
        louder["in_proj.weight"] = sliced["in_proj.weight"].clone()
        louder["in_proj.weight"][rows] *= 1.5
        return louder

    def channels(self, selection: Selection, pruned: Weights | None) -> None:
        return None

    def layout(self, dense: MixerLayout, selections: Any, round_to: int) -> MixerLayout:
        return replace(dense, d_state=max(selection.width for selection in selections))


def _diagonals(selection: Selection) -> tuple[Tensor, Tensor]:
    strengths_gn = torch.where(selection.kept_gn, 1.0, 0.5)
    return torch.diag_embed(torch.ones_like(strengths_gn)), torch.diag_embed(strengths_gn)


FIFTH: dict[str, Form] = {"quiet": Quiet(), "merged": Merged()}


@pytest.fixture(params=FIFTH)
def fifth(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    method = Method(request.param, "layer", by_energy, "how loud each channel is", form=FIFTH[request.param])
    monkeypatch.setitem(METHODS, request.param, method)
    return request.param


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder = tmp_path_factory.mktemp("model")
    return open_checkpoint(make_model(folder, layers=3, d_state=2 * KEPT, n_groups=2))


def pruned(source: Checkpoint, method: str, **options: Any) -> ghost.Pruned:
    return ghost.prune(source.folder, method=method, calibration=TOKENS, round_to=4, **options)


def test_a_fifth_form_is_built_exported_loaded_and_verified(source: Checkpoint, fifth: str, tmp_path: Path) -> None:
    result, folder = pruned(source, fifth), tmp_path / "out"
    result.save(folder)
    assert result.model.config.state_size == (2 * KEPT if fifth == "quiet" else KEPT)
    assert stock_logits(load_stock(folder), TOKENS).equal(stock_logits(result.model, TOKENS))
    found = verify(folder, source, TOKENS[0])
    against = {"quiet": f"the original {WORDS.computes}", "merged": STORED}[fifth]
    assert found["difference"] <= 1e-5 and found["against"] == against


def test_the_walk_goes_on_through_what_a_fifth_form_leaves_resumed_as_at_once(source: Checkpoint, fifth: str) -> None:
    stack, settings = open_stack(source.folder), RunSettings.make(method=fifth, round_to=4)
    first, second, _ = walk(stack, TOKENS, settings)
    assert first.changed is not None and second.changed is not None
    left_blm = stack.layer(0, first.changed).advance(stack.enter(TOKENS))
    resumed, stored = Walk(stack, TOKENS, settings), first.changed
    resumed.restore(0, first.selection, lambda: stored)
    reduced = resumed.reduce(1, statistics := resumed.statistics(1), resumed.select(1, statistics))
    assert resumed._path is not None
    assert torch.allclose(resumed._path.stream.hidden_blm, left_blm, rtol=1e-5, atol=1e-6)
    assert all(reduced[name].equal(tensor) for name, tensor in second.changed.items())


def test_a_run_of_a_fifth_form_resumes_in_the_same_bytes_and_is_reported(fifth: str, tmp_path: Path) -> None:
    settings = small_settings(tmp_path, method=fifth)
    run = through_report(settings)
    before, page = contents(tmp_path / "store"), (tmp_path / "store" / run.keys.report).read_text()
    assert WORDS.pruning in page and f"50% of the state made quiet with {fifth}" in page
    (tmp_path / "store" / run.pruning.weights(1)).unlink()
    again = through_report(settings)
    assert again.cached == {0} and contents(tmp_path / "store") == before
    verify(tmp_path / "store" / run.keys.checkpoint, run.source, run.run.evaluation_tokens[:48])


def test_a_fifth_form_that_admits_recovery_is_recovered(source: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "quiet", Method("quiet", "layer", by_energy, "", form=Quiet()))
    for result in pruned(source, "quiet", recovery="lstsq").layers:
        assert result.recovered is not None and "C_proj" in result.recovered.mixer


def test_report_and_card_speak_of_a_fifth_form_in_its_own_words(fifth: str) -> None:
    found = summary(method=fifth)
    assert f"`demo`, 62.5% of its state quiet; 144 of 384 are loud in 3 Mamba2 layers, by `{fifth}`, how loud" in (
        card := model_card(found)
    )
    assert ("trust_remote_code=True" in card) == FIFTH[fifth].carries_code
    assert "The echos were chosen on the calibration text" in card
    assert verdict(found)[0] == f"{fifth} saves nothing."
    assert f"Kept {FIFTH[fifth].words.unit}s" in render(found, [layer_view()])


@pytest.mark.parametrize(
    ("said", "found"), [("balanced", "not projected"), ("ghost", "projected")], ids=["no projection", "a projection"]
)
def test_a_record_of_another_form_than_the_weights_is_refused(
    source: Checkpoint, tmp_path: Path, said: str, found: str
) -> None:
    other = {"balanced": "ghost", "ghost": "balanced"}[said]
    folder = pruned(source, other).save(tmp_path / "out")
    record = (folder / "ghost.json").read_text()
    (folder / "ghost.json").write_text(record.replace(f'"method": "{other}"', f'"method": "{said}"'))
    with pytest.raises(VerificationError, match=f"B and C are {found}, and its method does otherwise"):
        verify(folder, source, TOKENS[0])


FORMS: dict[str, tuple[type[Form], type[Form]]] = {
    "ghost": (Sliced, Zeroed), "magnitude": (Sliced, Zeroed), "shedder": (Silenced, Silenced),
    "balanced": (Projected, Projected), "wanda": (Thinned, Thinned), "sparsegpt": (Thinned, Thinned),
}  # fmt: skip


@pytest.mark.parametrize("method", FORMS)
def test_the_form_of_a_run_follows_from_its_method_and_soft(method: str) -> None:
    assert (type(form_of(method, soft=False)), type(form_of(method, soft=True))) == FORMS[method]


@dataclass(frozen=True)
class Asked:
    """Settings by names and values alone."""

    method: str
    soft: bool = False
    policy: str = "balanced"
    energy: float | None = None
    recovery: str = "none"


OTHER: dict[str, Any] = {"soft": True, "policy": "pooled", "energy": 0.9, "recovery": "lstsq"}
REFUSED = {
    "ghost": {"energy"}, "shedder": {"soft", "policy", "energy"}, "balanced": {"soft", "policy"}, "wanda": set(OTHER),
}  # fmt: skip


@pytest.mark.parametrize("setting", OTHER)
@pytest.mark.parametrize("method", REFUSED)
def test_settings_that_mean_nothing_to_a_form_are_refused_without_a_model(method: str, setting: str) -> None:
    """In one line that names setting, method and remedy."""
    check_pruning(Asked(method))
    asked = Asked(method, **{setting: OTHER[setting]})
    if setting in REFUSED[method]:
        with pytest.raises(SettingsError, match=f"^{setting}: {method} .*; (give|leave) --[^\n]*$"):
            check_pruning(asked)
    else:
        check_pruning(asked)


def test_a_method_that_is_not_there_is_refused_without_a_model() -> None:
    with pytest.raises(SettingsError, match=r"^method 'best' is unknown; choose one of ghost, "):
        check_pruning(Asked("best"))


def test_methods_are_named_by_what_they_rank_and_each_has_its_words(fifth: str) -> None:
    listed = methods_in_words()
    assert listed.startswith("channels by ghost, ghost-mean, ") and "; directions by balanced; " in listed
    assert listed.endswith(f"; echos by {fifth}")
    assert all(method.words and method.name in listed for method in METHODS.values())
    assert find_method("random").seeded and not find_method("magnitude").seeded
