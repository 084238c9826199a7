"""Files on this machine, whatever the file system: paths as users give them, and writes that are whole or not there."""

import errno
import hashlib
import os
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from artifacts.errors import DamagedArtifact, StoreError

TEMPORARY = ".ghost-temporary-"
"""How the names of files begin that are being written."""
TEMPORARY_SECONDS = 24 * 3600.0
"""Age from which a temporary file is taken for a killed writer's and removed."""
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}

_BLOCK = 1 << 20
_LOST_AND_FOUND = "lost+found"
"""What a file system has at its top from the start, for root alone to read."""
_NO_FOLDER_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EBADF}
"""What CIFS and several FUSE file systems answer to fsync of a folder: they have none, and keep order by themselves."""


def expand(path: str | Path) -> Path:
    """The path with `~` or `~user` at its start replaced. Raises StoreError where that user has no home folder."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise StoreError(
            f"{path}: no home folder is known for it (neither HOME nor a passwd entry); give the path in full"
        ) from error


def is_temporary(name: str) -> bool:
    return name.startswith(TEMPORARY)


def occupants(folder: Path) -> set[str]:
    """The names in a folder but for temporaries and what the file system itself put there. Raises OSError."""
    return {name for name in os.listdir(folder) if not is_temporary(name) and name != _LOST_AND_FOUND}


def files_below(top: Path, *, follow_links: bool) -> Iterator[Path]:
    """All files below, temporaries too; folders that have just gone are skipped. Raises OSError."""
    for folder, _, names in os.walk(top, onerror=_unless_gone, followlinks=follow_links):
        yield from (Path(folder, name) for name in names)


def _unless_gone(error: OSError) -> None:
    unreadable = isinstance(error, PermissionError) and Path(error.filename).name == _LOST_AND_FOUND
    if not unreadable and not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise error


def sweep(top: Path, *, follow_links: bool) -> None:
    """Remove the temporaries below that are old enough to be a killed writer's."""
    before = time.time() - TEMPORARY_SECONDS
    with suppress(OSError):
        for path in files_below(top, follow_links=follow_links):
            if is_temporary(path.name) and path.stat().st_mtime < before:
                path.unlink()


def blocks(path: Path) -> Iterator[bytes]:
    """A file's bytes, a megabyte at a time. Raises OSError."""
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            yield block


def write_atomically(path: Path, data: Iterable[bytes], *, if_absent: bool = False, sha256: str | None = None) -> str:
    """Write a file under a temporary name beside `path`, rename it there, and return the digest of its bytes.

    Raises OSError (with `if_absent`, FileExistsError where the name is taken), and DamagedArtifact where the bytes are
    not those of `sha256`; nothing has changed then.
    """
    temporary = path.with_name(f"{TEMPORARY}{uuid.uuid4().hex}")
    try:
        digest = _write_synced(temporary, data)
        if sha256 not in (None, digest):
            raise DamagedArtifact(
                f"the bytes for {path} have sha256 {digest}, not {sha256}; run the same command again"
            )
        if if_absent:
            os.link(temporary, path)
        else:
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)
    return digest


def _write_synced(path: Path, data: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    with path.open("xb") as file:
        for block in data:
            digest.update(block)
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


def sync_folder(folder: Path) -> None:
    """Make what was renamed into a folder survive a power cut, not only a kill. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise
    finally:
        os.close(descriptor)
