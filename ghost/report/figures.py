"""Numbers and settings in words, the same on the summary page and in the model card."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

from ghost.report.run_form import form_of_run
from ghost.significance import ERRORS, is_noise

RECOVERY = {
    "none": "none",
    "lstsq": "lstsq: out_proj fitted to the dense layer's output by ridge regression, after a channel made constant",
    "fit": "fit: B and C fitted to the dense layer by gradient steps",
    "local": "local: a constant channel and ridge regression, then some gradient steps on each layer alone",
}


NOT_FINITE = "not finite"
"""What stands for a figure that came out infinite or as no number; such a figure is None."""
NO_DIFFERENCE = "no difference beyond noise"
NOISE = "noise"
"""The same in a table's cell, beside the figure and its error."""
NOISE_NOTE = f"{NOISE}: {NO_DIFFERENCE}, that is less than {ERRORS:g} standard errors."


@dataclass(frozen=True, kw_only=True)
class Tile:
    """A headline figure in words: dense before, pruned after."""

    label: str
    before: str
    after: str
    detail: str


def is_finite(value: float | None) -> TypeGuard[float]:
    """Whether a figure came out as a number."""
    return value is not None and math.isfinite(value)


def in_form(value: float | None, form: str) -> str:
    """The value in this form of str.format, or that it is not finite."""
    return form.format(value) if is_finite(value) else NOT_FINITE


def perplexity(value: float | None) -> str:
    """Two decimals, or three digits and an exponent where a model fell apart."""
    return in_form(value, "{:.2e}" if value is not None and value >= 1e5 else "{:,.2f}")


def megabytes(size: int) -> str:
    """Bytes as megabytes of 10^6, without the unit."""
    value = size / 1e6
    return f"{value:,.2f}" if value >= 1 else f"{value:.3g}"


def millions(count: int) -> str:
    """A count with the unit that leaves one to three digits before the point."""
    for unit, size in (("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if count >= size:
            return f"{count / size:.2f} {unit}"
    return str(count)


def percent(share: float) -> str:
    """A share as a percentage of up to four digits, without trailing zeros."""
    return f"{share * 100:.4g}%"


def pruned_share(summary: Mapping[str, Any]) -> str:
    """Share of the channels that went. Rounding makes it differ from the sparsity that was asked for."""
    return percent(1 - summary["kept_channels"] / summary["channels"])


def what_went(summary: Mapping[str, Any]) -> str:
    """What the method took from the model: `50% of the recurrent state pruned with ghost`."""
    return f"{filled(form_of_run(summary).words.went, summary)} with {summary['method']}"


def filled(words: str, summary: Mapping[str, Any], **more: str) -> str:
    """A form's words with the run's figures in place of the braces."""
    shares = {"pruned": pruned_share(summary), "sparsity": percent(summary["sparsity"])}
    return words.format(method=summary["method"], **shares, **more)


def asked(summary: Mapping[str, Any]) -> str:
    """The sparsity that was asked for, or the energy to keep where that decided."""
    energy = summary.get("energy")
    return percent(summary["sparsity"]) if energy is None else f"{percent(energy)} of the energy"


def rise(pair: Mapping[str, float | None]) -> float | None:
    """Relative change from dense to pruned, as a share; None where either is not finite, or the dense one 0."""
    dense, pruned = pair["dense"], pair["pruned"]
    return pruned / dense - 1 if dense and is_finite(dense) and is_finite(pruned) else None


def change(pair: Mapping[str, float | None]) -> str:
    """The same in words, signed."""
    share = rise(pair)
    return "unchanged" if share == 0 else signed_percent(share)


def with_noise(value: float | None, error: float | None, form: str) -> str:
    """A change in this form with its standard error, and the word for it where that may as well be all that it is:
    `+7.2% ± 0.2%`, `+0.1% ± 0.2%, noise`."""
    text = in_form(value, form)
    if not is_finite(value) or error is None:
        return text
    noise = f", {NOISE}" if is_noise(value, error) else ""
    return f"{text} ± {_error(error, form)}{noise}"


def _error(error: float, form: str) -> str:
    """In the form of its figure, or to one digit where that shows none."""
    text = form.replace("+", "").format(error)
    if error and not text.strip("0.%"):
        return f"{100 * error:.1g}%" if "%" in form else f"{error:.1g}"
    return text


def noted(cells: Iterable[str]) -> str:
    """What the word for noise means, where one of the cells has it; otherwise nothing."""
    return NOISE_NOTE if any(cell.endswith(f", {NOISE}") for cell in cells) else ""


def percent_change(share: float | None, error: float | None, digits: int = 2) -> str:
    """As `with_noise`, with a true minus."""
    return with_noise(share, error, f"{{:+,.{digits}%}}").replace("-", "−")


def error_of_rise(summary: Mapping[str, Any]) -> float | None:
    """Standard error of the rise of perplexity, as a share of the dense model's; None where it is not known, as of runs
    before it was measured."""
    share, error = rise(summary["perplexity"]), summary.get("nll_change_stderr")
    return None if share is None or error is None else (1 + share) * error


def change_of_perplexity(summary: Mapping[str, Any]) -> str:
    """The rise in words with its standard error: `+7.19% ± 0.21%`."""
    share = rise(summary["perplexity"])
    return "unchanged" if share == 0 else percent_change(share, error_of_rise(summary))


def rise_of_perplexity(summary: Mapping[str, Any]) -> str:
    """`+1.2% perplexity`, `perplexity not finite`."""
    share = rise(summary["perplexity"])
    return f"perplexity {NOT_FINITE}" if share is None else f"{signed_percent(share, 1)} perplexity"


def signed_percent(share: float | None, digits: int = 2) -> str:
    """`+1.20%`, `−50.00%`."""
    return percent_change(share, None, digits)


def task_change(score: Mapping[str, Any]) -> str:
    """What a task's metric changed by, with its standard error over the documents where that is known: in the metric's
    own unit where it should be high, as a share of the dense value otherwise."""
    dense, pruned = score["value"]["dense"], score["value"]["pruned"]
    if not is_finite(dense) or not is_finite(pruned):
        return NOT_FINITE
    if score["higher_is_better"]:
        return with_noise(pruned - dense, score.get("loss_stderr"), "{:+.3f}")
    return with_noise((pruned - dense) / abs(dense), score.get("loss_stderr"), "{:+.1%}") if dense else "–"


def with_error(value: float | None, error: float | None) -> str:
    """Four digits, and the standard error where there is one: `0.61 ± 0.01`."""
    return in_form(value, "{:.4g}") + ("" if error is None else f" ± {error:.2g}")


def signed(value: float | None, form: str = ".2f") -> str:
    """A correlation, with a true minus; `not defined` without one."""
    return "not defined" if value is None else f"{value:{form}}".replace("-", "−")


def plural(count: int, noun: str) -> str:
    """`1 layer`, `24 layers`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def layers_with_state(summary: Mapping[str, Any]) -> str:
    """`24 Mamba2 layers`, or `24 of 52 layers have a Mamba2 state`."""
    mixers, every = summary["layers"], summary.get("decoder_layers", summary["layers"])
    return plural(mixers, "Mamba2 layer") if mixers == every else f"{mixers} of {every} layers have a Mamba2 state"


def has_attention(summary: Mapping[str, Any]) -> bool:
    """Some layers keep a cache of the text beside, or in place of, a recurrent state."""
    return any("attention" in kind for kind in summary.get("layer_kinds", ()))


def _kinds(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Of a hybrid."""
    kinds = summary.get("layer_kinds", {})
    return [("Layers", ", ".join(f"{count} {kind}" for kind, count in kinds.items()))] if {*kinds} - {"Mamba2"} else []


def setting_rows(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Name and value of everything that determined the run, in the order to show it."""
    calibration, evaluation = summary["calibration"], summary["evaluation"]
    return [
        ("Model", summary["model"]),
        *_kinds(summary),
        ("Method", summary["method"]),
        ("Sparsity" if summary.get("energy") is None else "Kept", asked(summary)),
        ("Policy", summary["policy"]),
        ("Pruning", form_of_run(summary).words.pruning),
        ("Order", "sequential" if summary["sequential"] else "one-shot: every layer scored on the dense model"),
        ("Recovery", RECOVERY[summary.get("recovery", "none")]),
        ("Calibration text", calibration["corpus"]),
        (
            "Calibration windows",
            f"{calibration['samples']:,} × {plural(calibration['length'], 'token')}, seed {calibration['seed']}",
        ),
        ("Evaluation text", evaluation["corpus"]),
        ("Evaluation windows", f"{evaluation['window']:,} tokens each, {evaluation['tokens']:,} tokens scored"),
        ("Evaluation protocol", evaluation["protocol"]),
        ("Run", summary["run_id"]),
    ]
