"""What `ghost.prune` returns: the smaller model, what was found out about each layer, and how to keep both."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import torch
from torch import Tensor

from ghost.checkpoint.companions import CONFIG, PROVENANCE
from ghost.checkpoint.families import family_of
from ghost.checkpoint.fields import with_infinity
from ghost.checkpoint.files import is_taken, read_config
from ghost.checkpoint.writer import write_json
from ghost.errors import SettingsError
from ghost.walk import LayerResult

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SHARD = "5GB"
PER_CHANNEL = "_gn"
"""Ends the names of tensors that hold one value per group and channel."""


@dataclass(frozen=True, eq=False, repr=False)
class Pruned:
    """A pruned model, and what its pruning found out."""

    model: "PreTrainedModel"
    """The smaller model, in the dtypes and on the device of the one it was made from, sharing nothing with it."""
    layers: tuple[LayerResult, ...]
    """Per layer: `statistics` of its channels, float64, and the `selection` of those that stay, all (g, n)."""
    tokenizer: "PreTrainedTokenizerBase | None"
    """The tokenizer that made the calibration tokens; None where token ids were given."""
    provenance: Mapping[str, Any]
    """What made this model, and which channels of the source it keeps: the content of ghost.json."""
    companions: Mapping[str, bytes]
    """Files that `save` writes beside the weights, by name ('/' between segments): tokenizer, licence, and the rest."""

    def __repr__(self) -> str:
        made = self.provenance["ghost"]["determinants"]
        kept = getattr(self.model.config, family_of(self.model.config).state_size_field)
        state = f"{self.layers[0].selection.kept_gn.shape[-1]} -> {kept}"
        return f"Pruned({made['method']} at sparsity {made['sparsity']}, {len(self.layers)} layers, d_state {state})"

    def table(self) -> pa.Table:
        """One row per layer, group and channel, as in a run's Parquet files: what is known of the channel (null where
        the method does not measure it), its saliency, and whether it stays. `.to_pandas()` makes a data frame."""
        return pa.concat_tables([_rows(result) for result in self.layers])

    def save(self, folder: str | Path) -> Path:
        """Write a model folder with ghost.json that transformers loads unmodified, and return its path.

        SettingsError where something is there already.
        """
        target = Path(folder).expanduser()
        if is_taken(target):
            raise SettingsError(f"folder {target} is there already and not empty; give a new one")
        target.mkdir(parents=True, exist_ok=True)
        self.model.save_pretrained(target, max_shard_size=SHARD)
        write_json(target / CONFIG, with_infinity(read_config(target)))
        write_json(target / PROVENANCE, dict(self.provenance))
        for name, data in self.companions.items():
            (target / name).parent.mkdir(exist_ok=True, parents=True)
            (target / name).write_bytes(data)
        return target


def _rows(result: LayerResult) -> pa.Table:
    groups, channels = result.selection.kept_gn.shape
    rows = groups * channels
    positions = {
        "layer": pa.array([result.layer] * rows, pa.int32()),
        "group": pa.array(torch.arange(groups).repeat_interleave(channels).numpy(), pa.int32()),
        "channel": pa.array(torch.arange(channels).repeat(groups).numpy(), pa.int32()),
    }
    found = _per_channel(result.statistics) | _per_channel(result.selection)
    return pa.table(positions | {name: _column(tensor_gn, rows) for name, tensor_gn in found.items()})


def _per_channel(found: Any) -> dict[str, Tensor | None]:
    return {name.removesuffix(PER_CHANNEL): value for name, value in vars(found).items() if name.endswith(PER_CHANNEL)}


def _column(tensor_gn: Tensor | None, rows: int) -> pa.Array:
    return pa.nulls(rows, pa.float64()) if tensor_gn is None else pa.array(tensor_gn.flatten().numpy())
