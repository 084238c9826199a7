"""Commands that must be refused: one line with the thing and the remedy, exit code 2, nothing as if complete."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flows import cli
from tests.models import make_model, make_native, text

Refused = Callable[..., str]


@pytest.fixture(scope="session")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, the same one in native format, and a text."""
    folder = tmp_path_factory.mktemp("originals")
    make_native(folder / "native", make_model(folder / "model"))
    (folder / "text.txt").write_text(text(400))
    return folder


def run_arguments(originals: Path, folder: Path, model: Path | str, options: dict[str, Any]) -> list[str]:
    """`ghost run MODEL` on the text, with store and out in a folder."""
    texts = dict.fromkeys(("calibration", "evaluation"), originals / "text.txt")
    places = {"store": folder / "store", "out": folder / "out"}
    every = {"samples": 4, "length": 16, "window": 64} | texts | places | options
    return ["run", str(model), *(f"--{name.replace('_', '-')}={value}" for name, value in every.items())]


def complaint(code: Any, out: str, err: str, folder: Path) -> str:
    """The line that a refused command ends with; asserts that it looks as it must and left nothing finished."""
    lines = err.strip().splitlines()
    assert code == 2 and not out and "Traceback" not in err, err
    assert [line.startswith("ghost: error: ") for line in lines] == [False] * (len(lines) - 1) + [True], err
    assert not list(folder.rglob("manifest.json")) and not (folder / "out").exists()
    return lines[-1]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Refused:
    """Run `ghost ...` in this process, see it refused, and return what it says."""

    def run(*argv: Any) -> str:
        monkeypatch.setattr(sys, "argv", ["ghost", *map(str, argv)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        return complaint(end.value.code, *capfd.readouterr(), tmp_path)

    return run


@pytest.fixture
def refused(command: Refused, originals: Path, tmp_path: Path) -> Refused:
    """See `ghost run MODEL`, by default of a good one, refused with these options, and return what it says."""

    def run(model: Path | str | None = None, **options: Any) -> str:
        return command(*run_arguments(originals, tmp_path, model or originals / "model", options))

    return run
