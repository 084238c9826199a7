"""Of `lstsq`, out_proj corrected by ridge regression, from sums over the calibration tokens and no gradients.

dW = argmin |R - X dW^T|^2 + lambda |dW|^2, with X what enters the pruned mixer's out_proj and R what its output lacks
of the target. Everything that is asked of X and R goes through X^T X, X^T R and |R|^2, so one pass gives them all.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ghost.decoder_layer import DecoderLayer
from ghost.recovery.pairs import Pairs

OUT_PROJ, OUT_BIAS = "out_proj.weight", "out_proj.bias"
LAMBDAS = (1e-3, 1e-2, 1e-1, 1.0)
"""Ridges to try, as shares of the mean diagonal of X^T X."""
STEPS = (1.0, 0.5, 0.25)
SUMS = torch.float64


@dataclass(frozen=True, eq=False)
class Sums:
    """X^T X (d_inner, d_inner), X^T R (d_inner, d_model) and |R|^2, all float64."""

    gram_ii: Tensor
    cross_im: Tensor
    residual: float

    def solve(self, share: float) -> Tensor:
        """dW (d_model, d_inner) for lambda = share of the mean diagonal; zero where X is."""
        ridge = share * self.gram_ii.diagonal().mean() + torch.finfo(SUMS).tiny
        damped_ii = self.gram_ii + ridge * torch.eye(len(self.gram_ii), dtype=SUMS, device=self.gram_ii.device)
        return torch.linalg.solve(damped_ii, self.cross_im).T

    def error(self, change_mi: Tensor) -> float:
        """|R - X dW^T|^2 for a change of out_proj."""
        explained = 2 * (change_mi.T * self.cross_im).sum() - ((change_mi @ self.gram_ii) * change_mi).sum()
        return self.residual - float(explained)


def sums(layer: DecoderLayer, pairs: Pairs) -> Sums:
    """One pass over the windows: matrix products in fp32 per batch, added up in float64."""
    weight_mi, bias_m = layer.mixer[OUT_PROJ].float(), layer.mixer.get(OUT_BIAS)

    def of_batch(features_ti: Tensor, target_tm: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        lacking_tm = target_tm - F.linear(features_ti, weight_mi, None if bias_m is None else bias_m.float())
        gram_ii, cross_im = features_ti.T @ features_ti, features_ti.T @ lacking_tm
        return gram_ii.to(SUMS), cross_im.to(SUMS), lacking_tm.square().sum(dtype=SUMS)

    gram_ii, cross_im, residual = pairs.team.sums(of_batch(*batch) for batch in pairs.features(layer))
    return Sums(gram_ii.to(weight_mi.device), cross_im.to(weight_mi.device), float(residual))


def out_proj_candidates(layer: DecoderLayer, fitted: Pairs, held: Pairs) -> Iterator[tuple[str, Tensor]]:
    """Names and out_proj weights (d_model, d_inner): the ridge with the least error on the held-back windows, and
    shares of the step towards it."""
    on_fitted, on_held = sums(layer, fitted), sums(layer, held)
    changes = [on_fitted.solve(share) for share in LAMBDAS]
    change_mi = min(changes, key=on_held.error)
    for step in STEPS:
        yield f"lstsq x{step:g}", layer.mixer[OUT_PROJ] + step * change_mi
