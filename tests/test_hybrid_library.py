"""Whole hybrids in memory: ghost.prune of a module and of its folder, and what becomes of both on disk."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoModelForCausalLM

import ghost
from ghost.checkpoint.families import family_of
from ghost.checkpoint.source import Checkpoint, open_checkpoint
from ghost.evaluation.verify import verify
from ghost.mixer import RECURRENT
from ghost.selection import Selection
from tests.hybrids import (
    FOREIGN,
    MTP,
    PER_FAMILY,
    make_hybrid,
    mix_dtypes,
    read_shards,
    read_tensors,
    recut,
    write_shards,
)
from tests.models import prune, random_tokens, stock_logits

TOKENS = random_tokens(3, 21, seed=3)
CALIBRATION = random_tokens(4, 24, seed=7)
"""As `tests.models.prune` has it."""
TEXT = random_tokens(1, 140, seed=9)[0]


@dataclass(frozen=True)
class Case:
    """A model folder, the module that stock makes of it, and what it is pruned to: in a folder, and in memory."""

    source: Checkpoint
    live: Any
    exported: Path
    selections: list[Selection]
    from_folder: ghost.Pruned
    from_live: ghost.Pruned

    @property
    def both(self) -> tuple[ghost.Pruned, ghost.Pruned]:
        return self.from_folder, self.from_live


@pytest.fixture(scope="module", params=PER_FAMILY)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    made = tmp_path_factory.mktemp("hybrid")
    folder = make_hybrid(made / "model", request.param, foreign=True, dtype=torch.bfloat16)
    recut(folder, 2)
    source, live = open_checkpoint(folder), load(folder)
    selections = prune(source, made / "out")
    return Case(source, live, made / "out", selections, prune_in_memory(folder), prune_in_memory(live))


def load(folder: Path) -> Any:
    """As anyone loads it: in the dtype that its config names."""
    return AutoModelForCausalLM.from_pretrained(folder).eval()


def prune_in_memory(model: Any) -> ghost.Pruned:
    return ghost.prune(model, calibration=CALIBRATION, round_to=4)


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return found.keys() == expected.keys() and all(
        tensor.dtype == expected[name].dtype and tensor.equal(expected[name]) for name, tensor in found.items()
    )


def test_module_and_folder_are_pruned_to_the_model_that_is_exported(case: Case) -> None:
    stock = load(case.exported)
    expected_blv = stock_logits(stock, TOKENS)
    for pruned in case.both:
        for result, selection in zip(pruned.layers, case.selections, strict=True):
            assert result.selection.kept_gn.equal(selection.kept_gn)
        assert type(pruned.model) is type(stock) and not pruned.model.training
        assert same(pruned.model.state_dict(), stock.state_dict())
        assert stock_logits(pruned.model, TOKENS).equal(expected_blv)
        place = {"_name_or_path": str(case.source.folder)}
        assert pruned.model.config.to_dict() == stock.config.to_dict() | place
        assert pruned.model.name_or_path == case.live.name_or_path


def test_the_module_stays_as_it_is_and_shares_nothing(case: Case) -> None:
    assert same(case.live.state_dict(), load(case.source.folder).state_dict())
    storages = [
        {tensor.untyped_storage().data_ptr() for tensor in model.state_dict().values()}
        for model in (case.live, *(pruned.model for pruned in case.both))
    ]
    assert sum(map(len, storages)) == len(set().union(*storages))


def test_what_is_saved_is_named_as_on_the_hub_and_loads_as_it_was(case: Case, tmp_path: Path) -> None:
    """Without the strangers, which a model in memory does not have."""
    own = {name: tensor for name, tensor in read_tensors(case.exported).items() if name not in (*FOREIGN, *MTP)}
    for name, pruned in zip(("folder", "live"), case.both, strict=True):
        saved = pruned.save(tmp_path / name)
        assert same(read_tensors(saved), own)
        found: Any = AutoModelForCausalLM.from_pretrained(saved, output_loading_info=True)
        assert not any(found[1].values())
        assert stock_logits(found[0].eval(), TOKENS).equal(stock_logits(pruned.model, TOKENS))
        assert open_checkpoint(saved).mixer_layout == open_checkpoint(case.exported).mixer_layout
    assert verify(tmp_path / "folder", case.source, TOKENS[0])["difference"] < 1e-5


def test_it_says_what_it_is_and_what_became_of_each_channel(case: Case) -> None:
    mixers, layout = case.source.mixers, case.source.mixer_layout
    for pruned in case.both:
        assert repr(pruned) == f"Pruned(ghost at sparsity 0.5, {len(mixers)} layers, d_state 16 -> 8)"
        table = pruned.table().to_pydict()
        assert sorted(set(table["layer"])) == list(mixers)
        assert sum(table["kept"]) == len(mixers) * layout.n_groups * 8
        kept = pruned.provenance["kept_channels"]
        assert [i for i, groups in enumerate(kept) if groups is not None] == list(mixers)
        assert len(kept) == case.source.layers


def test_perplexity_is_stocks_in_memory_and_from_a_folder(case: Case) -> None:
    dense, live = ghost.perplexity(case.source.folder, TEXT, window=64), ghost.perplexity(case.live, TEXT, window=64)
    assert dense == live and dense.tokens == len(TEXT) - 1
    pruned = ghost.perplexity(case.exported, TEXT, window=64)
    assert all(ghost.perplexity(p.model, TEXT, window=64) == pruned for p in case.both) and pruned != dense
    assert pruned.nll == pytest.approx(stock_nll(load(case.exported).float()), rel=1e-5)


def stock_nll(model: Any) -> float:
    """Over windows of 64, each token predicted once."""
    windows = [TEXT[start : start + 65] for start in range(0, len(TEXT) - 1, 64)]
    rows = [(stock_logits(model, tokens[None, :-1])[0], tokens[1:].long()) for tokens in windows]
    return sum(float(F.cross_entropy(*row, reduction="sum")) for row in rows) / (len(TEXT) - 1)


@pytest.mark.parametrize("variant", PER_FAMILY)
def test_of_files_in_several_dtypes_a_model_is_made_that_computes(variant: str, tmp_path: Path) -> None:
    """In the dtype that stock loads them in: two of them in one model would not go together."""
    folder = make_hybrid(tmp_path / "model", variant, foreign=True)
    mix_dtypes(folder)
    source = open_checkpoint(folder)
    prune(source, tmp_path / "out")
    pruned, expected_blv = prune_in_memory(folder), stock_logits(load(tmp_path / "out"), TOKENS)
    assert stock_logits(pruned.model, TOKENS).equal(expected_blv)
    assert stock_logits(load(pruned.save(tmp_path / "saved")), TOKENS).equal(expected_blv)


@pytest.mark.parametrize("variant", PER_FAMILY)
def test_what_the_recurrence_reads_keeps_the_precision_of_the_file(variant: str, tmp_path: Path) -> None:
    folder = make_hybrid(tmp_path / "model", variant, dtype=torch.bfloat16)
    (shard,) = read_shards(folder)
    write_shards(folder, [{name: tensor.float() if name.endswith(RECURRENT) else tensor
                           for name, tensor in shard.items()}])  # fmt: skip
    pruned = prune_in_memory(folder)
    dtypes = {name: tensor.dtype for name, tensor in pruned.model.state_dict().items()}
    assert {dtype for name, dtype in dtypes.items() if name.endswith(RECURRENT)} == {torch.float32}
    assert {dtype for name, dtype in dtypes.items() if name.endswith("proj.weight")} == {torch.bfloat16}
    assert stock_logits(pruned.model, TOKENS).isfinite().all()
    size = family_of(pruned.model.config).state_size_field
    assert getattr(load(pruned.save(tmp_path / "saved")).config, size) == 8


def test_files_of_one_dtype_keep_it_whatever_the_config_says(tmp_path: Path) -> None:
    folder = make_hybrid(tmp_path / "model", "bamba")
    config = (folder / "config.json").read_text()
    assert '"dtype": "float32"' in config
    (folder / "config.json").write_text(config.replace('"dtype": "float32"', '"dtype": "bfloat16"'))
    pruned = prune_in_memory(folder)
    assert {tensor.dtype for tensor in pruned.model.state_dict().values()} == {torch.float32}
    assert {tensor.dtype for tensor in read_tensors(pruned.save(tmp_path / "saved")).values()} == {torch.float32}
