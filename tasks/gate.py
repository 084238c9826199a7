"""The quality gate: whether a pruned model is good enough to be published."""

import json

from ghost.config import RunSettings
from ghost.errors import QualityGateError
from tasks.run import Run


def check_gate(run: Run) -> None:
    """QualityGateError where the stored evaluation exceeds a limit of the settings; without limits nothing is read."""
    if run.settings.max_perplexity is None and run.settings.max_perplexity_rise is None:
        return
    scores = json.loads(run.store.get(run.keys.evaluation))["perplexity"]
    if failed := failed_limits(run.settings, scores["dense"], scores["pruned"]):
        raise QualityGateError(
            f"quality gate: {' and '.join(failed)}; the checkpoint is kept in "
            f"{run.store.locate(run.keys.checkpoint)} and was not published; give a lower --sparsity or a higher limit"
        )


def failed_limits(settings: RunSettings, dense: float, pruned: float) -> list[str]:
    """What the two perplexities exceed, in words with the figures. NaN exceeds every limit that is set."""
    failed = []
    limit, share = settings.max_perplexity, settings.max_perplexity_rise
    if limit is not None and not pruned <= limit:
        failed.append(f"perplexity {pruned:.6g} is over {limit:.6g} (--max-perplexity)")
    if share is not None and not (rise := pruned / dense - 1) <= share:
        failed.append(f"{pruned:.6g} is {rise:.3%} over the dense {dense:.6g}, not {share:.3%} (--max-perplexity-rise)")
    return failed
