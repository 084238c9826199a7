"""`ghost doctor` and --endpoint-url: what is found on a healthy machine, and what is said about each ill."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from artifacts.errors import AlreadyThere
from artifacts.local import LocalStore
from artifacts.redaction import redact
from artifacts.store import open_store
from tasks import doctor
from tasks.doctor import Check, examine, machine
from tests.s3 import SECRETS, make_bucket, s3_endpoint, s3_environment

pytest_plugins = ["tests.refusals"]

Execute = Callable[..., tuple[Any, str, str]]


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with s3_endpoint() as address:
        make_bucket(address, "checked")
        yield address


@pytest.fixture(autouse=True)
def nothing_of_the_users_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_PROFILE", "GHOST_STORE", "GHOST_DEVICE", "PREFECT_API_URL"):
        monkeypatch.delenv(name, raising=False)
    for name, value in s3_environment("http://127.0.0.1:9").items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("GHOST_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(doctor, "prefect_api", list[Check])  # test_server_start.py looks at it: a server takes seconds


class Found(NamedTuple):
    status: str
    found: str
    remedy: str


def found(store: str | None = None) -> dict[str, Found]:
    return {check["name"]: Found(check["status"], check["found"], check["remedy"]) for check in examine(store)}


def test_all_is_well_with_a_local_store_which_is_left_empty(tmp_path: Path, execute: Execute) -> None:
    code, out, err = execute(["doctor", f"--store={tmp_path / 'store'}"])
    assert code == 0 and "problem" not in out, out + err
    assert f"ok       store: {tmp_path / 'store'}: put, conditional put, list, read and delete work" in out
    assert "ok       packages: " in out and "torch 2." in out
    assert open_store(tmp_path / "store").list("") == []


def test_without_a_store_none_is_made(tmp_path: Path, execute: Execute, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, _ = execute(["doctor"])
    assert code == 0 and "warning  store: none was tried; ghost doctor --store URL, or set GHOST_STORE" in out
    assert list(tmp_path.iterdir()) == []


def test_a_bucket_is_tried_at_the_endpoint_that_was_given(endpoint: str, execute: Execute) -> None:
    place = "s3://checked/a"
    code, out, err = execute(["doctor", f"--store={place}", f"--endpoint-url={endpoint}", "--json"])
    checks = {check["name"]: check for check in json.loads(out)["checks"]}
    assert code == 0 and checks["store"]["found"].startswith(f"{place}: put, conditional put, list"), err
    assert f"found (env), not shown; endpoint {endpoint}, region us-east-1" in checks["credentials"]["found"]
    assert SECRETS["AWS_SECRET_ACCESS_KEY"] not in out + err and SECRETS["AWS_ACCESS_KEY_ID"] not in out + err
    assert open_store(place).list("") == []


def test_a_missing_bucket_is_a_problem_and_exit_code_1(endpoint: str, execute: Execute) -> None:
    code, out, _ = execute(["doctor", "--store=s3://nowhere/a", f"--endpoint-url={endpoint}"])
    (line,) = (line for line in out.splitlines() if " store: " in line)
    assert code == 1 and line.startswith("problem  store: ") and "bucket nowhere" in line and "create it" in line


def test_a_store_that_ignores_conditions_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put = LocalStore.put
    monkeypatch.setattr(LocalStore, "put", lambda self, key, data, *, if_absent=False: put(self, key, data))
    check = found(str(tmp_path / "store"))["store"]
    assert check.status == "problem" and "it ignores If-None-Match" in check.found and "update its" in check.remedy
    assert open_store(tmp_path / "store").list("") == []


def test_a_store_that_keeps_what_is_deleted_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LocalStore, "delete", lambda self, key: None)
    check = found(str(tmp_path / "store"))["store"]
    assert check.status == "problem" and "just deleted" in check.found and "allow deletion" in check.remedy


def test_packages_outside_their_bounds_or_missing_are_problems(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = ["torch<2,>=1", "nosuchpackage>=3", "numpy>=1", "alsonothere>=1; extra == 'gpu'"]
    monkeypatch.setattr(machine, "requires", lambda name: wanted)
    checks = {name: check for name, check in found().items() if name.startswith("package")}
    assert checks.keys() == {"package torch", "package nosuchpackage"}
    assert all(check.status == "problem" for check in checks.values())
    assert "outside <2,>=1" in checks["package torch"].found
    assert checks["package torch"].remedy == "pip install 'torch<2,>=1'"
    assert checks["package nosuchpackage"].found == "not installed"


def test_kernels_that_cannot_be_imported_are_told_with_what_it_means(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "causal_conv1d.py").write_text("raise ImportError('undefined symbol: _ZN3c10')")
    (tmp_path / "causal_conv1d-9.9.dist-info").mkdir()
    (tmp_path / "causal_conv1d-9.9.dist-info/METADATA").write_text("Name: causal-conv1d\nVersion: 9.9\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    check = found()["kernels causal-conv1d"]
    assert check.status == "warning" and "9.9 can't be imported (ImportError: undefined symbol" in check.found
    assert "transformers convolves in plain torch" in check.found and "pip uninstall causal-conv1d" in check.remedy


def test_a_device_that_is_not_there_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GHOST_DEVICE", "cuda:99")
    check = found()["device"]
    assert check.status == "problem" and "cuda:99" in check.found and "GHOST_DEVICE" in check.remedy


def test_a_cache_that_cannot_be_made_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GHOST_CACHE", str(tmp_path / "file/cache"))
    check = found()["disk cache"]
    assert check.status == "problem" and f"{tmp_path / 'file'} cannot be written to" in check.found
    assert "set GHOST_CACHE to another folder" in check.remedy


@pytest.mark.parametrize(("factor", "status"), [(0.5, "ok"), (2, "warning")])
def test_little_space_is_told(factor: float, status: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = machine.shutil.disk_usage(tmp_path).free
    monkeypatch.setattr(machine, "LITTLE_BYTES", 0)
    monkeypatch.setattr(machine, "SOME_BYTES", factor * free)
    assert found()["disk cache"].status == status
    monkeypatch.setattr(machine, "LITTLE_BYTES", 2 * free)
    assert found()["disk cache"].status == "problem"


@pytest.mark.parametrize(
    ("settings", "status", "told"),
    [({"AWS_PROFILE": "nosuch"}, "problem", "unusable settings (ProfileNotFound)"),
     ({"AWS_ENDPOINT_URL": "http://user:pw-0123@:x"}, "problem", "unusable settings (ValueError)"),
     ({"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, "problem", "none found for object storage")],
)  # fmt: skip
def test_credentials_that_do_not_serve_are_told(
    settings: dict[str, str], status: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    checks = found("s3://checked/a")
    assert (checks["credentials"].status, checks["credentials"].found) == (status, told)
    assert "pw-0123" not in str(checks)


def test_a_check_that_fails_is_told_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> list[str]:
        raise AlreadyThere("at https://user:pw-0123@host/x")

    monkeypatch.setattr(machine, "requires", broken)
    checks = found()
    assert checks["packages"].found == "could not be checked (AlreadyThere: at https://***@host/x)"
    assert checks["python"].status == checks["disk cache"].status == "ok"


@pytest.mark.parametrize("url", ["localhost:9000", "ftp://host", "http://", "https://user:pw-0123@host"])
def test_an_endpoint_that_is_none_is_refused(url: str, execute: Execute) -> None:
    code, out, err = execute(["gc", "--store=s3://checked/a", f"--endpoint-url={url}"])
    assert code == 2 and not out and "--endpoint-url" in err and "pw-0123" not in err


def test_passwords_and_signatures_are_taken_out_of_messages() -> None:
    assert (
        redact("at http://user:p@ss@host:1/x?y=1 and HTTPS://token@host")
        == "at http://***@host:1/x?y=1 and HTTPS://***@host"
    )
    assert redact("GET /k?X-Amz-Signature=ab12&X-Amz-Date=3 end") == "GET /k?X-Amz-Signature=***&X-Amz-Date=*** end"
    assert redact("s3://bucket/a@b http://host/x") == "s3://bucket/a@b http://host/x"
