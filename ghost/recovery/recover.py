"""Recovery of one layer: candidates, judged on held-back text as they would be stored."""

from dataclasses import dataclass

from torch import Tensor

from ghost.backbone import Backbone, Layer
from ghost.mixer import Weights
from ghost.recovery.judge import nlls
from ghost.recovery.local import descend
from ghost.recovery.pairs import Pairs
from ghost.recovery.ridge import OUT_PROJ, out_proj_candidates

NONE, LOCAL = "none", "local"


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


def recover(pairs: Pairs, i: int, pruned: Weights, *, local: bool, seed: int) -> Recovered:
    """Layer i's pruned mixer, brought closer to the dense one's output where that helps on held-back windows.

    First out_proj by ridge regression; with `local`, Adam steps on all tensors from the better of that and nothing.
    """
    backbone, (fitted, held) = pairs.backbone, pairs.split()
    mixers = {NONE: dict(pruned)} | {
        name: dict(pruned) | {OUT_PROJ: weight_mi.to(pruned[OUT_PROJ])}
        for name, weight_mi in out_proj_candidates(backbone.layer(i, pruned), fitted, held)
    }
    scores = _judge(backbone, held, i, mixers)
    if local:
        start = mixers[min(scores, key=scores.__getitem__)]
        mixers[LOCAL] = _as_stored(descend(backbone.layer(i, start), fitted, held, seed), pruned)
        scores |= _judge(backbone, held, i, {LOCAL: mixers[LOCAL]})
    chosen = min(scores, key=scores.__getitem__)
    return Recovered(mixers[chosen], chosen, scores)


def _judge(backbone: Backbone, held: Pairs, i: int, mixers: dict[str, dict[str, Tensor]]) -> dict[str, float]:
    layers = [backbone.layer(i, mixer) for mixer in mixers.values()]
    return dict(zip(mixers, nlls(held, i, layers), strict=True))


def _as_stored(layer: Layer, like: Weights) -> dict[str, Tensor]:
    return {name: tensor.to(like[name]) for name, tensor in layer.mixer.items()}
