"""What a run prunes by."""

import math
from typing import Any, Literal, Self

import torch
from pydantic import Field, field_validator, model_validator

from ghost.config import Settings
from ghost.errors import SettingsError
from ghost.mixer import MixerLayout
from ghost.saliency import METHODS, check_pruning, form_of, methods_in_words
from ghost.selection import Selection, check_kept, kept_count


class Pruning(Settings):
    """Pruning: how much of the state goes, and what chooses it."""

    sparsity: float = Field(default=0.5, json_schema_extra={"exclusiveMinimum": 0, "exclusiveMaximum": 1})
    """Share of the state channels to drop, between 0 and 1."""
    keep: int | None = Field(default=None, ge=1, lt=2**31)
    """In place of sparsity: state channels to keep in each group, such as 96, 64, 32 or 16, exactly so many whatever
    round_to says. docs/fits.md says what speaks for each."""
    energy: float | None = Field(default=None, gt=0, lt=1)
    """For balanced, in place of sparsity: keep as few directions as carry this share of every layer's squared Hankel
    singular values on the dense model, such as 0.999."""
    method: str = Field(
        default="ghost",
        description=f"What chooses what goes: {methods_in_words()}. docs/methods.md says what each one is.",
        json_schema_extra={"enum": [*METHODS]},
    )
    policy: Literal["balanced", "pooled"] = "balanced"
    """`balanced` keeps as many channels in every group; `pooled` ranks a layer's groups together, as the paper does."""
    round_to: int = Field(default=16, ge=1)
    """Kept channels are rounded to a multiple of this; kernels like 8 and more."""
    soft: bool = False
    """Zero the dropped channels instead of cutting them out: same size, for comparisons."""
    sequential: bool = True
    """Score each layer on activations that went through the pruned layers before it; otherwise on the dense model."""
    recovery: Literal["none", "lstsq", "fit", "local"] = "none"
    """Correct each pruned layer towards the dense one's output: `lstsq` has the weakest channel say what the dropped
    ones said on average, and fits out_proj by ridge regression (no gradients), `fit` fits what makes B and C by Adam,
    `local` takes some Adam steps on all of the layer's own tensors after lstsq."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision to compute in: auto takes float32 on a CPU and bfloat16 on a GPU. Statistics are float64 anyway."""
    batch_tokens: int | None = Field(default=None, ge=1, lt=2**31)
    """Tokens that are computed at once, which memory follows; longer windows go in pieces. Without it 2048 on a CPU,
    and on a GPU what a 128th of its memory holds. Another number rounds in its own way."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Seed of the calibration sample and of the method `random`."""

    @field_validator("sparsity")
    @classmethod
    def _open_interval(cls, sparsity: float) -> float:
        if not 0 < sparsity < 1:
            raise ValueError(f"{sparsity} is outside (0, 1); give the share of channels to drop, such as 0.5")
        return sparsity

    @model_validator(mode="after")
    def _goes_with_its_method(self) -> Self:
        check_pruning(self)
        if self.keep is not None and self.sparsity != type(self).model_fields["sparsity"].default:
            raise SettingsError(both(self.keep, "sparsity", self.sparsity))
        if self.keep is not None and self.energy is not None:
            raise SettingsError(both(self.keep, "energy", self.energy))
        return self

    def resolved(self, d_state: int) -> Self:
        """The same of a model with so many channels, with sparsity and round_to in place of `keep`. SettingsError where
        it can't keep that many, or drops none."""
        if self.keep is None:
            return self
        check_kept(self.keep, d_state)
        exact = {"sparsity": (d_state - self.keep) / d_state, "round_to": math.gcd(self.keep, self.round_to)}
        return self.model_copy(update=exact | {"keep": None})

    def layout(self, dense: MixerLayout) -> MixerLayout | None:
        """What becomes of mixers of this layout; None where the walk has to find that out, by energy or pooled."""
        if self.energy is not None or self.policy == "pooled":
            return None
        kept = kept_count(dense.d_state, self.sparsity, self.round_to)
        kept_gn = torch.arange(dense.d_state).expand(dense.n_groups, -1) < kept
        form = form_of(self.method, soft=self.soft)
        return form.layout(dense, [Selection(kept_gn.double(), kept_gn)], self.round_to)

    def digested(self) -> dict[str, Any]:
        """As every part, without `keep`: what is digested is resolved, so that both ways to say it have one digest."""
        assert self.keep is None
        return {name: value for name, value in super().digested().items() if name != "keep"}


def both(keep: int, name: str, value: float) -> str:
    """What is wrong with `keep` beside another setting that says how much goes."""
    return f"keep: {keep} and {name} {value:g} both say how much goes; give one of them"
