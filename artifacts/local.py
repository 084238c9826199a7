"""A folder as a store: one file per object, written under a temporary name beside its place and renamed into it."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from artifacts.digest import sha256_bytes, sha256_file
from artifacts.errors import AlreadyThere, DamagedArtifact, MissingArtifact, StoreError
from artifacts.files import FULL, blocks, expand, files_below, is_temporary, occupants, sweep, write_atomically
from artifacts.keys import check_key
from artifacts.marker import MARK, MARKER, check_mark
from artifacts.objects import StoredObject
from artifacts.schemas import FORMAT_VERSION


class LocalStore:
    """A `Store` in a local folder, which is made if need be and marked as a store if empty.

    Raises StoreError where the folder is a file, unwritable, holds something else, or has another format.
    """

    def __init__(self, folder: Path, versions: Sequence[int] = (FORMAT_VERSION,)) -> None:
        self._root = expand(folder).absolute()
        self.url = str(self._root)
        with self._reporting("open it"):
            if self._root.is_file():
                raise StoreError(f"store {self.url} is a file; choose a folder with --store")
            self._root.mkdir(parents=True, exist_ok=True)
            self._claim(versions)
        sweep(self._root, follow_links=True)

    def put(self, key: str, data: bytes, *, if_absent: bool = False) -> str:
        return self._write(key, [data], if_absent=if_absent)

    def put_file(self, key: str, source: Path) -> str:
        return self._write(key, blocks(source))

    def record(self, key: str) -> bytes:
        with self._reading(key) as path:
            return path.read_bytes()

    def get(self, key: str, sha256: str) -> bytes:
        data = self.record(key)
        self._check_digest(key, sha256_bytes(data), sha256)
        return data

    def fetch(self, key: str, sha256: str) -> Path:
        with self._reading(key) as path:
            self._check_digest(key, sha256_file(path), sha256)
        return path

    def exists(self, key: str) -> bool:
        with self._reporting(f"look for {key}"):
            return self._path(key).is_file()

    def list(self, prefix: str) -> list[str]:
        if prefix:
            check_key(prefix.removesuffix("/"))
        top = self._root / prefix.rpartition("/")[0]
        with self._reporting(f"list {prefix or 'its keys'}"):
            paths = [path for path in files_below(top, follow_links=True) if not is_temporary(path.name)]
            keys = [path.relative_to(self._root).as_posix() for path in paths]
        return sorted(key for key in keys if key.startswith(prefix) and key != MARKER)

    def objects(self, prefix: str) -> tuple[StoredObject, ...]:
        with self._reporting(f"list {prefix or 'its keys'}"):
            return tuple(self._objects(self.list(prefix)))

    def delete(self, key: str) -> None:
        with self._reporting(f"delete {key}"):
            path = self._path(key)
            if path.is_file():
                path.unlink(missing_ok=True)

    def sha256(self, key: str) -> str:
        with self._reading(key) as path:
            return sha256_file(path)

    def size(self, key: str) -> int:
        with self._reading(key) as path:
            return path.stat().st_size

    def locate(self, key: str) -> str:
        return str(self._path(key))

    def _objects(self, keys: Iterable[str]) -> Iterator[StoredObject]:
        for key in keys:
            with suppress(FileNotFoundError):  # deleted since it was listed
                found = (self._root / key).stat()
                yield StoredObject(key, found.st_size, found.st_mtime)

    def _path(self, key: str) -> Path:
        check_key(key)
        if key == MARKER or any(is_temporary(segment) for segment in key.split("/")):
            raise StoreError(f"key {key!r} is refused: the store uses that name itself; choose another")
        return self._root / key

    def _write(self, key: str, data: Iterable[bytes], *, if_absent: bool = False) -> str:
        path = self._path(key)
        with self._reporting(f"write {key}"):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                return write_atomically(path, data, if_absent=if_absent)
            except FileExistsError as error:
                raise AlreadyThere(f"{key} is already in the store {self.url}; read it, or delete it first") from error

    def _check_digest(self, key: str, found: str, expected: str) -> None:
        if found != expected:
            raise DamagedArtifact(
                f"{key} in the store {self.url} has sha256 {found}, not {expected}; run the same command again"
            )

    @contextmanager
    def _reading(self, key: str) -> Iterator[Path]:
        path = self._path(key)
        with self._reporting(f"read {key}"):
            if not path.is_file():
                raise MissingArtifact(f"{key} is not in the store {self.url}; run the same command again to make it")
            yield path

    @contextmanager
    def _reporting(self, action: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno in FULL:
                message = f"no space left to {action} ({error.strerror}); free some space or choose another --store"
            else:
                message = f"cannot {action} ({error}); make it accessible or choose another --store"
            raise StoreError(f"store {self.url}: {message}") from error

    def _claim(self, versions: Sequence[int]) -> None:
        # Listed before the marker is looked for: another process may be opening the same new folder right now, and
        # whoever sees its objects also sees the marker that it wrote before them.
        names = occupants(self._root)
        marker = self._root / MARKER
        if marker.is_file():
            check_mark(self.url, marker.read_bytes(), versions)
        elif names:
            raise StoreError(f"store {self.url} holds something else; choose an empty folder with --store")
        else:
            write_atomically(marker, [MARK])
