"""Fixtures to see commands refused: one line with the thing and the remedy, exit code 2, nothing as if complete."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flows import cli
from tests.models import make_model, make_native, text

Arguments = Callable[..., list[str]]
Execute = Callable[..., tuple[Any, str, str]]
Refused = Callable[..., str]


@pytest.fixture(scope="session")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, the same one in native format, and a text."""
    folder = tmp_path_factory.mktemp("originals")
    make_native(folder / "native", make_model(folder / "model"))
    (folder / "text.txt").write_text(text(400))
    return folder


@pytest.fixture(scope="session")
def arguments(originals: Path) -> Arguments:
    """`ghost run`, by default of the good model on the good text, with store and out in a folder."""

    def run(folder: Path, model: Path | str | None = None, **options: Any) -> list[str]:
        texts = dict.fromkeys(("calibration", "evaluation"), originals / "text.txt")
        places = {"store": folder / "store", "out": folder / "out"}
        every = {"samples": 4, "length": 16, "window": 64} | texts | places | options
        named = (f"--{name.replace('_', '-')}={value}" for name, value in every.items())
        return ["run", str(model or originals / "model"), *named]

    return run


@pytest.fixture
def execute(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Execute:
    """`ghost ...` in this process, to its exit code, stdout and stderr."""

    def run(argv: list[str]) -> tuple[Any, str, str]:
        capfd.readouterr()
        monkeypatch.setattr(sys, "argv", ["ghost", *argv])
        with pytest.raises(SystemExit) as end:
            cli.main()
        captured = capfd.readouterr()
        return end.value.code, captured.out, captured.err

    return run


@pytest.fixture
def command(execute: Execute, tmp_path: Path) -> Refused:
    """See `ghost ...` refused, and return the line that it ends with; nothing finished may be in `tmp_path`."""

    def run(*argv: Any, **circumstances: Any) -> str:
        code, out, err = execute([str(word) for word in argv], **circumstances)
        lines = err.strip().splitlines()
        assert code == 2 and not out and "Traceback" not in err, err
        assert [line.startswith("ghost: error: ") for line in lines] == [False] * (len(lines) - 1) + [True], err
        assert not list(tmp_path.rglob("manifest.json")) and not (tmp_path / "out").exists()
        return lines[-1]

    return run


@pytest.fixture
def refused(command: Refused, arguments: Arguments, tmp_path: Path) -> Refused:
    """See `ghost run MODEL` with these options refused, and return the line that it ends with."""

    def run(model: Path | str | None = None, circumstances: dict[str, Any] | None = None, **options: Any) -> str:
        return command(*arguments(tmp_path, model, **options), **circumstances or {})

    return run
