"""ghost as a library. `import ghost` gives the names in `ghost.__all__`, and loads this when one is first asked for."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, TypedDict, Unpack

from torch import Tensor

from ghost.calibration.tokens import digest
from ghost.errors import SettingsError
from ghost.evaluation.perplexity import Perplexity
from ghost.evaluation.perplexity import perplexity as perplexity_of
from ghost.export import KEPT, kept_channels
from ghost.library.build import build
from ghost.library.files import companions, generation_config
from ghost.library.inputs import (
    Model,
    Texts,
    Tokenizer,
    calibration_windows,
    evaluation_tokens,
    find_tokenizer,
    home_device,
    name_of,
    open_model,
    open_stack,
)
from ghost.library.pruned import Pruned
from ghost.out_of_memory import out_of_memory_in_one_line
from ghost.pruning import Pruning
from ghost.saliency import METHODS, form_of
from ghost.settings import RunSettings
from ghost.stack import Stack
from ghost.walk import LayerResult, check_source, walk


class PruneOptions(TypedDict, total=False):
    """The settings of `ghost run` that mean something in memory; `RunSettings` documents each, and its default."""

    samples: int
    length: int
    keep: int | None
    energy: float | None
    policy: Literal["balanced", "pooled"]
    round_to: int
    soft: bool
    sequential: bool
    recovery: Literal["none", "lstsq", "fit", "local"]
    device: str
    dtype: Literal["auto", "float32", "bfloat16"]
    batch_tokens: int | None
    seed: int


@out_of_memory_in_one_line("a smaller batch_tokens, samples or length, or dtype='bfloat16'")
def prune(
    model: Model,
    *,
    sparsity: float = 0.5,
    calibration: Texts = "stdlib",
    method: str = "ghost",
    tokenizer: Tokenizer | None = None,
    progress: Callable[[LayerResult], None] | None = None,
    **options: Unpack[PruneOptions],
) -> Pruned:
    """Prune the recurrent state of a Mamba2 language model; the model that is given stays as it is.

    `calibration` is texts, a corpus as for `ghost run` (`stdlib`, a path, `hf:...`), or token ids (samples, length),
    all of which are used. Texts need a tokenizer, unless the model is a folder that has one. `progress` is called
    with each layer's result. The same tokens and settings give the same bits as `ghost run`. Raises GhostError, in
    one line with the remedy, for anything that a caller can mend.
    """
    settings = _settings({"sparsity": sparsity, "method": method, **options})
    source = open_model(model)
    check_source(source, settings)
    settings = settings.resolved(source.mixer_layout.d_state)
    found = find_tokenizer(tokenizer, source, calibration)
    tokens_bl = calibration_windows(calibration, found, source, settings)
    stack = open_stack(model, source, settings)
    layers = []
    for result in walk(stack, tokens_bl, settings):
        layers.append(result)
        if progress:
            progress(result)
    form = form_of(method, soft=settings.soft)
    smaller = build(source, layers, form, settings.round_to, home_device(model))
    smaller.generation_config = generation_config(model, source) or smaller.generation_config
    beside = companions(source, None if tokenizer is None else found)
    provenance = _provenance(name_of(model), stack, tokens_bl, settings, layers)
    return Pruned(smaller, tuple(layers), found, provenance, beside)


@out_of_memory_in_one_line("a smaller batch_tokens or window, or dtype='bfloat16'")
def perplexity(
    model: Model,
    texts: Texts,
    *,
    tokenizer: Tokenizer | None = None,
    window: int = 2048,
    device: str = "auto",
    dtype: Literal["auto", "float32", "bfloat16"] = "auto",
    batch_tokens: int | None = None,
) -> Perplexity:
    """Perplexity of a model on texts, a corpus, or token ids (length,), by the protocol of `ghost run`.

    Windows of `window` tokens, which don't overlap. Raises GhostError as `prune` does.
    """
    settings = RunSettings.make(window=window, device=device, dtype=dtype, batch_tokens=batch_tokens)
    source = open_model(model)
    tokens = evaluation_tokens(texts, find_tokenizer(tokenizer, source, texts), source)
    return perplexity_of(open_stack(model, source, settings), tokens, settings.window)


def methods() -> tuple[str, ...]:
    """The names of the methods that rank state channels."""
    return tuple(METHODS)


def _settings(given: dict[str, Any]) -> RunSettings:
    known = {"sparsity", "method", *PruneOptions.__annotations__}
    for name in given.keys() - known:
        raise SettingsError(f"{name}={given[name]!r} is no option of prune; choose from {', '.join(sorted(known))}")
    return RunSettings.make(**given)


def _provenance(
    name: str, stack: Stack, tokens_bl: Tensor, settings: RunSettings, layers: Sequence[LayerResult]
) -> dict[str, Any]:
    """The content of ghost.json, in the form that `ghost verify` reads."""
    computed = {"device": stack.device.type, "dtype": str(stack.dtype).removeprefix("torch.")}
    computed |= {"batch_tokens": stack.batch_tokens}
    inputs = {"checkpoint": stack.checkpoint.digest, "calibration": digest(tokens_bl)}
    determinants = inputs | settings.part(Pruning).digested() | computed
    kept = kept_channels(stack.layers, {result.layer: result.selection for result in layers})
    made = {"model": name, "determinants": determinants, "soft": settings.soft}
    return {"ghost": made, KEPT: kept}
