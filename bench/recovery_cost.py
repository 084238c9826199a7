"""What recovery costs beside the plain walk, phase by phase, and what it would on a real model.

ghost bench recovery-cost
"""

import importlib
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from bench.random_checkpoint import write_random
from ghost.checkpoint.source import open_checkpoint
from ghost.recovery import fit, judge, pairs, ridge
from ghost.settings import RunSettings
from ghost.stack import Stack
from ghost.walk import walk

LAYERS, SAMPLES, LENGTH = 6, 8, 256
STEPS = 4
"""Of the fit's, that are taken and timed; all of them cost the same."""
REAL_LAYERS, REAL_TOKENS = 48, 128 * 2048
PHASES = ("constant", "windows", "step", "error", "sums", "ridge", "judge", "head")
Seconds = dict[str, float]


def run(device: str) -> dict[str, Any]:
    """mamba2-130m's shape with 6 layers, 8 x 256 tokens, fp32, half of the state.

    `seconds` (of the processor, on a CPU) are measured, but for the fit's steps, of which a few are; `layers read`
    counts how often a layer's weights are asked for; the rest is reckoned by `at_size`.
    """
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = open_checkpoint(write_random(Path(folder), "130m", LAYERS))
        stack = Stack(checkpoint, torch.device(device), torch.float32)
        tokens_bl = torch.randint(50000, (SAMPLES, LENGTH), generator=torch.Generator().manual_seed(0))
        list(walk(stack, tokens_bl, RunSettings(sparsity=0.5)))  # to warm up
        measured = {level: _measured(stack, tokens_bl, level) for level in ("none", "lstsq", "fit")}
    plain = measured["none"][0]["all"]
    figures: dict[str, Any] = {}
    for level, (clock, reads) in measured.items():
        here = at_size(level, clock, plain, LAYERS, SAMPLES * LENGTH)
        there = at_size(level, clock, plain, REAL_LAYERS, REAL_TOKENS)
        figures[level] = {
            "seconds": here,
            "of the walk": sum(here.values()) / plain,
            "layers read": reads,
            f"{REAL_LAYERS} layers, {REAL_TOKENS} tokens": there | {"of the walk": sum(there.values()) / there["walk"]},
        }
    return figures


def _measured(stack: Stack, tokens_bl: torch.Tensor, level: str) -> tuple[Seconds, int]:
    """Seconds by phase, and `all`; and how many layers were read."""
    clock: Seconds = dict.fromkeys(PHASES, 0.0)
    reads = Counter[str]()
    with _clocked(clock), _counted(stack, reads):
        started = _now()
        list(walk(stack, tokens_bl, RunSettings.make(sparsity=0.5, recovery=level)))
        clock["all"] = _now() - started
    return clock, reads["layers"]


@contextmanager
def _clocked(clock: Seconds) -> Iterator[None]:
    """Adds up the seconds of recovery's phases; the judge's without its head. The fit takes STEPS steps, and two
    checks."""
    recover = importlib.import_module("ghost.recovery.recover")
    phases = [
        (recover, "with_constant", "constant"),
        (fit, "windows", "windows"), (fit, "_step", "step"), (fit, "_error", "error"),
        (ridge, "sums", "sums"), (recover, "out_proj_candidates", "ridge"),
        (judge.Judge, "divergences", "judge"), (judge, "summed_kl", "head"),
    ]  # fmt: skip
    with ExitStack() as patches:
        for module, function, phase in phases:
            patches.enter_context(patch.object(module, function, _timing(getattr(module, function), phase, clock)))
        for name in ("STEPS", "CHECK_EVERY"):
            patches.enter_context(patch.object(fit, name, STEPS))
        yield
    clock["judge"] -= clock["head"]
    clock["ridge"] -= clock["sums"]


def _timing(function: Callable[..., Any], phase: str, clock: Seconds) -> Callable[..., Any]:
    def timed(*args: Any) -> Any:
        started = _now()
        done = function(*args)
        done = list(done) if isinstance(done, Iterator) else done
        clock[phase] += _now() - started
        return done

    return timed


def _now() -> float:
    """Processor seconds on a CPU, which may be busy with something else; on a GPU those of the clock."""
    if not torch.cuda.is_available():
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


@contextmanager
def _counted(stack: Stack, reads: Counter[str]) -> Iterator[None]:
    layer = stack.layer

    def read(*args: Any) -> Any:
        reads["layers"] += 1
        return layer(*args)

    with patch.object(stack, "layer", read):
        yield


def at_size(level: str, clock: Seconds, plain: float, layers: int, tokens: int) -> Seconds:
    """Seconds of the phases for so many layers of the shape that was timed, and so many tokens in windows of LENGTH.

    Walk, dense path and what else there is grow with layers x tokens; the constant channel, the ridge's sums and the
    fit's preparation with layers x the tokens that recovery takes; the fit's steps and the ridge's solutions with the
    layers; the look-ahead with layers x the tokens held back, and the judge with those x the layers that it goes
    through, up to AHEAD more for each layer; its head with the tokens held back x the layers.
    """
    more, timed = layers / LAYERS, SAMPLES * LENGTH
    walked, taken, seen = (min(tokens, most) / timed for most in (tokens, pairs.FITTED_MOST, pairs.HELD_MOST))
    seconds = {"walk": plain * more * walked}
    if level == "none":
        return seconds
    part = {name: clock[name] for name in PHASES}
    held = min(tokens // pairs.HELD_BACK, pairs.HELD_MOST) / (timed // pairs.HELD_BACK)
    rest = clock["all"] - sum(part.values()) - 2 * plain
    through = passes(layers, judge.AHEAD) / passes(LAYERS, judge.AHEAD)
    checks = (1 + fit.STEPS // fit.CHECK_EVERY) / (1 + 1)
    return seconds | {
        "look-ahead": plain * more * seen,
        "dense path and the rest": rest * more * walked,
        "constant channel": part["constant"] * more * taken,
        "fit: windows": part["windows"] * more * taken,
        "fit: steps": part["step"] * more * fit.STEPS / STEPS,
        "fit: checks": part["error"] * more * held * checks,
        "ridge: sums": part["sums"] * more * taken,
        "ridge: solutions": part["ridge"] * more,
        "judge: layers": part["judge"] * held * through,
        "judge: head": part["head"] * more * held,
    }


def passes(layers: int, ahead: int) -> int:
    """Layers that a candidate goes through, over all layers: the one itself, and up to `ahead` after it."""
    return sum(1 + min(ahead, layers - 1 - i) for i in range(layers))
