"""Which state sizes each runtime's kernels take, as one table: `ghost fits`, the warnings of `ghost run` and the model
card read it. Every rule names the source that it was read in."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from ghost.mixer import MixerLayout
from ghost.serving.runtimes import RUNTIMES, spelled

Grade = Literal["refused", "slower", "note"]
"""refused: it does not run. slower: it runs, but not as a smaller state should. note: to know, and no reason to choose
another size."""
CUDA_SIZES, SHADER_SIZES, FLASHINFER_SIZES = (96, 128, 256), (128, 256), (64, 96, 128, 256)
CUDA_CONV = 128
"""Channels of a convolution that llama.cpp's CUDA kernel takes at once."""
CPU_CONV = 32
"""The same of vLLM's on a CPU in bf16."""
HEAD_STEP = 16
AVX512_STEP = 64
CONV_STEP = 8
SMALLEST_TILE = 16
CPU = "it falls back to the CPU"


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One rule of one kernel."""

    runtime: str
    kernel: str
    version: str
    """The one that was read."""
    source: str
    grade: Grade
    takes: Callable[[MixerLayout], bool]
    wants: str
    """What it takes, in words."""
    otherwise: str
    """What becomes of another N; braces are filled in by `_figures`."""
    mark: str
    """The same in a word, for a table."""
    remedy: str = ""
    """What to do about such a size."""

    @property
    def name(self) -> str:
        return f"{spelled(self.runtime)}, {self.kernel}"


@dataclass(frozen=True)
class Finding:
    """A rule that a layout does not keep."""

    rule: Rule
    d_state: int
    otherwise: str
    """What becomes of it, in words."""

    @property
    def short(self) -> str:
        """Such as `CUDA scan: it falls back to the CPU`."""
        return f"{self.rule.kernel}: {self.otherwise}"

    @property
    def line(self) -> str:
        """Such as `llama.cpp, CUDA scan (0.5.0) takes 96, 128 ...; at N = 64 it falls back to the CPU; ...`."""
        rule = self.rule
        remedy = f"; {rule.remedy}" if rule.remedy else ""
        return f"{rule.name} ({rule.version}) takes {rule.wants}; at N = {self.d_state} {self.otherwise}{remedy}"


def conv_channels(layout: MixerLayout) -> int:
    """Channels of the convolution: x, B and C."""
    return sum(layout.conv_sections)


def padded(d_state: int) -> int:
    """The tile that Triton kernels lay over so many channels: the next power of two, 16 at least."""
    return max(SMALLEST_TILE, 1 << (d_state - 1).bit_length())


def _whole_tiles(layout: MixerLayout) -> bool:
    return padded(layout.d_state) == layout.d_state


def _rows_aligned(layout: MixerLayout) -> bool:
    """Channels and rows as causal-conv1d needs them; the rows are those of in_proj's output, which it reads from."""
    return conv_channels(layout) % CONV_STEP == 0 and sum(layout.in_proj_sections) % CONV_STEP == 0


def _on(sizes: tuple[int, ...]) -> Callable[[MixerLayout], bool]:
    return lambda layout: layout.d_state in sizes and layout.headdim % HEAD_STEP == 0


TILES, TILED = "tiles of a power of two, 16 at least", "it computes as for {padded}, and only memory is saved"
RULES = (
    Rule(
        runtime="vllm", kernel="Triton scan", version="0.32.0", grade="slower", takes=_whole_tiles,
        wants=TILES, otherwise=TILED, mark="padded",
        source="BLOCK_SIZE_DSTATE in layers/mamba/ops/mamba_ssm.py and ssd_chunk_scan.py",
    ),
    Rule(
        runtime="vllm", kernel="tuned decode", version="0.32.0", grade="note",
        takes=lambda layout: layout.d_state == 128,
        wants="128, on NVIDIA and AMD", otherwise="it goes by a general setting", mark="untuned",
        source="layers/mamba/ops/configs/selective_state_update, _get_default_ssm_launch_config",
    ),
    Rule(
        runtime="vllm", kernel="--mamba-backend flashinfer", version="FlashInfer 0.7.2", grade="refused",
        takes=lambda layout: layout.d_state in FLASHINFER_SIZES,
        wants="64, 96, 128 and 256", otherwise="it is not tested", mark="no",
        remedy="leave the backend at triton, the default",
        source="include/flashinfer/mamba/common.cuh (below 32 it does not compile), pull request 2865 (96)",
    ),
    Rule(
        runtime="vllm", kernel="bf16 convolution on a CPU", version="0.32.0, tried", grade="refused",
        takes=lambda layout: conv_channels(layout) % CPU_CONV == 0,
        wants="a multiple of 32 channels, d_inner + 2 n_groups N",
        otherwise="there are {conv}, and it does not load", mark="no", remedy="there give --dtype float32",
        source="dispatch_cpu_unquantized_gemm in layers/utils.py, causal_conv1d_weight_pack (CPUs with AVX512-BF16)",
    ),
    Rule(
        runtime="sglang", kernel="Triton scan", version="0.5.23", grade="slower", takes=_whole_tiles,
        wants=TILES, otherwise=TILED, mark="padded",
        source="BLOCK_SIZE_DSTATE in sglang/kernels/ops/mamba/triton_ops",
    ),
    Rule(
        runtime="llama.cpp", kernel="CUDA scan", version="0.5.0", grade="slower", takes=_on(CUDA_SIZES),
        wants="96, 128 and 256, in heads of a multiple of 16", otherwise=CPU, mark="on CPU",
        remedy="on a GPU serve it with vLLM",
        source="GGML_OP_SSM_SCAN in ggml/src/ggml-cuda/ggml-cuda.cu",
    ),
    Rule(
        runtime="llama.cpp", kernel="CUDA convolution", version="0.5.0", grade="slower",
        takes=lambda layout: conv_channels(layout) % CUDA_CONV == 0,
        wants="a multiple of 128 channels, d_inner + 2 n_groups N",
        otherwise="there are {conv}, and it falls back to the CPU", mark="on CPU",
        source="GGML_OP_SSM_CONV in ggml/src/ggml-cuda/ggml-cuda.cu",
    ),
    Rule(
        runtime="llama.cpp", kernel="Vulkan, SYCL scan", version="0.5.0", grade="slower", takes=_on(SHADER_SIZES),
        wants="128 and 256, in heads of a multiple of 16", otherwise=CPU, mark="on CPU",
        source="GGML_OP_SSM_SCAN in ggml-vulkan.cpp and ggml-sycl.cpp",
    ),
    Rule(
        runtime="llama.cpp", kernel="AVX-512 scan", version="0.5.0", grade="slower",
        takes=lambda layout: layout.d_state % AVX512_STEP == 0,
        wants="64 channels at once", otherwise="{rest} channels go one by one", mark="partly",
        source="ggml_compute_forward_ssm_scan_f32 in ggml/src/ggml-cpu/ops.cpp, GGML_F32_STEP in simd-mappings.h",
    ),
    Rule(
        runtime="mamba-ssm", kernel="causal-conv1d", version="1.7.0", grade="refused", takes=_rows_aligned,
        wants="multiples of 8, in d_inner + 2 n_groups N and in the rows of in_proj",
        otherwise="there are {conv} in rows of {rows}, and it stops", mark="no",
        source="causal_conv1d_fwd in csrc/causal_conv1d.cpp",
    ),
    Rule(
        runtime="mamba-ssm", kernel="Triton scan", version="2.3.2", grade="slower", takes=_whole_tiles,
        wants=TILES, otherwise=TILED, mark="padded",
        source="BLOCK_SIZE_DSTATE in mamba_ssm/ops/triton",
    ),
)  # fmt: skip


def finding(rule: Rule, layout: MixerLayout) -> Finding | None:
    """None where the rule is kept."""
    return None if rule.takes(layout) else Finding(rule, layout.d_state, rule.otherwise.format(**_figures(layout)))


def findings(layout: MixerLayout, family: str) -> list[Finding]:
    """The rules that mixers of this layout don't keep, of the runtimes that know the family."""
    found = (finding(rule, layout) for rule in RULES if family in RUNTIMES[rule.runtime].families)
    return [each for each in found if each]


def warnings(dense: MixerLayout, pruned: MixerLayout, family: str) -> list[str]:
    """A line for each rule that the pruned mixers break and the dense ones keep, but for mere notes."""
    broken = {found.rule for found in findings(dense, family)}
    found = [each for each in findings(pruned, family) if each.rule.grade != "note" and each.rule not in broken]
    return [each.line for each in found]


def _figures(layout: MixerLayout) -> dict[str, int]:
    return {
        "padded": padded(layout.d_state),
        "rest": layout.d_state % AVX512_STEP,
        "conv": conv_channels(layout),
        "rows": sum(layout.in_proj_sections),
    }
