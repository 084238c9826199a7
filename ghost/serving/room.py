"""How many sequences a runtime holds beside the weights, by its own rules."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch

from ghost.serving.runtimes import Runtime
from ghost.serving.sequence import Model, Sequence, sequence

UTILIZATION = 0.92
"""vLLM's --gpu-memory-utilization by default (vllm/config/cache.py)."""
BLOCK = 16
"""vLLM's smallest block of tokens (DEFAULT_BLOCK_SIZE); on a CPU it is 128 (platforms/cpu.py)."""
MORE_THAN = 1.5
PREFIX_STATES = 2
"""States of a sequence with prefix caching, which is on by default for hybrids (MambaSpec.max_memory_usage_bytes)."""
SGLANG_RATIO = 0.9
"""SGLang's --mamba-full-memory-ratio by default: of what is left, 0.9 of 1.9 goes to states."""
SGLANG_STATES = 3
"""MAMBA_CACHE_SIZE_MAX_RUNNING_REQUESTS_RATIO."""
LLAMA_MOST = 256
"""Sequences in a context of llama.cpp (LLAMA_MAX_SEQ in src/llama-cparams.h)."""


class Blocks(NamedTuple):
    """How vLLM shares one pool of blocks among the layers of a hybrid."""

    tokens: int
    """In a block, of an attention layer."""
    page: int
    """Bytes of a block in one layer; a state is padded to it."""
    padding: int
    """Of them unused under a state."""
    layers: int
    """Under one block."""
    state_groups: int
    cache_groups: int

    @property
    def bytes(self) -> int:
        """Of a block, in all layers under it."""
        return self.page * self.layers

    def of(self, tokens: int) -> int:
        """Blocks of one sequence of so many tokens."""
        return PREFIX_STATES * self.state_groups + self.cache_groups * -(-tokens // self.tokens)


class Room(NamedTuple):
    """What fits."""

    sequences: int
    blocks: Blocks | None = None
    """vLLM's, of a hybrid."""


def room(runtime: Runtime, model: Model, dtype: torch.dtype, memory: int, tokens: int) -> Room:
    """The sequences of `tokens` tokens that fit into `memory` bytes beside the weights in `dtype`. What activations
    and graphs take, a runtime measures when it starts: that goes off."""
    one, weights = sequence(runtime, model, dtype), model.elements * dtype.itemsize
    return _RULES.get(runtime.name, _plain)(model, one, memory, weights, tokens)


def _plain(model: Model, one: Sequence, memory: int, weights: int, tokens: int) -> Room:
    """No pool: state and caches of each sequence, as large as it may become, come with the batch."""
    return Room(max(0, (memory - weights) // (one.fixed + one.token * tokens)))


def _llama(model: Model, one: Sequence, memory: int, weights: int, tokens: int) -> Room:
    """State and caches of all sequences, when it starts (llama_memory_recurrent, mem_size = n_seq_max), LLAMA_MOST at
    the most."""
    return Room(min(LLAMA_MOST, _plain(model, one, memory, weights, tokens).sequences))


def _vllm(model: Model, one: Sequence, memory: int, weights: int, tokens: int) -> Room:
    """Blocks of UTILIZATION of the memory less the weights; one is never given out (BlockPool.null_block). Without
    attention a sequence takes one block in each mixer (MambaSpec, cache mode none)."""
    left = int(memory * UTILIZATION) - weights
    if not model.caches:
        return Room(max(0, left // one.fixed - 1))
    blocks = hybrid_blocks(model, one)
    return Room(max(0, (left // blocks.bytes - 1) // blocks.of(tokens)), blocks)


def hybrid_blocks(model: Model, one: Sequence, smallest: int = BLOCK) -> Blocks:
    """vLLM's page and block of a hybrid: blocks of a multiple of `smallest` tokens, so that attention's page is no
    smaller than a state's, which is then padded to it (Platform._align_hybrid_block_size). Mixers and attention layers
    are cut into groups of one size, that of the fewer, or of the more where those are less than half as many again
    (_get_kv_cache_groups_uniform_page_size); all groups draw their blocks from one pool."""
    state, token = one.fixed // model.mixers, one.token // len(model.caches)
    tokens = smallest * math.ceil(state / (smallest * token))
    fewer, more = sorted((model.mixers, len(model.caches)))
    layers = more if more < MORE_THAN * fewer else fewer
    page = tokens * token
    return Blocks(tokens, page, page - state, layers, -(-model.mixers // layers), -(-len(model.caches) // layers))


def _sglang(model: Model, one: Sequence, memory: int, weights: int, tokens: int) -> Room:
    """A pool of states and one of tokens, by SGLANG_RATIO; each sequence holds SGLANG_STATES states, and one slot of
    the pool is never given out (kv_cache_configurator.py)."""
    left = max(0, memory - weights)
    states = int(left * SGLANG_RATIO / (1 + SGLANG_RATIO)) // one.fixed - 1
    found = max(0, states // SGLANG_STATES)
    if one.token:
        found = min(found, int(left / (1 + SGLANG_RATIO)) // (one.token * tokens))
    return Room(found)


_RULES: dict[str, Callable[[Model, Sequence, int, int, int], Room]] = {
    "vllm": _vllm, "sglang": _sglang, "llama.cpp": _llama,
}  # fmt: skip
