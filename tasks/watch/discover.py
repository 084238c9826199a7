"""What checkpoints a source has: recognised by config.json, complete, and unchanged between two looks."""

import hashlib
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, takewhile
from typing import Literal

from artifacts.errors import ArtifactError
from artifacts.folders import Entry, Folder, is_remote, open_folder
from ghost.checkpoint.companions import companions, is_unfinished
from ghost.checkpoint.families import PRUNED
from ghost.errors import CheckpointError
from tasks.watch.checkpoint_folder import CONFIG, CheckpointFolder
from tasks.watch.hub import HUB, hub_candidates

BLOCK = 16 << 20

Looked = dict[str, CheckpointFolder]


@dataclass(frozen=True)
class Found:
    """A folder with a config.json: a checkpoint with its fingerprint, or the problem that it has."""

    path: str
    """Below the source; '' for the source itself."""
    model: str
    """What a run takes as its model."""
    fingerprint: str = ""
    """64 hex digits (40 on the hub) that stand for the content of config, weights and tokenizer."""
    problem: str = ""


def discover(
    source: str, settle: float, *, avoid: str, own_tokenizer: bool, families: Collection[str] = PRUNED
) -> list[Found]:
    """Look twice, `settle` seconds apart, and say what is there, sorted by path; folders below `avoid` are left out.

    Of other `families` than these none is taken. `own_tokenizer` asks for a tokenizer beside the weights. Raises
    ArtifactError or SettingsError where the source itself cannot be read; what is the matter with one folder is its
    `problem`.
    """
    before = _look(source, avoid)
    if before:
        time.sleep(settle)
    now = _look(source, avoid) if before else {}
    check = partial(CheckpointFolder.check, families=families, own_tokenizer=own_tokenizer)
    return [_inspect(candidate, before.get(path), check) for path, candidate in sorted(now.items())]


def _look(source: str, avoid: str) -> Looked:
    if source.startswith(HUB):
        return hub_candidates(source.removeprefix(HUB))
    folder = open_folder(source)
    below = f"{avoid.rstrip('/')}/"
    return {c.path: c for c in _candidates(folder) if not f"{folder.url}/{c.path}/".startswith(below)}


def _candidates(folder: Folder) -> Iterable[CheckpointFolder]:
    entries = {entry.name: entry for entry in folder.entries() if not _is_unfinished(entry.name)}
    homes = {name.rpartition("/")[0] for name in entries if name.rpartition("/")[-1] == CONFIG}
    files: dict[str, dict[str, Entry]] = {home: {} for home in homes}
    for name, entry in entries.items():
        for home in homes.intersection(_folders_over(name)):
            files[home][name.removeprefix(home).lstrip("/")] = entry
    for home, below in sorted(files.items()):
        travelling = companions(below)
        yield _candidate(folder, home, {n: e for n, e in below.items() if "/" not in n or n in travelling})


def _folders_over(name: str) -> Iterable[str]:
    return ("", *accumulate(name.split("/")[:-1], "{}/{}".format))


def _candidate(folder: Folder, home: str, files: dict[str, Entry]) -> CheckpointFolder:
    def read(name: str, start: int, length: int | None) -> bytes:
        return folder.read(f"{home}/{name}" if home else name, start, length)

    kind: Literal["s3", "local"] = "s3" if is_remote(folder.url) else "local"
    return CheckpointFolder(home, f"{folder.url}/{home}".rstrip("/"), kind, files, read)


def _is_unfinished(name: str) -> bool:
    return any(part.startswith(".") or is_unfinished(part) for part in name.split("/"))


def _inspect(
    candidate: CheckpointFolder, before: CheckpointFolder | None, check: Callable[[CheckpointFolder], list[str]]
) -> Found:
    found = partial(Found, candidate.path, candidate.model)
    if candidate != before:
        return found(problem="is changing: its files were others at the look before")
    try:
        return found(fingerprint=_fingerprint(candidate, check(candidate)))
    except (CheckpointError, ArtifactError) as error:
        return found(problem=str(error))


def _fingerprint(candidate: CheckpointFolder, names: list[str]) -> str:
    if candidate.kind == "hub":
        return candidate.commit
    total = hashlib.sha256()
    for name in names:
        entry = candidate.files[name]
        content = entry.tag if candidate.kind == "s3" else _content_digest(candidate, name)
        total.update(f"{name} {content} {entry.size}\n".encode())
    return total.hexdigest()


def _content_digest(candidate: CheckpointFolder, name: str) -> str:
    digest = hashlib.sha256()
    starts = range(0, candidate.files[name].size, BLOCK)
    for block in takewhile(bool, (candidate.read(name, start, BLOCK) for start in starts)):
        digest.update(block)
    return digest.hexdigest()
