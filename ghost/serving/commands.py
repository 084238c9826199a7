"""How a pruned checkpoint is served: a command for each runtime, for its model card."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

from ghost.checkpoint.families import PROJECTED
from ghost.mixer import MixerLayout
from ghost.serving.rules import Finding, findings
from ghost.serving.runtimes import RUNTIMES, Runtime, spelled, unknown

ASSUMED = 2048
"""Tokens that vLLM takes for the context where config.json has no max_position_embeddings (vllm/config/model.py)."""
CONTEXT = 8192
SEQUENCES = 1024


class Served(NamedTuple):
    """One runtime as the card has it."""

    runtime: str
    known: str
    """`tried`, `read in source`, or why it does not serve the family."""
    commands: tuple[str, ...]
    """One after the other; none where it does not. DIR is the checkpoint's folder."""
    remarks: tuple[str, ...]
    """Which of its kernels do not take this state size as they should."""


def served(family: str, layout: MixerLayout, positions: int | None) -> list[Served]:
    """Every runtime for mixers of this layout; `positions` is config.json's max_position_embeddings."""
    found = findings(layout, family)
    return [_served(runtime, family, found, positions) for runtime in RUNTIMES.values()]


def _served(runtime: Runtime, family: str, found: Iterable[Finding], positions: int | None) -> Served:
    refused, named = unknown(runtime, family), f"{spelled(runtime.name)} {runtime.version}"
    if refused:
        return Served(named, refused, (), ())
    remarks = (each.short for each in found if each.rule.runtime == runtime.name and each.rule.grade != "note")
    return Served(named, runtime.families[family], _COMMANDS[runtime.name](family, positions), tuple(remarks))


def _vllm(family: str, positions: int | None) -> tuple[str, ...]:
    context = "" if positions else f" --max-model-len {CONTEXT}"
    plugin = ("pip install ./plugins/vllm",) if family == PROJECTED else ()
    return *plugin, f"vllm serve DIR --max-num-seqs {SEQUENCES}{context}"


def _sglang(family: str, positions: int | None) -> tuple[str, ...]:
    return ("python -m sglang.launch_server --model-path DIR",)


def _llama(family: str, positions: int | None) -> tuple[str, ...]:
    converter = "" if family == "mamba2" else " --converter LLAMA_CPP_FOLDER"
    return f"ghost gguf DIR OUT.gguf --type f16{converter}", "llama-server -m OUT.gguf --parallel 16"


def _mamba_ssm(family: str, positions: int | None) -> tuple[str, ...]:
    return "ghost convert DIR OUT --format native", 'MambaLMHeadModel.from_pretrained("OUT")'


def _transformers(family: str, positions: int | None) -> tuple[str, ...]:
    code = ", trust_remote_code=True" if family == PROJECTED else ""
    return (f'AutoModelForCausalLM.from_pretrained("DIR"{code})',)


_COMMANDS: dict[str, Callable[[str, int | None], tuple[str, ...]]] = {
    "vllm": _vllm, "sglang": _sglang, "llama.cpp": _llama, "mamba-ssm": _mamba_ssm, "transformers": _transformers,
}  # fmt: skip
