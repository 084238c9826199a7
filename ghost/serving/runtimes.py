"""The runtimes that serve Mamba2 and its hybrids, as data: which families each one knows, and in which precision and
how long it keeps a sequence's state. `ghost.serving.rules` says which state sizes their kernels take.

Read in the source of the versions named here. A family is *tried* where a pruned checkpoint of it was run there, on a
CPU.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from ghost.checkpoint.families import PROJECTED

TRIED, READ = "tried", "read in source"


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """One runtime. The recurrent state, what the convolutions keep, and attention's caches are in the precision of the
    computation, but for those that are named as of a precision of their own."""

    name: str
    version: str
    """The one that was read, or tried."""
    families: Mapping[str, str]
    """By model_type: tried, or read in its source."""
    last_taps: int
    """Tokens that a convolution of d_conv taps keeps: d_conv less this."""
    state: str | None = None
    """Precision of the recurrent state."""
    state_of: Mapping[str, str] = field(default_factory=dict[str, str])
    """The same for single families."""
    conv: str | None = None
    """Precision of what the convolutions keep."""
    cache: str | None = None
    """Precision of attention's keys and values."""
    source: str
    """Where the above stands."""
    gone: Mapping[str, str] = field(default_factory=dict[str, str])
    """Families that it knows, or once knew, and that are not to be served there, with what is to be said of them."""
    raises: str = ""
    """What to set to use the room, and what else to know before serving."""


RUNTIMES = {
    runtime.name: runtime
    for runtime in (
        Runtime(
            name="vllm",
            version="0.32.0",
            families={"mamba2": TRIED, PROJECTED: TRIED}
            | dict.fromkeys(("zamba2", "falcon_h1", "granitemoehybrid", "nemotron_h"), READ),
            last_taps=1,
            state_of={"nemotron_h": "float32"},
            source="MambaStateShapeCalculator.mamba2_state_shape and MambaStateDtypeCalculator.mamba2_state_dtype in "
            "vllm/model_executor/layers/mamba/mamba_utils.py; nemotron_h's fp32 in models/config.py",
            gone={"bamba": "has not known bamba since 0.23 (models/registry.py)"},
            raises="--max-num-seqs has to be raised to use the room: by default it is 1024 on GPUs of 70 GiB and more "
            "but the A100, 256 on others. On a CPU with AVX512-BF16 the state is fp32 whatever the precision",
        ),
        Runtime(
            name="sglang",
            version="0.5.23",
            families=dict.fromkeys(("falcon_h1", "granitemoehybrid", "nemotron_h"), READ),
            gone={
                "mamba2": "takes a pure mamba2 only as Codestral's folder has it: rms_norm and intermediate_size in "
                "config.json and a head of its own; any other would run with a head that was never loaded "
                "(srt/models/mamba2.py)"
            },
            last_taps=1,
            state="float32",
            conv="bfloat16",
            source="Mamba2StateShape.create and mamba2_state_dtype in sglang/srt/configs/mamba_utils.py",
            raises="by default each sequence holds 3 states, two of them for the prefix cache: --disable-radix-cache "
            "holds 1, --mamba-ssm-dtype bfloat16 halves each",
        ),
        Runtime(
            name="llama.cpp",
            version="0.5.0",
            families={"mamba2": TRIED} | dict.fromkeys(("falcon_h1", "granitemoehybrid", "nemotron_h"), READ),
            gone={"bamba": "computes bamba otherwise than transformers, as tried"},
            last_taps=1,
            state="float32",
            conv="float32",
            cache="float16",
            source="n_embd_r and n_embd_s in src/llama-hparams.cpp, GGML_TYPE_F32 in src/llama-model.cpp",
            raises="--parallel has to be raised to use the room; a context holds 256 sequences at the most",
        ),
        Runtime(
            name="mamba-ssm",
            version="2.3.2",
            families={"mamba2": TRIED},
            last_taps=0,
            source="Mamba2.allocate_inference_cache in mamba_ssm/modules/mamba2.py",
            raises="the batch is what the caller makes it",
        ),
        Runtime(
            name="transformers",
            version="5.23",
            families=dict.fromkeys(
                ("mamba2", "zamba2", "bamba", "falcon_h1", "granitemoehybrid", "nemotron_h", PROJECTED), TRIED
            ),
            last_taps=0,
            state="float32",
            source="LinearAttentionLayer in transformers/cache_utils.py, as the models fill it",
            raises="the batch is what the caller makes it",
        ),
    )
}
SPELLED = {"vllm": "vLLM", "sglang": "SGLang"}
"""Names as their makers write them."""


def spelled(name: str) -> str:
    """The runtime's name as its makers write it."""
    return SPELLED.get(name, name)


def unknown(runtime: Runtime, family: str) -> str:
    """Why this runtime does not serve the family; empty where it does."""
    if family in runtime.families:
        return ""
    if family == PROJECTED:
        return "does not know projected checkpoints; transformers does, and vLLM with ghost's plugin"
    return runtime.gone.get(family, f"does not know {family}")
