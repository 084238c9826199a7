"""Options that several commands share."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer

from ghost.errors import SettingsError


def _use_endpoint(url: str | None) -> str | None:
    """Lead this process and those it starts to another S3 service than AWS's."""
    if url is None:
        return None
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise typer.BadParameter("give http://host:port or https://host")
    if parts.username or parts.password:
        raise typer.BadParameter("it holds credentials; give those by AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
    os.environ["AWS_ENDPOINT_URL"] = url
    os.environ.pop("AWS_ENDPOINT_URL_S3", None)  # boto3 prefers it
    return url


def expand_home(path: Path | None) -> Path | None:
    """`~` as the user means it: a shell leaves it as it is after an equals sign."""
    return path and path.expanduser()


def split(values: Iterable[str]) -> list[str]:
    """The parts of an option that takes commas, and may be given several times."""
    return [part.strip() for value in values for part in value.split(",") if part.strip()]


def numbers(name: str, values: Sequence[str], kind: type[int] | type[float], like: str) -> list[Any]:
    """The same as numbers. SettingsError, with a list `like` what it takes, where one is none."""
    try:
        return [kind(value) for value in split(values)]
    except ValueError:
        raise SettingsError(f"{name}: {','.join(values)!r} is no list of numbers; give such as {like}") from None


EndpointUrl = Annotated[
    str | None,
    typer.Option(
        callback=_use_endpoint,
        help="S3 service that s3:// addresses mean, for MinIO, R2 or Ceph; as AWS_ENDPOINT_URL does.",
    ),
]
StoreUrl = Annotated[
    str, typer.Option(envvar="GHOST_STORE", help="Folder or s3://bucket/prefix that keeps the artifacts.")
]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on stdout; everything else goes to stderr.")
]
