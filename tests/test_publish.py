"""Publishing: a reader finds a whole checkpoint or none, on disk and on S3, whatever happens meanwhile."""

import json
import urllib.request
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest

from artifacts.digest import record_bytes, sha256_bytes
from artifacts.errors import MissingArtifact, StoreError
from artifacts.folders import open_folder
from artifacts.publish import MANIFEST, publish, published
from artifacts.schemas import FORMAT_VERSION
from artifacts.store import Store, open_store
from ghost.errors import SettingsError
from tasks.run.out import check_out
from tests.s3 import make_bucket, raw_client, s3_endpoint, s3_environment

CHECKPOINT = "runs/0123456789abcdef/checkpoint"
FILES = {
    "additional_chat_templates/tools/use.jinja": b"{{ messages }}",
    "additional_chat_templates/rag.jinja": b"",
    "config.json": b"{}\n",
    "ghost.json": b'{"ghost": {"run_id": "0123456789abcdef"}}',
    "model.safetensors": b"w" * 99,
}
RUN = "0123456789abcdef"
RECORD = {"run_id": RUN, "model": "tiny", "recipe": None}


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with s3_endpoint() as url, pytest.MonkeyPatch.context() as patch:
        for name, value in s3_environment(url).items():
            patch.setenv(name, value)
        make_bucket(url, "out")
        raw_client(url).put_bucket_versioning(Bucket="out", VersioningConfiguration={"Status": "Enabled"})
        yield url


@dataclass
class Finished:
    """Files of a run in a store, and what its manifest lists of them."""

    store: Store
    files: dict[str, bytes]

    def __post_init__(self) -> None:
        digests = {name: self.store.put(f"{CHECKPOINT}/{name}", data) for name, data in self.files.items()}
        self.listed = {name: {"size": len(self.files[name]), "sha256": digests[name]} for name in digests}

    def publish(self, target: str, record: dict[str, Any] = RECORD, first: str = "") -> str:
        return publish(self.store, CHECKPOINT, self.listed, target, record, first)


@pytest.fixture
def source(tmp_path: Path) -> Finished:
    return Finished(open_store(tmp_path / "store"), FILES)


@pytest.fixture(params=["local", "s3"])
def target(request: pytest.FixtureRequest, tmp_path: Path, endpoint: str) -> str:
    return str(tmp_path / "out" / "tiny") if request.param == "local" else s3_target(request)


def s3_target(request: pytest.FixtureRequest) -> str:
    return f"s3://out/{sha256_bytes(request.node.name.encode())[:16]}"


@contextmanager
def as_user(endpoint: str, **allowed: list[str]) -> Iterator[None]:
    """Inside, the environment's credentials are those of a user who may do this (action -> objects) on S3."""
    iam = boto3.client("iam", endpoint_url=endpoint)
    user = iam.create_user(UserName=uuid.uuid4().hex)["User"]["UserName"]
    policy = [
        {"Effect": "Allow", "Action": f"s3:{action}", "Resource": [f"arn:aws:s3:::{name}" for name in names]}
        for action, names in allowed.items()
    ]
    iam.put_user_policy(
        UserName=user, PolicyName="reads", PolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": policy})
    )
    key = iam.create_access_key(UserName=user)["AccessKey"]
    ask(endpoint, "0")
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("AWS_ACCESS_KEY_ID", key["AccessKeyId"])
            patch.setenv("AWS_SECRET_ACCESS_KEY", key["SecretAccessKey"])
            yield
    finally:
        ask(endpoint, "inf")


def ask(endpoint: str, free_actions: str) -> None:
    """Have moto check credentials and policies after so many requests."""
    url = f"{endpoint}/moto-api/reset-auth"
    plain = {"Content-Type": "text/plain"}
    urllib.request.urlopen(urllib.request.Request(url, free_actions.encode(), plain, method="POST")).close()


def remove(target: str, name: str, endpoint: str) -> None:
    if target.startswith("s3://"):
        bucket, _, prefix = target.removeprefix("s3://").partition("/")
        raw_client(endpoint).delete_object(Bucket=bucket, Key=f"{prefix}/{name}")
    else:
        (Path(target) / name).unlink()


def written(target: str, endpoint: str) -> list[Any]:
    """What changes when anything is written or deleted there."""
    if not target.startswith("s3://"):
        files = [path for path in Path(target).rglob("*") if path.is_file()]
        return sorted((path, path.stat().st_ino, path.stat().st_mtime_ns) for path in files)
    found = raw_client(endpoint).list_object_versions(Bucket="out", Prefix=target.removeprefix("s3://out/"))
    return [(item["Key"], item["VersionId"]) for item in found.get("Versions", []) + found.get("DeleteMarkers", [])]


def contents(target: str) -> dict[str, bytes]:
    folder = open_folder(target)
    return {entry.name: folder.read(entry.name) for entry in folder.entries()}


def test_a_published_checkpoint_has_its_files_and_a_manifest(source: Finished, target: str) -> None:
    assert published(target) is None
    assert source.publish(target, RECORD, first="ghost.json") == target
    found = contents(target)
    listed = {name: {"size": len(data), "sha256": sha256_bytes(data)} for name, data in FILES.items()}
    assert found.pop(MANIFEST) == record_bytes({"format": FORMAT_VERSION, **RECORD, "files": listed})
    assert found == FILES
    assert published(target) == {"format": FORMAT_VERSION, **RECORD, "files": listed}


def test_publishing_again_writes_nothing(source: Finished, target: str, endpoint: str) -> None:
    source.publish(target, RECORD)
    before = written(target, endpoint)
    assert source.publish(target + "/", RECORD) == target
    assert written(target, endpoint) == before and before


@pytest.mark.parametrize("name", ["model.safetensors", MANIFEST])
def test_what_lacks_a_file_is_not_published_and_is_completed(
    source: Finished, target: str, endpoint: str, name: str
) -> None:
    source.publish(target, RECORD)
    whole = contents(target)
    remove(target, name, endpoint)
    assert published(target) is None
    source.publish(target, RECORD)
    assert contents(target) == whole and published(target)


def test_a_file_of_another_size_is_not_published(source: Finished, target: str, endpoint: str) -> None:
    source.publish(target, RECORD)
    if target.startswith("s3://"):
        raw_client(endpoint).put_object(Bucket="out", Key=f"{target.removeprefix('s3://out/')}/config.json", Body=b"{")
    else:
        (Path(target) / "config.json").write_bytes(b"{")
    assert published(target) is None
    source.publish(target, RECORD)
    assert contents(target)["config.json"] == FILES["config.json"]


def test_another_record_of_the_same_run_replaces_the_manifest(source: Finished, target: str) -> None:
    source.publish(target, RECORD)
    source.publish(target, RECORD | {"recipe": "halved 2"})
    assert (published(target) or {})["recipe"] == "halved 2"


def test_an_upload_that_stops_leaves_no_manifest_and_continues(
    source: Finished, request: pytest.FixtureRequest, endpoint: str
) -> None:
    target = s3_target(request)
    source.publish(target, RECORD)
    source.listed["no such file"] = {"size": 1, "sha256": "0"}
    with pytest.raises(MissingArtifact, match="no such file is not in the store"):
        source.publish(target)
    del source.listed["no such file"]
    assert published(target) is None and MANIFEST not in contents(target)
    stopped = {key for key, _ in written(target, endpoint)}
    source.publish(target, RECORD)
    assert published(target)
    versions = [key for key, _ in written(target, endpoint)]
    assert {key for key in stopped if versions.count(key) > 1} == {f"{target.removeprefix('s3://out/')}/{MANIFEST}"}


def test_the_first_file_tells_whose_half_a_copy_is(
    source: Finished, request: pytest.FixtureRequest, endpoint: str
) -> None:
    target = s3_target(request)
    place = target.removeprefix("s3://")
    may = {"ListBucket": ["*"], "GetObject": ["*"], "DeleteObject": ["*"], "PutObject": [f"{place}/ghost.json"]}
    with as_user(endpoint, **may), pytest.raises(StoreError, match=r"cannot write .*: access denied"):
        source.publish(target, RECORD, first="ghost.json")
    assert contents(target).keys() == {"ghost.json"}
    check_out(target, RUN)
    with pytest.raises(SettingsError, match="holds something else"):
        check_out(target, "f" * 16)


def test_several_publishing_to_one_place_at_once_end_well(
    source: Finished, target: str, tmp_path: Path, endpoint: str
) -> None:
    former = Finished(open_store(tmp_path / "former"), {"ghost.json": b'{"ghost": {}}', "old": b"old"})
    former.publish(target, RECORD | {"model": "x"})
    for number in range(3):
        record = RECORD | {"recipe": f"round {number}"}
        with ThreadPoolExecutor(4) as pool:
            places = list(pool.map(lambda _, record=record: source.publish(target, record), range(4)))
        assert places == [target] * 4
        assert (published(target) or {})["recipe"] == f"round {number}"
        assert contents(target).items() >= FILES.items()
    if not target.startswith("s3://"):
        assert [path.name for path in Path(target).parent.iterdir()] == ["tiny"]


def test_a_reader_of_manifests_never_sees_half_a_checkpoint(source: Finished, target: str) -> None:
    def republish() -> None:
        for number in range(4):
            source.publish(target, RECORD | {"recipe": str(number)})

    seen: set[Any] = set()
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(republish)
        while not writing.done():
            if manifest := published(target):
                seen.add(manifest["recipe"])
        writing.result()
    assert (published(target) or {})["recipe"] == "3" and seen <= set("0123")


def test_out_is_checked_before_the_work(source: Finished, target: str, endpoint: str) -> None:
    check_out(target, RUN)
    assert not Path(target).exists() and not (target.startswith("s3://") and contents(target))
    source.publish(target, RECORD)
    check_out(target, RUN)
    with pytest.raises(SettingsError, match=f"out: {target} holds something else already; choose a new folder"):
        check_out(target, "f" * 16)
    remove(target, MANIFEST, endpoint)
    check_out(target, RUN)
    remove(target, "ghost.json", endpoint)
    with pytest.raises(SettingsError, match="holds something else"):
        check_out(target, RUN)


def test_a_bucket_that_cannot_be_written_to_is_refused_before_the_work(endpoint: str) -> None:
    with pytest.raises(StoreError, match="bucket absent: there is no such bucket; create it"):
        check_out("s3://absent/x", RUN)
    with pytest.raises(StoreError, match="without credentials or host"):
        check_out("s3://key:secret@out/x", RUN)
    denied = pytest.raises(StoreError, match=f"cannot write denied/{MANIFEST} in bucket out: access denied; allow")
    with as_user(endpoint, ListBucket=["*"], GetObject=["*"]), denied:
        check_out("s3://out/denied", RUN)
