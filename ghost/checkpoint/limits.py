"""Sizes that a config.json may claim: transformers makes lists of some of them, and pads to one, before anyone compares
them with the weights. A thousand million layers take it 15 GB and three minutes."""

from collections.abc import Mapping
from typing import Any

from ghost.errors import CheckpointError

COUNTS = ("num_hidden_layers", "n_layer", "num_labels", "chunk_size")
LISTS = ("layers_block_type", "layer_types", "hybrid_override_pattern", "hybrid_layer_ids", "attn_layer_indices")
"""Of a hybrid's layers."""
MOST = 10_000


def check_counts(config: Mapping[str, Any]) -> None:
    """CheckpointError where config.json, or a native one's ssm_cfg, counts more layers, labels or steps of a chunk than
    any model has, or lists more layers."""
    ssm = config.get("ssm_cfg")
    counted = {**config, **ssm} if isinstance(ssm, dict) else config
    for name in COUNTS:
        value = counted.get(name)
        if isinstance(value, int | float) and value > MOST:
            raise CheckpointError(f"config.json: {name} is {str(value)[:20]}, the most is {MOST}; mend config.json")
    for name in LISTS:
        listed = config.get(name)
        if isinstance(listed, list | str) and len(listed) > MOST:
            raise CheckpointError(
                f"config.json: {name} lists {len(listed)} layers, the most is {MOST}; mend config.json"
            )
