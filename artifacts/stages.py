"""Records of the stages after the layers: what each wrote and from what, so that a run started again can trust it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from artifacts.claims import holds, read
from artifacts.digest import parse_record, record_bytes, sha256_bytes
from artifacts.keys import RunKeys
from artifacts.schemas import FORMAT_VERSION
from artifacts.store import Store


@dataclass(frozen=True)
class StageRecord:
    """One finished stage: `files` maps names in the run's folder to sha256, `digest` is the sha256 of the record."""

    stage: str
    chain: str
    files: dict[str, str]
    digest: str


def write_stage(store: Store, keys: RunKeys, stage: str, chain: str, files: Mapping[str, str]) -> StageRecord:
    """Declare a stage done, once its files are in the store: `files` maps names in the run's folder to sha256.

    `chain` is the digest of the record of whatever the stage's files were made from.
    """
    digest = store.put(keys.stage(stage), record_bytes(_stage_json(stage, chain, files)))
    return StageRecord(stage, chain, dict(files), digest)


def read_stage(store: Store, keys: RunKeys, stage: str, chain: str) -> StageRecord | None:
    """The stage's record if it is done under this chain and every file hashes as recorded; None otherwise.

    Absence, damage of any kind and another format or chain are all None: the stage is to be done again. Raises
    StoreError where the store can't say.
    """
    data = read(store, keys.stage(stage))
    files = (parse_record(data) or {}).get("files")
    if not isinstance(files, dict) or record_bytes(_stage_json(stage, chain, files)) != data:
        return None
    if not all(holds(store, f"{keys.root}/{name}", digest) for name, digest in files.items()):
        return None
    return StageRecord(stage, chain, files, sha256_bytes(data))


def _stage_json(stage: str, chain: str, files: Mapping[str, str]) -> dict[str, Any]:
    return {"format": FORMAT_VERSION, "stage": stage, "chain": chain, "files": dict(files)}
