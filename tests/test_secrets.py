"""Runs with secrets in their environment, on S3 and a Prefect server: nothing that they leave behind holds one.

Also searched for the name of the model, which must be found in each place: a search that finds nothing shows nothing.
"""

import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest

from tests.chaos import Bench, prefect_server
from tests.fault_proxy import ALWAYS, Fault, error, fault_proxy
from tests.models import make_model
from tests.s3 import make_bucket, raw_client, s3_endpoint, s3_environment

CANARY = "canary-model"
PASSWORD = "pAssw0rd-in-an-address"
SECRETS = {
    "AWS_SECRET_ACCESS_KEY": "wJalr/XUtn+FEMI-secret-of-a-test",
    "AWS_SESSION_TOKEN": "FwoGZXIvYXdz-token-of-a-test",
    "HF_TOKEN": "hf_TokenOfATest0123456789",
    "PREFECT_API_KEY": "pnu_KeyOfATest0123456789",
    "PREFECT_API_AUTH_STRING": "admin:StringOfATest0123456789",
    "BILLING_PASSWORD": "none-of-ghosts-business-0123",
}
FORBIDDEN = (*SECRETS.values(), PASSWORD, "X-Amz-Signature")


@dataclass
class Scene:
    """Where the runs happen, and what they printed."""

    folder: Path
    api: str
    endpoint: str
    bench: Bench
    printed: dict[str, str] = field(default_factory=dict)

    def start(self, *argv: str, **env: str) -> "subprocess.Popen[str]":
        """`ghost ...` in a process that leaves everything below the folder."""
        places = {"TMPDIR": "tmp", "GHOST_CACHE": "cache", "HF_HOME": "hub", "HOME": "home", "PREFECT_HOME": "client"}
        for name in places.values():
            (self.folder / name).mkdir(exist_ok=True)
        own = {name: str(self.folder / place) for name, place in places.items()}
        unset = ("PREFECT_LOGGING_LEVEL", "PREFECT_LOGGING_TO_API_ENABLED")  # a user's own log goes to the server
        kept = {name: value for name, value in os.environ.items() if name not in unset}
        given = kept | own | s3_environment(self.endpoint) | SECRETS | {"PREFECT_API_URL": self.api} | env
        command = [sys.executable, "-m", "flows.cli", *argv]
        return subprocess.Popen(command, env=given, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def run(self, store: str, out: str = f"{CANARY}-out", **env: str) -> "subprocess.Popen[str]":
        """`ghost run` of the canary."""
        arguments = self.bench.arguments(Path("unused"), f"--out={self.folder / out}")
        argv = [each for each in arguments if not each.startswith("--store=")]
        return self.start("run", str(self.folder / CANARY), *argv[2:], f"--store={store}", **env)

    def end(self, name: str, process: "subprocess.Popen[str]") -> tuple[int, str, str]:
        out, err = process.communicate(timeout=300)
        self.printed |= {f"{name} stdout": out, f"{name} stderr": err}
        return process.returncode, out, err

    def left(self) -> Iterator[tuple[str, bytes]]:
        """Everything there is after the runs, by where it is."""
        client = raw_client(self.endpoint)
        for entry in client.list_objects_v2(Bucket="runs")["Contents"]:
            head = client.get_object(Bucket="runs", Key=entry["Key"])
            yield f"store {entry['Key']}", entry["Key"].encode() + repr(head["Metadata"]).encode() + head["Body"].read()
        for path in self.folder.rglob("*"):
            if path.is_file():
                yield f"folder {path.relative_to(self.folder)}", path.read_bytes()
        for name, text in self.printed.items():
            yield f"printed {name}", text.encode()

    def holding(self, text: str) -> set[str]:
        """The places that hold `text`, as it is or encoded as addresses, JSON and headers have it."""
        plain = text.encode()
        spellings = {plain, quote(text, safe="").encode(), base64.b64encode(plain), json.dumps(text)[1:-1].encode()}
        return {name for name, data in self.left() if any(spelling in data for spelling in spellings)}


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """After a run that ended well, and runs that failed for several reasons."""
    folder = tmp_path_factory.mktemp("scene")
    (folder / "server").mkdir()
    with (
        ExitStack() as servers,
        pytest.MonkeyPatch.context() as patch,
        s3_endpoint() as endpoint,
        fault_proxy(endpoint) as (proxied, proxy),
    ):
        patch.setenv("PREFECT_SERVER_API_AUTH_STRING", SECRETS["PREFECT_API_AUTH_STRING"])
        api = servers.enter_context(prefect_server(folder / "server"))
        make_bucket(endpoint, "runs")
        scene = Scene(folder, api, endpoint, Bench(tmp_path_factory.mktemp("bench"), api, layers=2))
        make_model(folder / CANARY, layers=2)
        proxy.inject(Fault(error(403, "ExpiredToken"), method="PUT", match="layers/001", times=ALWAYS))
        yield run_all(scene, proxied)


def with_password(url: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=f"user:{PASSWORD}@{parts.netloc}").geturl()


def run_all(scene: Scene, proxied: str) -> Scene:
    code, _, err = scene.end("well", scene.run("s3://runs/good", AWS_ENDPOINT_URL=with_password(scene.endpoint)))
    assert code == 0, err
    failing = {
        "expired": scene.run(f"s3://runs/{CANARY}-bad", "other", AWS_ENDPOINT_URL=proxied),
        "prefect": scene.run("s3://runs/bad", "other", PREFECT_API_URL=with_password("http://127.0.0.1:9/api")),
        "refused": scene.run("s3://runs/bad", "other", PREFECT_API_AUTH_STRING="admin:wrong"),
    }
    for name, process in failing.items():
        code, out, err = scene.end(name, process)
        assert code == 2 and not out and "Traceback" not in err, (name, err)
    return scene


def test_no_secret_is_left_anywhere(scene: Scene) -> None:
    assert {text: places for text in FORBIDDEN if (places := scene.holding(text))} == {}


def test_the_search_finds_what_is_there(scene: Scene) -> None:
    found = scene.holding(CANARY)
    kinds = ("store good/runs/", "/run.json", "/report/index.html", "folder cache/", "folder server/prefect.db",
             f"folder {CANARY}-out/ghost.json", "printed well stdout", "printed expired stderr")  # fmt: skip
    missing = [kind for kind in kinds if not any(kind in name for name in found)]
    assert not missing, sorted(found)


def test_each_failure_names_its_remedy(scene: Scene) -> None:
    remedies = {
        "expired": "the credentials have expired",
        "prefect": "start it, or unset PREFECT_API_URL",
        "refused": "answered 401 Unauthorized; check PREFECT_API_URL",
    }
    last = {name: scene.printed[f"{name} stderr"].strip().splitlines()[-1] for name in remedies}
    assert {name: line for name, line in last.items() if remedies[name] not in line} == {}


def test_the_doctor_finds_store_and_server_and_tells_no_secret(scene: Scene) -> None:
    wrong = scene.start("doctor", "--json", PREFECT_API_AUTH_STRING="admin:wrong")
    code, out, err = scene.end("doctor", scene.start("doctor", "--store=s3://runs/good", "--json"))
    found: dict[str, Any] = {check["name"]: check for check in json.loads(out)["checks"]}
    assert code == 0, err
    assert found["store"]["found"].startswith("s3://runs/good: put, conditional put, list, read and delete work")
    assert "is healthy, Prefect 3." in found["prefect"]["found"]
    assert found["credentials"]["found"].startswith("found (env), not shown")
    assert not any(secret in out + err for secret in FORBIDDEN)
    code, out, _ = scene.end("wrong", wrong)
    assert code == 1 and f"{scene.api} answers 401" in out
