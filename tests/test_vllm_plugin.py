"""plugins/vllm without vLLM: its projections are the model's, shared out by groups, under the names that ghost writes.

The model class itself runs in `python -m bench.runtimes vllm`, against transformers.
"""

import json
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Mamba2Config

from ghost.modeling import MODEL_TYPE, GhostMamba2ForCausalLM
from tests.projected import N, R, projected_model

PLUGIN = Path(__file__).parents[1] / "plugins" / "vllm"


@pytest.fixture(scope="module")
def plugin() -> Iterator[Any]:
    """The package that the entry point names, imported from the checkout."""
    (named,) = tomllib.loads((PLUGIN / "pyproject.toml").read_text())["project"]["entry-points"][
        "vllm.general_plugins"
    ].items()
    sys.path.insert(0, str(PLUGIN))
    try:
        point = EntryPoint(*named, group="vllm.general_plugins")
        assert callable(point.load())
        import ghost_mamba2_vllm.config  # pyright: ignore[reportMissingImports]
        import ghost_mamba2_vllm.projection  # pyright: ignore[reportMissingImports]

        yield ghost_mamba2_vllm
    finally:
        sys.path.remove(str(PLUGIN))


@torch.inference_mode()
@pytest.mark.parametrize("n_groups", [1, 2])
def test_projections_are_those_of_the_model(plugin: Any, n_groups: int) -> None:
    mixer = projected_model(n_groups).backbone.layers[0].mixer
    stacked_tw = torch.randn(7, n_groups * N, generator=torch.Generator().manual_seed(0))
    found_tw = plugin.projection.project(stacked_tw, mixer.C_proj)
    expected_blgr = mixer._project(stacked_tw[None], mixer.C_proj)
    torch.testing.assert_close(found_tw, expected_blgr[0].flatten(-2), rtol=0, atol=1e-6)
    assert found_tw.is_contiguous(), "vLLM takes views of it"


def test_processes_have_their_groups_and_a_single_group_all_of_it(plugin: Any) -> None:
    whole_grn, share = torch.arange(4.0).expand(R, N, 4).permute(2, 0, 1), plugin.projection.share
    shares = [share(whole_grn, 2, rank) for rank in range(2)]
    assert torch.equal(torch.cat(shares), whole_grn)
    for rank in range(2):
        assert torch.equal(share(whole_grn[2:3], 1, rank), whole_grn[2:3])
    # B and C of a process's groups, by its share, are its part of all of them
    stacked_tw = torch.randn(3, 4 * N)
    parts = [plugin.projection.project(part, own) for part, own in zip(stacked_tw.chunk(2, -1), shares, strict=True)]
    torch.testing.assert_close(torch.cat(parts, -1), plugin.projection.project(stacked_tw, whole_grn))


def test_it_reads_the_config_that_ghost_writes(plugin: Any, tmp_path: Path) -> None:
    model = projected_model()
    model.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["architectures"] == [plugin.ARCHITECTURE] == [GhostMamba2ForCausalLM.__name__]
    assert written["model_type"] == plugin.MODEL_TYPE == plugin.config.GhostMamba2Config.model_type == MODEL_TYPE
    read = plugin.config.GhostMamba2Config.from_pretrained(tmp_path)
    assert isinstance(read, Mamba2Config) and (read.state_size, read.projected_from) == (R, N)
