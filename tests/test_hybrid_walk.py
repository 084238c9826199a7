"""The walk through whole hybrids: what each mixer is scored on, and walks and runs that are taken up again."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load
from torch import Tensor
from torch.testing import assert_close

from ghost.checkpoint.source import open_checkpoint
from ghost.evaluation.verify import verify
from ghost.mixer import mixer_inputs
from ghost.saliency import LayerStatistics
from ghost.selection import Selection
from ghost.settings import RunSettings
from ghost.ssd import Energies, recurrence
from ghost.stack import Stack
from ghost.walk import LayerResult, Walk, walk
from tests.by_hand import ByHand, small_settings, through_report
from tests.chaos import contents
from tests.hybrids import PER_FAMILY, make_hybrid
from tests.models import load_stock, mask_stock, open_stack, random_tokens, stock_logits, text

ROWS, LENGTH = 5, 21
TOKENS = random_tokens(ROWS, LENGTH)
SETTINGS = RunSettings.make(round_to=4)
RECOVERED = "granitemoehybrid-rope"
"""Of this one the runs correct what they prune."""


@dataclass(frozen=True)
class Case:
    """A model, and what an undisturbed walk finds in it."""

    stack: Stack
    results: list[LayerResult]

    @property
    def selections(self) -> list[Selection]:
        return [result.selection for result in self.results]


@pytest.fixture(scope="module", params=PER_FAMILY)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = make_hybrid(tmp_path_factory.mktemp("hybrid") / "model", request.param)
    stack = open_stack(folder, batch_tokens=2 * LENGTH)  # batches of 2, 2 and 1 rows
    return Case(stack, list(walk(stack, TOKENS, SETTINGS)))


def energies(statistics: LayerStatistics) -> list[Tensor]:
    found = [statistics.energy_gn, statistics.controllability_gn, statistics.observability_gn]
    return [tensor for tensor in found if tensor is not None]


def reference(case: Case, selections: list[Selection]) -> Iterator[Energies]:
    """Of each mixer where those before it lost what `selections` drop: stock's own inputs, then step by step."""
    source, entering = case.stack.checkpoint, list[Tensor]()
    model = mask_stock(load_stock(source.folder), source, selections)

    def note(mixer: Any, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        entering.append(args[0] if args else named["hidden_states"])

    for path in source.names.mixers.values():
        model.get_submodule(path).register_forward_pre_hook(note, with_kwargs=True)
    stock_logits(model, TOKENS)
    for i, hidden_blm in zip(source.mixers, entering, strict=True):
        _, *inputs = mixer_inputs(source.mixer_layout, source.mixer(i), hidden_blm)
        yield recurrence(*(tensor.double() for tensor in inputs))[1]


@pytest.mark.parametrize("sequential", [True, False])
def test_a_mixer_is_scored_on_what_the_pruned_ones_before_it_leave_or_on_the_dense_model(
    case: Case, sequential: bool
) -> None:
    results = case.results
    if not sequential:
        results = list(walk(case.stack, TOKENS, SETTINGS.model_copy(update={"sequential": False})))
    assert tuple(result.layer for result in results) == case.stack.mixers
    for result, sums in zip(results, reference(case, case.selections if sequential else []), strict=True):
        expected = [sums.energy_gn, sums.controllability_gn, sums.observability_gn]
        assert_close(energies(result.statistics), [sum_gn / TOKENS.numel() for sum_gn in expected], rtol=1e-3, atol=0)


def test_a_walk_continued_after_any_mixer_gives_the_same_bits(case: Case) -> None:
    for done in range(1, len(case.results)):
        steps = Walk(case.stack, TOKENS, SETTINGS)
        for known in case.results[:done]:
            steps.restore(known.layer, known.selection)
        for expected in case.results[done:]:
            statistics = steps.statistics(expected.layer)
            assert all(map(Tensor.equal, energies(statistics), energies(expected.statistics)))
            selection = steps.select(expected.layer, statistics)
            assert selection.kept_gn.equal(expected.selection.kept_gn)
            steps.restore(expected.layer, selection)


def settings_in(folder: Path, model: Path, variant: str) -> RunSettings:
    (folder / "model").symlink_to(model)
    (folder / "text.txt").write_text(text(60))
    return small_settings(folder, recovery="lstsq" if variant == RECOVERED else "none")


@pytest.mark.parametrize("variant", PER_FAMILY)
def test_a_run_that_is_opened_anew_after_each_mixer_ends_in_the_same_bytes(variant: str, tmp_path: Path) -> None:
    model = make_hybrid(tmp_path / "made", variant, foreign=True, max_shard_size="50KB")
    mixers, stores = open_checkpoint(model).mixers, []
    for counts in ([len(mixers)], range(1, len(mixers) + 1)):
        (folder := tmp_path / f"{len(counts)} times").mkdir()
        settings = settings_in(folder, model, variant)
        for count in counts:
            run = ByHand(settings)
            run.prune(count)
            assert run.cached == set(mixers[: count - 1] if len(counts) > 1 else ())
        assert run.export() == "Completed"
        stores.append(contents(folder / "store"))
    assert stores[0] == stores[1]
    weights = load(stores[0][run.pruning.weights(mixers[-1])])
    assert weights["A_log"].equal(run.source.mixer(mixers[-1])["A_log"])


def test_a_whole_run_counts_mixers_and_decoder_layers_and_its_checkpoint_verifies(tmp_path: Path) -> None:
    model = make_hybrid(tmp_path / "made", "nemotron_h", foreign=True)
    run = through_report(settings_in(tmp_path, model, "nemotron_h"))
    run.finish()
    results = run.evaluated.results
    assert (results["layers"], results["decoder_layers"]) == (2, 5) and results["d_state"]["pruned"] == 8
    assert results["layer_kinds"] == {"Mamba2": 2, "MoE": 1, "attention": 1, "MLP": 1}
    assert b"2 of 5 layers have a Mamba2 state" in run.store.record(run.keys.report)
    layout = run.source.mixer_layout
    assert results["state_bytes"] == {"dense": 2 * 4 * layout.state_elements, "pruned": 4 * layout.state_elements}
    found = verify(Path(run.store.locate(run.keys.checkpoint)), run.source, TOKENS[0])
    assert found["difference"] < 1e-5 and found["layers"] == 2
