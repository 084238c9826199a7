"""How each transformers family spells Mamba2: the one place in ghost that knows which family a model is of."""

import math
from collections import Counter
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NoReturn

from ghost.checkpoint.companions import CONFIG
from ghost.checkpoint.fields import amount, check_unknown, count, factors, flag, interval, with_infinity
from ghost.checkpoint.limits import check_counts
from ghost.checkpoint.native import is_native, to_transformers
from ghost.checkpoint.others import what_it_has
from ghost.checkpoint.tensors import AGAIN
from ghost.errors import CheckpointError
from ghost.mixer import BIASES, MixerLayout

PROJECTED = "ghost_mamba2"
"""ghost's own: mamba2 with a projected state, in ghost/modeling."""
Config = Any
"""A transformers config object; only attribute access is used."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """One row of the table."""

    model_type: str
    mixer_paths: tuple[str, ...]
    """Where a decoder layer may have its mixer. Layers of another kind may have a module of that name."""
    names: Mapping[str, str]
    """MixerLayout's fields that are fields of the config too, by the config's names."""
    derived: Callable[[Config], dict[str, Any]]
    """MixerLayout's fields that take more than a name."""
    inner_width: Callable[[Config], tuple[str, ...]]
    """Fields whose product must be nheads * headdim; none where the family makes d_inner of the heads."""
    biases: Mapping[str, str | None]
    """Bias tensors by the field that says whether they are there; None where they always are."""
    activation_field: str | None
    """Activation after the convolution; None where the family fixes it to SiLU."""
    layers_give_tuples: bool = False
    """A decoder layer returns the stream in a tuple."""
    projects: bool = False
    """ghost/modeling has the classes that run its mixers with B and C projected."""

    @property
    def state_size_field(self) -> str:
        """The config field that holds d_state: where an exporter writes the new size."""
        return self.names["d_state"]


def _clamped(config: Config) -> dict[str, Any]:
    limit = config.time_step_limit
    return {"dt_limit": (0.0, math.inf) if limit is None else interval("time_step_limit", limit)}


def _clamped_below(config: Config) -> dict[str, Any]:
    """zamba2 and nemotron_h take time_step_min for the limit, whatever time_step_limit says."""
    return {"dt_limit": (amount("time_step_min", config.time_step_min), math.inf)}


def _zamba2(config: Config) -> dict[str, Any]:
    return {"norm_eps": 1e-5, **_clamped_below(config)}


def _falcon_h1(config: Config) -> dict[str, Any]:
    normed = "norm-then-gate" if flag("mamba_norm_before_gate", config.mamba_norm_before_gate) else "gate-then-norm"
    return {
        "gating": normed if flag("mamba_rms_norm", config.mamba_rms_norm) else "gate",
        "multipliers": factors("ssm_multipliers", config.ssm_multipliers, 5),
        "in_multiplier": factors("ssm_in_multiplier", [config.ssm_in_multiplier], 1)[0],
        **_clamped(config),
    }


def _biases(in_proj: str, conv1d: str | None, out_proj: str) -> dict[str, str | None]:
    return dict(zip(BIASES, (in_proj, conv1d, out_proj), strict=True))


_MAMBA2 = {"d_model": "hidden_size", "nheads": "num_heads", "headdim": "head_dim", "n_groups": "n_groups",
           "d_state": "state_size", "d_conv": "conv_kernel", "norm_eps": "layer_norm_epsilon"}  # fmt: skip
_BAMBA = {"d_model": "hidden_size", "nheads": "mamba_n_heads", "headdim": "mamba_d_head", "n_groups": "mamba_n_groups",
          "d_state": "mamba_d_state", "d_conv": "mamba_d_conv", "norm_eps": "rms_norm_eps"}  # fmt: skip
_ZAMBA2 = _BAMBA | {"nheads": "n_mamba_heads", "headdim": "mamba_headdim", "n_groups": "mamba_ngroups"}
_NEMOTRON_H = _MAMBA2 | {"nheads": "mamba_num_heads", "headdim": "mamba_head_dim", "d_state": "ssm_state_size"}

_EXPANDED = ("mamba_expand", "hidden_size")
_USED = _biases("use_bias", "use_conv_bias", "use_bias")
_MAMBA = _biases("mamba_proj_bias", "mamba_conv_bias", "mamba_proj_bias")
_ROWS = (
    Family(model_type="mamba2", mixer_paths=("mixer",), names=_MAMBA2, derived=_clamped,
           inner_width=lambda config: ("expand", "hidden_size"), biases=_USED, activation_field="hidden_act",
           projects=True),
    Family(model_type="zamba2", mixer_paths=("mamba", "mamba_decoder.mamba"),
           names=_ZAMBA2, derived=_zamba2, inner_width=lambda config: _EXPANDED,
           biases=_biases("add_bias_linear", None, "add_bias_linear"), activation_field=None),
    Family(model_type="bamba", mixer_paths=("mamba",), names=_BAMBA, derived=_clamped,
           inner_width=lambda config: _EXPANDED, biases=_MAMBA, activation_field="hidden_act",
           layers_give_tuples=True),
    Family(model_type="falcon_h1", mixer_paths=("mamba",), names=_BAMBA, derived=_falcon_h1,
           inner_width=lambda config: _EXPANDED if config.mamba_d_ssm is None else ("mamba_d_ssm",),
           biases=_biases("mamba_proj_bias", "mamba_conv_bias", "projectors_bias"), activation_field="hidden_act",
           layers_give_tuples=True),
    Family(model_type="granitemoehybrid", mixer_paths=("mamba",), names=_BAMBA, derived=_clamped,
           inner_width=lambda config: _EXPANDED, biases=_MAMBA, activation_field="hidden_act"),
    Family(model_type="nemotron_h", mixer_paths=("mixer",), names=_NEMOTRON_H, derived=_clamped_below,
           inner_width=lambda config: (), biases=_USED,
           activation_field="mamba_hidden_act"),
    Family(model_type=PROJECTED, mixer_paths=("mixer",),
           names=_MAMBA2 | {"projected_from": "projected_from"}, derived=_clamped,
           inner_width=lambda config: ("expand", "hidden_size"), biases=_USED, activation_field="hidden_act"),
)  # fmt: skip
FAMILIES = {row.model_type: row for row in _ROWS}
PRUNED = tuple(name for name in FAMILIES if name != PROJECTED)
"""Families whose models can be pruned."""
KINDS = {"linear_attention": "Mamba2", "hybrid": "Mamba2 with attention", "full_attention": "attention", "mlp": "MLP",
         "moe": "experts"}  # fmt: skip
"""What transformers' words for decoder layers mean in these families."""


def refuse(model_type: object, raw: Mapping[str, object] = MappingProxyType({})) -> NoReturn:
    """Raise CheckpointError for a model_type that has no Mamba2 mixer, with what it has; `raw` is its config.json."""
    has = what_it_has(model_type, raw)
    raise CheckpointError(f"model_type {model_type!r} {has}; ghost needs Mamba2, so give one of: {', '.join(PRUNED)}")


def whole_config(raw: dict[str, Any], where: str = CONFIG) -> Config:
    """transformers' object of a config.json, native or transformers' own, of a model that ghost takes as a whole:
    defaults filled in, layers counted. No code of a model is run. CheckpointError for any other."""
    check_counts(raw)
    check_unknown(raw)
    model_type = raw.get("model_type")
    if not is_native(raw) and (not isinstance(model_type, str) or model_type not in FAMILIES):
        refuse(model_type, raw)
    try:
        config = to_transformers(raw) if is_native(raw) else _transformers_object(raw)
    except CheckpointError:
        raise
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise CheckpointError(f"{where} is not a valid {model_type or 'Mamba2'} config ({reason}); {AGAIN}") from None
    check_mixers(config, where)
    return config


def _transformers_object(raw: dict[str, Any]) -> Config:
    from transformers import CONFIG_MAPPING

    if raw["model_type"] == PROJECTED:
        import ghost.modeling  # noqa: F401  registers it
    return CONFIG_MAPPING[raw["model_type"]].from_dict(with_infinity(raw))


def layer_kinds(config: Config) -> dict[str, int]:
    """How many decoder layers there are of each kind, most first."""
    kinds = Counter(KINDS.get(str(kind), str(kind)) for kind in config.layer_types)
    return dict(kinds.most_common())


def check_mixers(config: Config, where: object) -> None:
    """CheckpointError where a hybrid's layers are all of another kind."""
    kinds = layer_kinds(config)
    if kinds and not any(kind.startswith("Mamba2") for kind in kinds):
        found = ", ".join(f"{number} {kind}" for kind, number in kinds.items())
        raise CheckpointError(
            f"{where}: model_type {config.model_type!r} may have Mamba2 mixers, but none of these "
            f"{sum(kinds.values())} layers does: {found}; give a model with one"
        )


def family_of(config: Config) -> Family:
    """The row of a config's family; CheckpointError where ghost knows none."""
    return FAMILIES.get(config.model_type) or refuse(config.model_type)


def mixer_layout(config: Config) -> MixerLayout:
    """The layout that all Mamba2 mixers of the model have; CheckpointError where a value is none that its field can
    have, or the config contradicts itself."""
    family = family_of(config)
    named = {ours: _read(ours, theirs, getattr(config, theirs)) for ours, theirs in family.names.items()}
    _check(family, config)
    biases = frozenset(name for name, field in family.biases.items() if _has_bias(config, field))
    return MixerLayout(biases=biases, **named | family.derived(config))


def _read(ours: str, theirs: str, value: object) -> Any:
    return amount(theirs, value) if ours == "norm_eps" else count(theirs, value)


def _has_bias(config: Config, field: str | None) -> bool:
    return field is None or flag(field, getattr(config, field))


def check_biases(config: Config, names: Container[str], where: str) -> None:
    """CheckpointError where a mixer's tensors `names` have a bias that the config denies, or lack one that it asks
    for."""
    for name, field in family_of(config).biases.items():
        if field is not None and (wanted := _has_bias(config, field)) != (name in names):
            found = "missing" if wanted else "there"
            raise CheckpointError(
                f"{where}: {field} is {str(wanted).lower()} in config.json, but tensor {name} is {found}; check that "
                "config and weights belong together"
            )


def _check(family: Family, config: Config) -> None:
    expected, heads = family.inner_width(config), (family.names["nheads"], family.names["headdim"])
    if expected and _product(config, expected) != _product(config, heads):
        raise CheckpointError(
            f"{' * '.join(expected)} is {_product(config, expected)}, but {' * '.join(heads)} is "
            f"{_product(config, heads)}; both are the mixer's inner width, mend config.json"
        )
    activation = getattr(config, family.activation_field) if family.activation_field else "silu"
    if activation not in ("silu", "swish"):
        raise CheckpointError(
            f"{family.activation_field} is {activation!r}; ghost knows Mamba2 with 'silu' only, give such a model"
        )


def _product(config: Config, fields: tuple[str, ...]) -> int:
    return int(math.prod(count(field, getattr(config, field)) for field in fields))
