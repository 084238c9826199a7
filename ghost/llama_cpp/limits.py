"""What llama.cpp leaves out of its computation, without a word: refused before a file is written.

Each line was seen in the source that llama-cpp-python 0.3.36 carries, or in other logits. What llama.cpp only fails to
load says so by itself.
"""

from collections.abc import Iterator

from ghost.checkpoint.families import PROJECTED
from ghost.checkpoint.source import Checkpoint
from ghost.errors import CheckpointError
from ghost.serving.runtimes import RUNTIMES

FAMILIES = RUNTIMES["llama.cpp"].families
"""Those that it was seen to compute as transformers does."""
CLAMPED_BY_TRANSFORMERS_ALONE = ("nemotron_h",)
"""transformers has time_step_min for the lower limit of dt, and llama.cpp has none. A trained model's perplexity was
seen to differ by 2e-4 of itself, so that is no reason to refuse a whole family."""


def check_computable(checkpoint: Checkpoint) -> None:
    """CheckpointError for a model of which llama.cpp would compute another."""
    family = checkpoint.config.model_type
    if family == PROJECTED:
        raise CheckpointError(
            f"{checkpoint.folder} projects B and C, which llama.cpp has no code for; prune by a method other than "
            "balanced, or with recovery fit"
        )
    if family not in FAMILIES:
        raise CheckpointError(
            f"model_type {family!r} is none that llama.cpp computes as transformers does; give one of: "
            f"{', '.join(FAMILIES)}"
        )
    for difference in _differences(checkpoint):
        raise CheckpointError(f"config.json: {difference}; serve this model with transformers or vLLM")


def _differences(checkpoint: Checkpoint) -> Iterator[str]:
    config, layout = checkpoint.config, checkpoint.mixer_layout
    family = config.model_type
    if layout.dt_limit != (0.0, float("inf")) and family not in CLAMPED_BY_TRANSFORMERS_ALONE:
        yield f"time_step_limit is {list(layout.dt_limit)}, which llama.cpp does not apply"
    if layout.gating == "norm-then-gate":
        yield "mamba_norm_before_gate is true, and llama.cpp gates before it normalizes"
    if family == "mamba2" and layout.biases != {"conv1d.bias"}:
        yield (
            f"use_bias is {str(config.use_bias).lower()} and use_conv_bias {str(config.use_conv_bias).lower()}, but "
            "llama.cpp's mamba2 has a bias of the convolution and no other"
        )
    if family == "granitemoehybrid" and config.position_embedding_type == "rope":
        yield "position_embedding_type is 'rope', and llama.cpp's hybrids of this family have no positions"
    if (
        family == "falcon_h1"
        and config.tie_word_embeddings
        and config.embedding_multiplier != config.lm_head_multiplier
    ):
        yield (
            f"embedding_multiplier is {config.embedding_multiplier} and lm_head_multiplier {config.lm_head_multiplier}"
            ", but llama.cpp has one factor for both where embeddings and head are tied"
        )
