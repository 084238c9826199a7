"""What `runtimes.toml` says of a runtime; its venv; and asking it in there."""

import json
import os
import shutil
import subprocess
import sys
import tomllib
import venv
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ghost.errors import GhostError, SettingsError

ROOT = Path(__file__).parents[2]
TABLES = ROOT / "bench" / "runtimes.toml"
STAMP = "installed.json"
"""In a venv: the packages that are in it, written when all of them are."""
INSTALLED = ("packages", "alone", "remove", "sources")
"""The fields that make a venv."""
BOUNDED = {"MAX_JOBS": "2", "CMAKE_BUILD_PARALLEL_LEVEL": "2", "OMP_NUM_THREADS": "1", "PYTHONNOUSERSITE": "1"}
"""Builds without bound take a machine down; one thread makes figures comparable."""


class RuntimeFailed(GhostError):
    """A runtime that can't be installed, or a script that didn't answer."""


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """A table of `runtimes.toml`, whose head says what each field means."""

    name: str
    script: str
    reads: str = "hf"
    packages: Sequence[str] = ()
    alone: Sequence[str] = ()
    remove: Sequence[str] = ()
    sources: Sequence[str] = ()
    venv: str = ""
    environment: dict[str, str] = field(default_factory=dict)
    projected: bool = False
    within: float | None = None
    nemotron_h: float | None = None
    by_name: bool = False

    def bound(self, family: str) -> float | None:
        """Largest difference of log-probabilities, nats, for a model of this family."""
        return self.nemotron_h if family == "nemotron_h" and self.nemotron_h else self.within

    def install(self, venvs: Path) -> str:
        """The interpreter that has the runtime: of a venv under `venvs`, made anew where its packages changed."""
        if not self.packages:
            return sys.executable
        home = venvs.resolve() / (self.venv or self.name)
        python, stamp = str(home / "bin" / "python"), home / STAMP
        wanted = {name: list(getattr(self, name)) for name in INSTALLED}
        if not stamp.exists() or json.loads(stamp.read_text()) != wanted:
            shutil.rmtree(home, ignore_errors=True)
            venv.create(home, with_pip=True)
            self._run([python, "-m", "pip", "install", *self.packages])
            if self.alone:
                self._run([python, "-m", "pip", "install", "--no-build-isolation", "--no-deps", *self.alone])
            if self.remove:
                self._run([python, "-m", "pip", "uninstall", "-y", *self.remove])
            for source in self.sources:
                self._unpack(python, source, home)
            stamp.write_text(json.dumps(wanted))
        return python

    def converter(self, python: str) -> Path | None:
        """llama.cpp's folder, with its converter, in the sources that `install` has unpacked."""
        return next(Path(python).parents[1].glob("source/*/vendor/llama.cpp"), None)

    def _unpack(self, python: str, source: str, home: Path) -> None:
        """A source distribution into `source/` of the venv; pip builds packages of one elsewhere, and keeps nothing."""
        options = ["--no-deps", "--no-binary", source.partition("==")[0], "--dest", str(home / "sdist")]
        self._run([python, "-m", "pip", "download", *options, source])
        for archive in (home / "sdist").iterdir():
            shutil.unpack_archive(archive, home / "source", filter="data")

    def ask(self, python: str, checkpoint: Path, request: Path, *options: str) -> dict[str, Any]:
        """The JSON object on the last line that the script prints. -P: no file beside it hides a package."""
        script = ROOT / "bench" / "runtimes" / self.script
        printed = self._run([python, "-P", str(script), str(checkpoint), str(request), *options])
        try:
            return json.loads(printed.splitlines()[-1])
        except (IndexError, json.JSONDecodeError) as error:
            raise RuntimeFailed(
                f"{self.name}: {self.script} ended with no JSON object but {printed[-99:]!r}"
            ) from error

    def _run(self, command: list[str]) -> str:
        environment = os.environ | BOUNDED | self.environment
        done = subprocess.run(
            command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
        if done.returncode:
            last = (done.stderr.strip() or done.stdout.strip() or "nothing printed").splitlines()[-1]
            raise RuntimeFailed(f"{self.name}: {' '.join(command[1:4])} ended with {done.returncode}: {last}")
        return done.stdout


def runtimes(names: Sequence[str] = (), tables: Path = TABLES) -> list[Runtime]:
    """Those of these names, or all but `by_name`, in the order of the file. SettingsError where a name is unknown."""
    known = tomllib.loads(tables.read_text())
    for name in set(names) - known.keys():
        raise SettingsError(f"runtime {name!r} has no table in {tables.name}; choose from {', '.join(known)}")
    found = [Runtime(name=name, **_shared(table, known)) for name, table in known.items()]
    return [runtime for runtime in found if runtime.name in names or not (names or runtime.by_name)]


def _shared(table: dict[str, Any], known: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """With what the table has whose venv it is."""
    other = known.get(table.get("venv", ""), {})
    return {name: other[name] for name in (*INSTALLED, "environment") if name in other} | table
