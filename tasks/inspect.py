"""Looking at what runs left behind: a run's layers, and the proof of a checkpoint."""

from pathlib import Path
from typing import Any

import torch

from artifacts.errors import MissingArtifact
from artifacts.folders import open_folder
from artifacts.keys import RunKeys
from artifacts.marker import MARKER
from artifacts.store import Store, open_store
from ghost.calibration.tokens import load_tokenizer, read_tokens
from ghost.checkpoint.source import open_checkpoint
from ghost.evaluation.verify import verify
from tasks.layers import energy_dropped, extreme
from tasks.staging import local
from tasks.tables import read_selection, read_statistics


def layer_rows(store: str, run_id: str) -> tuple[str, list[dict[str, Any]]]:
    """A title, and one row per finished layer of the run whose id starts with `run_id`."""
    opened = open_existing(store)
    keys = find_run(opened, run_id)
    done = [key for key in opened.list(f"{keys.root}/layers/") if key.endswith("/layer.json")]
    if not done:
        raise MissingArtifact(f"run {keys.run_id} has no finished layer yet; start it again to continue")
    finished = "finished" if opened.exists(keys.manifest) else "not finished"
    return f"run {keys.run_id}, {finished}", [_row(opened, keys, layer) for layer in range(len(done))]


def open_existing(store: str) -> Store:
    """The store at `store`; MissingArtifact where there is none, which a look must not make."""
    try:
        open_folder(store).read(MARKER)
    except MissingArtifact:
        raise MissingArtifact(f"there is no store at {store}; give the one of your runs with --store") from None
    return open_store(store)


def find_run(store: Store, run_id: str) -> RunKeys:
    """The one run whose id starts so; MissingArtifact where there is none, or more than one."""
    runs = sorted({key.split("/")[1] for key in store.list("runs/")})
    matching = [name for name in runs if run_id and name.startswith(run_id)]
    if len(matching) != 1:
        found = f"runs there: {', '.join(runs)}" if runs else "there are no runs"
        raise MissingArtifact(f"run {run_id!r} matches {len(matching)} runs in the store {store.url}; {found}")
    return RunKeys(matching[0])


def _row(store: Store, keys: RunKeys, layer: int) -> dict[str, Any]:
    selection = read_selection(store, keys, layer)
    dropped = energy_dropped(read_statistics(store, keys, layer), selection)
    saliency, kept = selection.saliency_gn, selection.kept_gn
    return {
        "layer": layer,
        "kept": f"{int(kept.sum())} of {kept.numel()}",
        "energy dropped": "-" if dropped is None else f"{dropped:.3%}",
        "least kept saliency": extreme(saliency[kept], torch.min),
        "most dropped saliency": extreme(saliency[~kept], torch.max),
    }


def verify_checkpoint(checkpoint: str, against: str, corpus: str, tokens: int) -> dict[str, Any]:
    """Compare on the first tokens of a corpus; see `ghost.evaluation.verify`."""
    source, folder = open_checkpoint(local(against, "model")), open_checkpoint(Path(local(checkpoint, "model"))).folder
    ids, _ = read_tokens(load_tokenizer(folder), local(corpus, "text"), "evaluation", tokens)
    return verify(folder, source, ids.to(torch.long))
