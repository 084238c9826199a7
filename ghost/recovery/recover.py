"""Recovery of one layer: candidates, judged on held-back text as they would be stored."""

from dataclasses import dataclass

from torch import Tensor

from ghost.backbone import Backbone, Layer
from ghost.mixer import Weights
from ghost.recovery.fit import fit
from ghost.recovery.judge import nlls
from ghost.recovery.local import descend
from ghost.recovery.pairs import Pairs
from ghost.recovery.ridge import OUT_PROJ, out_proj_candidates

NONE, FIT, LOCAL = "none", "fit", "local"


@dataclass(frozen=True, eq=False)
class Recovered:
    """A pruned mixer after recovery, in the dtypes and on the device that it came in.

    `nll` has the nats per token on held-back windows for every candidate by name, the mere slice as `none`; `chosen` is
    the one that did best, and `none` where nothing helped.
    """

    mixer: dict[str, Tensor]
    chosen: str
    nll: dict[str, float]

    def summary(self) -> str:
        """One line for logs and metadata."""
        return f"{self.chosen}, held-back nll {self.nll[self.chosen]:.4f} against {self.nll[NONE]:.4f} without"


def recover(pairs: Pairs, i: int, pruned: Weights, *, local: bool, seed: int, refit: bool = False) -> Recovered:
    """Layer i's pruned mixer, brought closer to the dense one's output where that helps on held-back windows.

    With `refit`, first what makes B and C. From the better of that and nothing, out_proj by ridge regression. With
    `local`, Adam steps on all tensors from the best so far.
    """
    backbone, (fitted, held) = pairs.backbone, pairs.split()
    mixers, scores, start = {NONE: dict(pruned)}, dict[str, float](), dict(pruned)
    if refit:
        moved = fit(_unrounded(backbone, i, pruned), backbone.layer(i), fitted, held, seed)
        mixers[FIT] = _as_stored(moved, pruned)
        scores = _judge(backbone, held, i, mixers)
        start = mixers[min(scores, key=scores.__getitem__)]
    ridges = {
        name: start | {OUT_PROJ: weight_mi.to(pruned[OUT_PROJ])}
        for name, weight_mi in out_proj_candidates(backbone.layer(i, start), fitted, held)
    }
    scores |= _judge(backbone, held, i, ridges if scores else mixers | ridges)
    mixers |= ridges
    if local:
        start = mixers[min(scores, key=scores.__getitem__)]
        mixers[LOCAL] = _as_stored(descend(backbone.layer(i, start), fitted, held, seed), pruned)
        scores |= _judge(backbone, held, i, {LOCAL: mixers[LOCAL]})
    chosen = min(scores, key=scores.__getitem__)
    return Recovered(mixers[chosen], chosen, scores)


def _judge(backbone: Backbone, held: Pairs, i: int, mixers: dict[str, dict[str, Tensor]]) -> dict[str, float]:
    layers = [backbone.layer(i, mixer) for mixer in mixers.values()]
    return dict(zip(mixers, nlls(held, i, layers), strict=True))


def _unrounded(backbone: Backbone, i: int, pruned: Weights) -> Layer:
    """Layer i with the pruned tensors in the dtypes that they have, so that what is not fitted stays as it is."""
    return backbone.layer(i, pruned)._replace(mixer={name: t.to(backbone.device) for name, t in pruned.items()})


def _as_stored(layer: Layer, like: Weights) -> dict[str, Tensor]:
    return {name: tensor.to(like[name]) for name, tensor in layer.mixer.items()}
