"""Numbers and settings in words, the same on the summary page and in the model card."""

from collections.abc import Mapping
from typing import Any

from ghost.report.methods import UNSTRUCTURED, WHOLE_LAYERS, fate

RECOVERY = {
    "none": "none",
    "lstsq": "lstsq: out_proj fitted to the dense layer's output by ridge regression",
    "fit": "fit: B and C fitted to the dense layer's output by gradient steps, then ridge regression",
    "local": "local: ridge regression, then some gradient steps on each layer alone",
}


NOT_FINITE = "not finite"
"""In place of a figure that is null: infinite, or no number at all."""


def in_form(value: float | None, form: str) -> str:
    """The value in this form of str.format; in words where it is null."""
    return NOT_FINITE if value is None else form.format(value)


def perplexity(value: float | None) -> str:
    """Two decimals, or three digits and an exponent where a model fell apart; in words where it is null."""
    return in_form(value, "{:,.2f}" if value is None or value < 1e5 else "{:.2e}")


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
    method = summary["method"]
    if method in UNSTRUCTURED:
        return f"{percent(summary['sparsity'])} of the weights of B and C zeroed with {method}"
    if method in WHOLE_LAYERS:
        return f"{pruned_share(summary)} of the recurrent state silenced by whole layers with {method}"
    return f"{pruned_share(summary)} of the recurrent state pruned with {method}"


def asked(summary: Mapping[str, Any]) -> str:
    """The sparsity that was asked for, or the energy to keep where that decided."""
    energy = summary.get("energy")
    return percent(summary["sparsity"]) if energy is None else f"{percent(energy)} of the energy"


def rise(pair: Mapping[str, float | None]) -> float | None:
    """Relative change from dense to pruned, as a share; None where either is null, or the dense one 0."""
    dense, pruned = pair["dense"], pair["pruned"]
    return pruned / dense - 1 if dense and pruned is not None else None


def change(pair: Mapping[str, float | None]) -> str:
    """The same in words, signed."""
    unchanged = pair["dense"] == pair["pruned"] is not None
    return "unchanged" if unchanged else signed_percent(rise(pair))


def signed_percent(share: float | None, digits: int = 2) -> str:
    """`+1.20%`, `−50.00%`; in words where it is null."""
    return in_form(None if share is None else share * 100, f"{{:+,.{digits}f}}%").replace("-", "−")


def plural(count: int, noun: str) -> str:
    """`1 layer`, `24 layers`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def setting_rows(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Name and value of everything that determined the run, in the order to show it."""
    calibration, evaluation = summary["calibration"], summary["evaluation"]
    return [
        ("Model", summary["model"]),
        ("Method", summary["method"]),
        ("Sparsity" if summary.get("energy") is None else "Kept", asked(summary)),
        ("Policy", summary["policy"]),
        ("Pruning", fate(summary)),
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
