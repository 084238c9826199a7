"""Export: the pruned model as a model folder in the store, with a record, as layers have one."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prefect import task
from prefect.client.schemas.objects import State
from safetensors.torch import load

from artifacts.stages import StageRecord, read_stage, write_stage
from ghost.checkpoint.source import open_checkpoint
from ghost.convert import convert
from ghost.export import KEPT, PROVENANCE, export, kept_channels
from ghost.mixer import Weights
from tasks.run.layers import OPTIONS, PrunedLayer, ended, timed
from tasks.run.open import Run, published_tokenizer
from tasks.wording import display_name

STAGE = "export"
CARD = "README.md"
OF_THE_REPORT = (CARD, PROVENANCE)
"""Files of the checkpoint that hold figures, and so are written with the report."""


class Exported:
    """The exported checkpoint, by the record that vouches for its files. Prefect must not look inside."""

    def __init__(self, record: StageRecord) -> None:
        self.record = record

    def folder(self, run: Run) -> Path:
        """The checkpoint as a local folder, every file of it with the bytes that were exported."""
        paths = {name: run.store.fetch(f"{run.keys.root}/{name}", sha256) for name, sha256 in self.record.files.items()}
        return paths["checkpoint/config.json"].parent


@task(name="export_checkpoint", task_run_name="export checkpoint", **OPTIONS)
def export_checkpoint(run: Run, layers: Sequence[PrunedLayer]) -> State[Exported]:
    """The pruned model in the format that is asked for, to checkpoint/."""
    config, chain = f"{run.keys.checkpoint}/config.json", layers[-1].record.digest
    if (record := read_stage(run.store, run.keys, STAGE, chain)) is not None:
        return ended(Exported(record), config, cached=True)
    with timed(run, run.keys.timings, STAGE):
        files = _export(run, layers)
    return ended(Exported(write_stage(run.store, run.keys, STAGE, chain, files)), config)


def _export(run: Run, layers: Sequence[PrunedLayer]) -> dict[str, str]:
    """Write the checkpoint to the store; the sha256 of each file, by its name in the run's folder."""
    selections = [layer.selection for layer in layers]
    layout = run.walk.form.layout(run.source.mixer_layout, selections, run.settings.round_to)

    records = {layer.record.layer: layer.record for layer in layers}

    def stored(layer: int) -> Weights:
        return load(run.store.get(run.pruning.weights(layer), records[layer].files["weights.safetensors"]))

    digests = {}
    with tempfile.TemporaryDirectory() as scratch:
        (folder := Path(scratch) / "hf").mkdir()
        tokenizer = published_tokenizer(run)
        export(run.source, stored, layout, folder, provenance(run, layers), tokenizer=tokenizer)
        if run.settings.format == "native":
            source, folder = open_checkpoint(folder), Path(scratch) / "native"
            convert(source, folder, "native")
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            name = path.relative_to(folder).as_posix()
            if name not in OF_THE_REPORT:
                digests[f"checkpoint/{name}"] = run.store.put_file(f"{run.keys.checkpoint}/{name}", path)
    return digests


def provenance(run: Run, layers: Sequence[PrunedLayer]) -> dict[str, Any]:
    """What made this checkpoint, and which channels of the source it keeps; `ghost verify` reads it."""
    kept = kept_channels(run.source.layers, {layer.record.layer: layer.selection for layer in layers})
    made_from = {"model": display_name(run.settings.model), "run_id": run.keys.run_id}
    made = made_from | {"determinants": run.prune_determinants | run.determinants, "soft": run.settings.soft}
    return {"ghost": made, KEPT: kept}
