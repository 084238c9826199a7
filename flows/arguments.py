"""Options that several commands share."""

import os
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import typer


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
