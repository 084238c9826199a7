"""Recovery of one layer: candidates, judged on held-back text as they would be stored."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from ghost.decoder_layer import DecoderLayer
from ghost.mixer import Weights
from ghost.recovery.constant import with_constant
from ghost.recovery.fit import fit
from ghost.recovery.judge import Judge
from ghost.recovery.local import descend
from ghost.recovery.pairs import Pairs
from ghost.recovery.ridge import OUT_PROJ, out_proj_candidates
from ghost.stream import Stream

NONE, CONSTANT, FIT, LOCAL = "none", "constant", "fit", "local"


@dataclass(frozen=True, eq=False)
class Recovered:
    """A pruned mixer after recovery, in the dtypes and on the device that it came in.

    `kl` has KL(dense || pruned) in nats a token on held-back windows for every candidate by name, the mere slice as
    `none`; `chosen` is the one that did best, and `none` where nothing helped.
    """

    mixer: dict[str, Tensor]
    chosen: str
    kl: dict[str, float]

    def summary(self) -> str:
        """One line for logs and metadata."""
        return f"{self.chosen}, held-back KL {self.kl[self.chosen]:.4f} against {self.kl[NONE]:.4f} without"


def recover(pairs: Pairs, judge: Judge, i: int, stream: Stream, pruned: Weights, *, level: str, seed: int) -> Recovered:
    """Layer i's pruned mixer, brought closer to the dense one where that helps on held-back windows; `stream` is the
    pruned path at its entry.

    `fit` tries what makes B and C; the other levels a constant channel in place of the weakest, and from there out_proj
    by ridge regression; `local` then Adam steps on all tensors from the best so far. Of a team, rank 0 takes all of
    Adam's steps.
    """
    team, dense = pairs.team, pairs.stack.layer(i)

    def placed(mixer: Weights) -> DecoderLayer:
        return dense.with_mixer(pairs.stack.place_mixer(mixer))

    def judged(mixers: Mapping[str, Weights]) -> dict[str, float]:
        found = judge.divergences(i, stream, [placed(mixer) for mixer in mixers.values()])
        return dict(zip(mixers, found, strict=True))

    mixers = {NONE: dict(pruned)}
    if level == FIT:
        # what is not fitted stays as it is
        unrounded = dense.with_mixer({name: t.to(pairs.stack.device) for name, t in pruned.items()})
        every = pairs.gathered().split()
        mixers[FIT] = team.lead(lambda: _as_stored(fit(unrounded, dense, *every, seed), pruned))
    else:
        fitted, held = pairs.split()
        if constant := with_constant(pruned, dense, fitted):
            mixers[CONSTANT] = constant
        start = constant or dict(pruned)
        mixers |= {
            name: start | {OUT_PROJ: weight_mi.to(pruned[OUT_PROJ])}
            for name, weight_mi in out_proj_candidates(placed(start), fitted, held)
        }
    scores = judged(mixers)
    if level == LOCAL:
        start, every = mixers[min(scores, key=scores.__getitem__)], pairs.gathered().split()
        mixers[LOCAL] = team.lead(lambda: _as_stored(descend(placed(start), *every, seed), pruned))
        scores |= judged({LOCAL: mixers[LOCAL]})
    chosen = min(scores, key=scores.__getitem__)
    return Recovered(mixers[chosen], chosen, scores)


def _as_stored(layer: DecoderLayer, like: Weights) -> dict[str, Tensor]:
    return {name: tensor.to(like[name]) for name, tensor in layer.mixer.items()}
