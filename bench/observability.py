"""Which Gramians to balance: the choice of subspace by itself, on the demo model.

python -m bench.observability [--samples N] [--tokens N] [--directions R ...]
python -m bench.observability --cost

Sequential: each layer is measured on what its projected predecessors leave. Corpus stdlib, windows of 128 for
calibration and of 2,048 for evaluation. The figures are in docs/decisions.md, "Balanced truncation".
"""

import argparse
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.energies import LAYOUT
from bench.measure import medians
from ghost.calibration.corpus import read_text
from ghost.calibration.tokens import sample_windows, tokenize
from ghost.checkpoint.source import open_checkpoint
from ghost.config import resolve_device
from ghost.decoder_layer import DecoderLayer
from ghost.evaluation.perplexity import perplexity
from ghost.mixer import PROJECTIONS, MixerInputs, Weights, mixer_forward, mixer_inputs
from ghost.pruned_path import PrunedPath
from ghost.saliency.balanced import balance
from ghost.saliency.gramians import gramians
from ghost.selection import Projection
from ghost.settings import RunSettings
from ghost.ssd import STATISTICS, ssd, states
from ghost.stack import Stack

Inputs = list[MixerInputs]
Pair = tuple[Tensor, Tensor]


def plain(layer: DecoderLayer, inputs: Inputs) -> Pair:
    """E H H^T and E C C^T."""
    return gramians(inputs)


def later(layer: DecoderLayer, inputs: Inputs) -> Pair:
    """Wo of a time-varying system, E_t sum_{s>=t} (prod a)^2 C_s C_s^T: C_s weighs `w_s = 1 + a_s^2 w_{s-1}`, what
    is left of all earlier steps; mean over heads."""
    weighted = []
    for x in inputs:
        a2_blh, weight_bh, weights = (2 * x.dt_blh * x.A_h).exp(), torch.zeros_like(x.dt_blh[:, 0]), []
        for a2_bh in a2_blh.unbind(1):
            weights.append(weight_bh := 1 + a2_bh * weight_bh)
        weighted.append(x._replace(C_blgn=x.C_blgn * torch.stack(weights, 1).mean(-1).sqrt()[..., None, None]))
    return gramians(inputs)[0], gramians(weighted)[1]


def gated(layer: DecoderLayer, inputs: Inputs) -> Pair:
    """Each head's and headdim's state by the mean of |d output / d y|^2: gate, norm and out_proj's column, in Wc."""
    shares_hp = torch.cat([_reaches(layer, x).flatten(0, 1) for x in inputs]).mean(0).sqrt()
    return gramians([x._replace(x_blhp=x.x_blhp * shares_hp) for x in inputs])[0], gramians(inputs)[1]


def _reaches(layer: DecoderLayer, x: MixerInputs) -> Tensor:
    """|d output / d y|^2 (b, l, h, p) with the norm's scale held, for a gate before the norm."""
    y_blhp, _ = ssd(x.x_blhp, x.dt_blh, x.A_h, x.B_blgn, x.C_blgn, x.D_h)
    gate_bli = F.silu(x.z)
    scale2_bl1 = (y_blhp.flatten(2) * gate_bli).square().mean(-1, keepdim=True) + layer.layout.norm_eps
    column2_i = layer.mixer["norm.weight"].square() * layer.mixer["out_proj.weight"].square().sum(0)
    return (gate_bli.square() / scale2_bl1 * column2_i).view_as(y_blhp)


def states_alone(layer: DecoderLayer, inputs: Inputs) -> Pair:
    """Principal components of H."""
    Wc_gnn, Wo_gnn = gramians(inputs)
    return Wc_gnn, torch.eye(Wo_gnn.shape[-1], dtype=STATISTICS).expand_as(Wo_gnn)


def readouts_alone(layer: DecoderLayer, inputs: Inputs) -> Pair:
    """Principal components of C."""
    Wc_gnn, Wo_gnn = gramians(inputs)
    return torch.eye(Wc_gnn.shape[-1], dtype=STATISTICS).expand_as(Wc_gnn), Wo_gnn


VARIANTS: dict[str, Callable[[DecoderLayer, Inputs], Pair]] = {
    variant.__name__: variant for variant in (plain, later, gated, states_alone, readouts_alone)
}


class Projected(Stack):
    """The model with a projection in every layer."""

    def __init__(self, stack: Stack, projections: Sequence[Projection]) -> None:
        super().__init__(stack.checkpoint, stack.device, stack.dtype)
        self.projections = projections

    def layer(self, i: int, mixer: Weights | None = None) -> DecoderLayer:
        pair = dict(zip(PROJECTIONS, (self.projections[i].B_grn, self.projections[i].C_grn), strict=True))
        return super().layer(i, {**(mixer or self.checkpoint.mixer(i)), **pair})


@torch.inference_mode()
def project(stack: Stack, tokens_bl: Tensor, variant: str, kept: int) -> tuple[list[Projection], list[Tensor]]:
    """Projections to `kept` directions and Hankel values (g, n), layer by layer."""
    path, projections, hankel = PrunedPath(stack, tokens_bl), [], []
    while path.position < stack.layers:
        hankel_gn, *turned = balance(*VARIANTS[variant](path.inputs().layer, list(path.inputs())))
        projection = Projection(*(basis_gnn[:, :kept].to(stack.device, stack.dtype) for basis_gnn in turned))
        path.advance(projection)
        projections.append(projection)
        hankel.append(hankel_gn)
    return projections, hankel


def study(samples: int, tokens: int, kept_counts: Sequence[int]) -> Iterator[str]:
    """One line per figure: perplexity of the dense model, energies of the Hankel spectrum, then the rise of perplexity
    by directions kept and variant, and by directions kept and calibration windows."""
    settings = RunSettings()
    stack = Stack(open_checkpoint(settings.model), resolve_device("auto"), torch.float32)
    folder = stack.checkpoint.folder
    text = tokenize(folder, read_text(settings.evaluation, "evaluation"))[: tokens + 1]
    calibration = tokenize(folder, read_text(settings.calibration, "calibration"))
    dense = perplexity(stack, text, settings.window).nll
    yield f"dense: perplexity {math.exp(dense):.3f} on {len(text) - 1} tokens"
    whole = stack.checkpoint.mixer_layout.d_state
    tokens_bl = sample_windows(calibration, samples, settings.length, settings.seed)
    yield from _spectrum(project(stack, tokens_bl, "plain", whole)[1])
    cells = [(kept, variant, samples) for kept in kept_counts for variant in VARIANTS]
    cells += [(kept, "plain", several) for kept in kept_counts for several in (samples // 4, samples * 4)]
    for kept, variant, windows in cells:
        tokens_bl = sample_windows(calibration, windows, settings.length, settings.seed)
        projections, _ = project(stack, tokens_bl, variant, kept)
        projected = Projected(stack, projections)
        rise = math.expm1(perplexity(projected, text, settings.window).nll - dense)
        yield f"{kept:3} {variant:14} {windows:4} windows {100 * rise:+.2f}%"


def _spectrum(hankel: list[Tensor]) -> Iterator[str]:
    for i, hankel_gn in enumerate(hankel):
        energy_n = hankel_gn.square().sum(0).cumsum(0)
        shares = (f"{r}: {100 * energy_n[r - 1] / energy_n[-1]:.2f}%" for r in (2, 4, 8, 16, 32, 64))
        yield f"layer {i}: energy of the first directions " + ", ".join(shares)


@torch.inference_mode()
def cost() -> Iterator[str]:
    """Seconds of one mixer forward, and of both Gramians and of Wc from sampled states in mixer forwards; mamba2-130m's
    mixer, batch 4, length 512, fp32, median of three."""
    torch.manual_seed(0)
    weights = {name: torch.randn(size) * 0.05 for name, size in LAYOUT.shapes().items()}
    hidden_blm = torch.randn(4, 512, LAYOUT.d_model)
    x = mixer_inputs(LAYOUT, weights, hidden_blm)
    contestants = {"forward": lambda: mixer_forward(LAYOUT, weights, hidden_blm), "exact": lambda: gramians([x])}
    contestants |= {f"every {every}": partial(_sampled, x, every) for every in (1, 2, 4, 8, 16)}
    seconds = medians(contestants, rounds=3)
    yield f"mixer forward {seconds['forward']:.3f} s"
    for name in list(contestants)[1:]:
        yield f"{name}: {seconds[name] / seconds['forward']:.2f} of it"


def _sampled(x: MixerInputs, every: int) -> Tensor:
    total_gnn = torch.zeros((), dtype=STATISTICS)
    for _, H_bcgnrp in states(x.x_blhp, x.dt_blh, x.A_h, x.B_blgn, x.C_blgn, every=every):
        H_bcgnk = H_bcgnrp.flatten(4)
        total_gnn = total_gnn + (H_bcgnk @ H_bcgnk.mT).sum((0, 1), dtype=STATISTICS)
    return total_gnn


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=24576)
    parser.add_argument("--directions", type=int, nargs="+", default=[64, 32, 16, 8, 4, 2])
    parser.add_argument("--cost", action="store_true", help="time the Gramians instead")
    chosen = parser.parse_args()
    for line in cost() if chosen.cost else study(chosen.samples, chosen.tokens, chosen.directions):
        print(line, flush=True)
