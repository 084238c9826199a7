"""What a user has by the name of one of ghost's packages, and what becomes of the command then."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = "import sys; sys.argv[1:] = {argv}; from ghost_ssm import main; main()"


def ghost(argv: list[str], path: Path) -> subprocess.CompletedProcess[str]:
    """The command as its script runs it, with a folder of the user's first on the path."""
    program = [sys.executable, "-P", "-c", COMMAND.format(argv=argv)]
    return subprocess.run(program, env=os.environ | {"PYTHONPATH": str(path)}, capture_output=True, text=True)


@pytest.mark.parametrize(
    "own", ["flows.py", "ghost.py", "tasks.py", "artifacts/__init__.py", "tasks/README", "bench.py"]
)
def test_a_package_of_the_users_own_is_told_in_one_line(own: str, tmp_path: Path) -> None:
    (tmp_path / own).parent.mkdir(exist_ok=True)
    (tmp_path / own).write_text("raise SystemExit('imported')")
    place = tmp_path / own.partition("/")[0]
    ended = ghost(["bench", "none"], tmp_path)
    line = f"ghost: error: {place} hides ghost's package {place.stem!r}; rename it, or take {tmp_path} off Python's"
    assert (ended.returncode, ended.stdout) == (2, "") and ended.stderr.startswith(line), ended.stderr
    assert ended.stderr.count("\n") == 1


def test_a_folder_called_bench_is_in_the_way_of_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "bench.py").touch()
    ended = ghost(["show", "none", f"--store={tmp_path / 'none'}"], tmp_path)
    assert ended.stderr.startswith(f"ghost: error: there is no store at {tmp_path / 'none'}; "), ended.stderr
