"""What ghost talks to: the store and its credentials, Prefect's API, the Hugging Face hub. No secret is ever shown."""

import os
import time
import uuid

from artifacts.errors import AlreadyThere, ArtifactError, StoreError
from artifacts.folders import is_remote
from artifacts.store import Store, open_store
from ghost.errors import GhostError
from tasks.doctor.check import Check, ok, problem, warning

PROBES = "doctor"
"""The folder of the store in which the doctor tries it."""


def store_access(store: str | None) -> list[Check]:
    """An object put, refused a second time, listed, read, verified and deleted, as runs do it."""
    if store is None:
        return [warning("store", "none was tried", "ghost doctor --store URL, or set GHOST_STORE")]
    started = time.perf_counter()
    try:
        opened = open_store(store)
        _probe(opened)
    except ArtifactError as error:
        found, _, remedy = str(error).rpartition("; ")
        return [problem("store", found or remedy, remedy if found else "see docs/operations.md")]
    seconds = time.perf_counter() - started
    return [ok("store", f"{opened.url}: put, conditional put, list, read and delete work, {seconds:.2f} s in all")]


def _probe(store: Store) -> None:
    key, data = f"{PROBES}/{uuid.uuid4().hex}", os.urandom(4096)
    try:
        store.put(key, data, if_absent=True)
        _check_conditional(store, key)
        if store.list(f"{PROBES}/").count(key) != 1:
            raise StoreError(f"store {store.url} does not list {key}, just put; use one that lists at once")
        if store.record(key) != data:  # without a digest to ask for: S3 has to give back the one in the metadata
            raise StoreError(f"store {store.url} gave other bytes than were put; use a service that keeps them")
    finally:
        store.delete(key)
    if store.exists(key):
        raise StoreError(f"store {store.url} keeps {key}, just deleted; allow deletion, or remove it by hand")


def _check_conditional(store: Store, key: str) -> None:
    try:
        store.put(key, b"a second writer's", if_absent=True)
    except AlreadyThere:
        return
    raise StoreError(
        f"store {store.url} lets a second writer replace what the first put (it ignores If-None-Match); update its "
        "software, or let one run at a time write to it"
    )


def credentials(store: str | None) -> list[Check]:
    """Where the credentials for object storage come from, by the standard chain."""
    from boto3.session import Session
    from botocore.exceptions import BotoCoreError

    try:
        session = Session()
        found, client = session.get_credentials(), session.client("s3")
    except (BotoCoreError, ValueError) as error:  # not its message: an address in it may hold a password
        remedy = "correct AWS_PROFILE, AWS_CONFIG_FILE and AWS_ENDPOINT_URL"
        return [problem("credentials", f"unusable settings ({type(error).__name__})", remedy)]
    if found is None:
        remedy = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        if store and is_remote(store):
            return [problem("credentials", "none found for object storage", remedy)]
        return [ok("credentials", "none found; only s3:// addresses need them")]
    where = f"endpoint {client.meta.endpoint_url}, region {client.meta.region_name}"
    return [ok("credentials", f"found ({found.method}), not shown; {where}")]


def prefect_api() -> list[Check]:
    """The server that PREFECT_API_URL names; without one, an embedded one is started as each run does, and stopped."""
    from prefect.client.base import ServerType, determine_server_type
    from prefect.settings import PREFECT_API_URL

    server = determine_server_type()
    if server == ServerType.UNCONFIGURED:
        found = "PREFECT_API_URL is not set, and an embedded server is not allowed"
        return [problem("prefect", found, "set it, or PREFECT_SERVER_ALLOW_EPHEMERAL_MODE=true")]
    return _embedded() if server == ServerType.EPHEMERAL else _served(PREFECT_API_URL.value())


def _embedded() -> list[Check]:
    from prefect.settings import PREFECT_HOME

    from tasks.embedded_server import EmbeddedServer

    started = time.perf_counter()
    try:
        with EmbeddedServer():
            seconds = time.perf_counter() - started
    except GhostError as error:
        found, _, remedy = str(error).rpartition("; ")
        return [problem("prefect", found, remedy)]
    where = f"no PREFECT_API_URL: each run starts a server of its own, data in {PREFECT_HOME.value()}"
    return [ok("prefect", f"{where}; one started in {seconds:.1f} s, and was stopped")]


def _served(url: str) -> list[Check]:
    from httpx import HTTPError
    from prefect import __version__
    from prefect.client.orchestration import get_client
    from prefect.exceptions import PrefectHTTPStatusError

    try:
        with get_client(sync_client=True) as client:
            served = client.api_version()
    except PrefectHTTPStatusError as error:
        remedy = "check PREFECT_API_URL, PREFECT_API_KEY and PREFECT_API_AUTH_STRING"
        return [problem("prefect", f"{url} answers {error.response.status_code}", remedy)]
    except (HTTPError, RuntimeError) as error:
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        return [problem("prefect", f"{url} does not answer ({reason})", "start the server, or unset PREFECT_API_URL")]
    if served.split(".")[:2] != __version__.split(".")[:2]:
        found = f"{url} is Prefect {served}, this is {__version__}"
        return [warning("prefect", found, "run the same minor version on both sides")]
    return [ok("prefect", f"{url} is healthy, Prefect {served}")]


def hub() -> list[Check]:
    """Whether models and texts may come from the Hugging Face hub. It is not called."""
    from huggingface_hub import constants, get_token

    token = "with a token, not shown" if get_token() else "without a token: public models only"
    if constants.HF_HUB_OFFLINE:
        return [ok("hub", f"offline (HF_HUB_OFFLINE): hub names are taken from {constants.HF_HUB_CACHE} alone")]
    return [ok("hub", f"online at {constants.ENDPOINT}, {token}; cache {constants.HF_HUB_CACHE}")]
