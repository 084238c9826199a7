"""The walk against a slow reference: stock transformers with the layers before already pruned, and the recurrence."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.testing import assert_close

from ghost.checkpoint.source import Checkpoint
from ghost.checkpoint.tensors import TensorFiles
from ghost.mixer import MixerInputs, MixerLayout, Weights, mixer_inputs
from ghost.saliency import LayerStatistics, row_norms
from ghost.selection import Selection
from ghost.settings import RunSettings
from ghost.ssd import Energies, recurrence
from ghost.stack import Stack
from ghost.walk import LayerResult, Walk, walk
from tests.models import load_stock, make_model, mask_stock, open_stack, random_tokens, stock_logits

LAYERS, ROWS, LENGTH, KEPT = 3, 6, 24, 8
TOKENS = random_tokens(ROWS, LENGTH)


@dataclass(frozen=True)
class Case:
    """A model and the settings to walk it with."""

    folder: Path
    stack: Stack
    settings: RunSettings

    def walk(self, **fields: Any) -> list[LayerResult]:
        return list(walk(self.stack, TOKENS, self.settings.model_copy(update=fields)))


@pytest.fixture(scope="module", params=[(1, "balanced"), (2, "balanced"), (2, "pooled")], ids=str)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    n_groups, policy = request.param
    folder = make_model(tmp_path_factory.mktemp("model"), layers=LAYERS, d_state=2 * KEPT, n_groups=n_groups)
    return Case(folder, open_stack(folder), RunSettings.make(round_to=4, policy=policy))


@pytest.fixture(scope="module")
def results(case: Case) -> list[LayerResult]:
    return case.walk()


@pytest.fixture
def small_batches(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of 4 and 2 rows."""
    monkeypatch.setattr("ghost.budget.BATCH_TOKENS", 4 * LENGTH)
    monkeypatch.setattr(case.stack, "batch_tokens", 4 * LENGTH)


def reference(case: Case, selections: list[Selection]) -> Iterator[Energies]:
    """Energies of each layer where the layers before it lost what `selections` drop; step by step, in float64."""
    source = case.stack.checkpoint
    model, entering = mask_stock(load_stock(case.folder), source, selections), []
    for block in model.backbone.layers:
        block.mixer.register_forward_pre_hook(lambda mixer, args: entering.append(args[0]))
    stock_logits(model, TOKENS)
    for i, hidden_blm in enumerate(entering):
        _, *inputs = mixer_inputs(source.mixer_layout, source.mixer(i), hidden_blm)
        yield recurrence(*(tensor.double() for tensor in inputs))[1]


def energies_of(statistics: LayerStatistics) -> list[Tensor]:
    found = [statistics.energy_gn, statistics.controllability_gn, statistics.observability_gn]
    return [tensor for tensor in found if tensor is not None]


def assert_equal_energies(statistics: LayerStatistics, sums: Energies) -> None:
    assert statistics.tokens == sums.tokens == ROWS * LENGTH
    means = [sums.energy_gn, sums.controllability_gn, sums.observability_gn]
    assert_close(energies_of(statistics), [sum_gn / sums.tokens for sum_gn in means], rtol=1e-4, atol=0)


def same_bits(a: LayerStatistics, b: LayerStatistics) -> bool:
    return all(x.equal(y) for x, y in zip(energies_of(a), energies_of(b), strict=True))


def test_each_layer_is_scored_on_what_the_pruned_layers_before_it_leave(case: Case, results: list[LayerResult]):
    assert [result.layer for result in results] == list(range(LAYERS))
    expected = reference(case, [result.selection for result in results])
    for result, sums in zip(results, expected, strict=True):
        assert_equal_energies(result.statistics, sums)


def test_one_shot_scores_every_layer_on_the_dense_model(case: Case):
    for result, sums in zip(case.walk(sequential=False), reference(case, []), strict=True):
        assert_equal_energies(result.statistics, sums)


def test_pruning_the_layers_before_changes_what_a_layer_is_scored_on(case: Case, results: list[LayerResult]):
    first, *later = zip(results, case.walk(sequential=False), strict=True)
    assert same_bits(first[0].statistics, first[1].statistics)
    for sequential, one_shot in later:
        changes = [
            (a / b - 1).abs().max()
            for a, b in zip(energies_of(sequential.statistics), energies_of(one_shot.statistics), strict=True)
        ]
        assert min(changes) > 0.01


def test_every_layer_keeps_its_best_channels_within_the_budget(case: Case, results: list[LayerResult]):
    pooled = case.settings.policy == "pooled"
    for result in results:
        energy_gn, kept_gn = result.statistics.energy_gn, result.selection.kept_gn
        assert energy_gn is not None
        for energy, kept in [(energy_gn, kept_gn)] if pooled else zip(energy_gn, kept_gn, strict=True):
            assert 2 * kept.sum() == kept.numel()
            assert energy[kept].min() > energy[~kept].max()
    assert any(not result.selection.is_rectangular for result in results) == pooled


def test_norms_beside_the_energies_are_those_of_the_weights(case: Case, results: list[LayerResult]):
    source = case.stack.checkpoint
    for result in results:
        norms = row_norms(source.mixer_layout, source.mixer(result.layer))
        assert result.statistics.norm_b_gn.equal(norms.norm_b_gn) and result.statistics.norm_c_gn.equal(norms.norm_c_gn)


@pytest.mark.parametrize("sequential", [True, False])
def test_a_walk_continued_after_any_layer_gives_the_same_bits(case: Case, sequential: bool, small_batches: None):
    uninterrupted = case.walk(sequential=sequential)
    for done in range(1, LAYERS):
        steps = Walk(case.stack, TOKENS, case.settings.model_copy(update={"sequential": sequential}))
        for known in uninterrupted[:done]:
            steps.restore(known.layer, Selection(known.selection.saliency_gn.clone(), known.selection.kept_gn.clone()))
        for expected in uninterrupted[done:]:
            statistics = steps.statistics(expected.layer)
            assert same_bits(statistics, expected.statistics)
            assert same_bits(statistics, steps.statistics(expected.layer))
            steps.restore(expected.layer, steps.select(expected.layer, statistics))


def test_batches_do_not_change_what_is_kept(case: Case, results: list[LayerResult], small_batches: None):
    for in_batches, at_once in zip(case.walk(), results, strict=True):
        assert in_batches.selection.kept_gn.equal(at_once.selection.kept_gn)
        assert_close(energies_of(in_batches.statistics), energies_of(at_once.statistics), rtol=1e-5, atol=0)


def test_bf16_computes_about_the_same_statistics(case: Case):
    in_bf16 = Stack(case.stack.checkpoint, case.stack.device, torch.bfloat16)
    settings = case.settings.model_copy(update={"sequential": False})
    for result, exact in zip(walk(in_bf16, TOKENS, settings), case.walk(sequential=False), strict=True):
        for found_gn, exact_gn in zip(energies_of(result.statistics), energies_of(exact.statistics), strict=True):
            assert found_gn.dtype == torch.float64
            assert 0 < (found_gn / exact_gn - 1).abs().max() < 0.1


@dataclass(frozen=True)
class Watched(TensorFiles):
    """Notes every tensor that is read; when one of a layer is, nothing of another layer may be in memory still."""

    reads: list[str] = field(default_factory=list)
    held: list[tuple[str, StorageWeakRef]] = field(default_factory=list)

    def load(self, names: Iterable[str]) -> dict[str, Tensor]:
        loaded = super().load(names)
        self.reads.extend(loaded)
        for name, tensor in loaded.items():
            if name.startswith("backbone.layers."):
                layer = name.split(".")[2]
                assert all(storage.expired() for other, storage in self.held if other != layer)
                self.held.append((layer, StorageWeakRef(tensor.untyped_storage())))
        return loaded


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows go through in_proj and conv1d, each time that they run."""
    counted: list[int] = []

    def counting(layout: MixerLayout, weights: Weights, hidden_blm: Tensor) -> MixerInputs:
        counted.append(len(hidden_blm))
        return mixer_inputs(layout, weights, hidden_blm)

    monkeypatch.setattr("ghost.decoder_layer.mixer_inputs", counting)
    return counted


def watched(source: Checkpoint) -> tuple[Stack, Watched]:
    files = source.tensors
    tensors = Watched(files.files, files.home, files.shapes, files.dtypes)
    return Stack(replace(source, tensors=tensors), torch.device("cpu"), torch.float32), tensors


@pytest.mark.parametrize("sequential", [True, False])
def test_a_walk_reads_and_computes_each_layer_once_and_holds_one(
    case: Case, sequential: bool, small_batches: None, rows: list[int]
):
    stack, files = watched(case.stack.checkpoint)
    for result in walk(stack, TOKENS, case.settings.model_copy(update={"sequential": sequential})):
        assert rows == [4, 2] * (result.layer + 1)
    layers = {name for name in files.home if name.startswith("backbone.layers.")}
    assert Counter(files.reads) == Counter(layers | {"backbone.embeddings.weight"})


def test_of_the_embedding_table_only_the_rows_that_are_read_are_converted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A table of 128,000 words in fp32 would be the largest thing that a walk ever holds."""
    lookup, looked_up = F.embedding, list[Tensor]()

    def noted(ids: Tensor, table_vm: Tensor, *rest: Any) -> Tensor:
        looked_up.append(table_vm)
        return lookup(ids, table_vm, *rest)

    stack = open_stack(make_model(tmp_path, layers=1, dtype=torch.bfloat16))
    monkeypatch.setattr(F, "embedding", noted)
    assert stack.enter(TOKENS).hidden_blm.dtype == torch.float32
    assert {table_vm.dtype for table_vm in looked_up} == {torch.bfloat16}


@pytest.mark.parametrize("method", ["magnitude", "random"])
def test_a_method_that_looks_at_weights_reads_the_mixers_alone(case: Case, method: str, rows: list[int]):
    stack, files = watched(case.stack.checkpoint)
    for result in walk(stack, TOKENS, case.settings.model_copy(update={"method": method})):
        assert not energies_of(result.statistics)
    assert Counter(files.reads) == Counter(name for name in files.home if ".mixer." in name)
    assert not rows
