"""One way to reach S3, and one way to say what went wrong there: the bucket, the key and the remedy, in one line."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, PartialCredentialsError

from artifacts.errors import MissingArtifact, StoreError

SCHEME = "s3://"
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")
_CREDENTIALS = "renew the credentials (environment, profile or role)"
REMEDIES = {
    "NoSuchBucket": "there is no such bucket; create it, or correct the name or AWS_ENDPOINT_URL",
    "AccessDenied": "access denied; allow s3:ListBucket, GetObject, PutObject and DeleteObject there",
    "AllAccessDisabled": "access denied; ask the owner of the bucket",
    "Forbidden": "access denied; allow s3:ListBucket, GetObject, PutObject and DeleteObject there",
    "403": "access denied; allow s3:ListBucket, GetObject, PutObject and DeleteObject there",
    "ExpiredToken": f"the credentials have expired; {_CREDENTIALS}",
    "ExpiredTokenException": f"the credentials have expired; {_CREDENTIALS}",
    "TokenRefreshRequired": f"the credentials have expired; {_CREDENTIALS}",
    "InvalidAccessKeyId": f"the access key is unknown there; {_CREDENTIALS}",
    "InvalidToken": f"the session token is not valid; {_CREDENTIALS}",
    "SignatureDoesNotMatch": f"the secret key does not fit the access key; {_CREDENTIALS}",
    "RequestTimeTooSkewed": "this machine's clock is off; set it by NTP",
    "PermanentRedirect": "the bucket is in another region; set AWS_REGION",
    "AuthorizationHeaderMalformed": "the bucket is in another region; set AWS_REGION",
    "EntityTooLarge": "the object is larger than the store takes",
}
"""What to do about an error that trying again does not mend, by S3's code."""
ABSENT = {"NoSuchKey", "404", "NotFound"}


@dataclass(frozen=True, kw_only=True)
class S3Options:
    """How patient and how greedy: seconds, attempts, bytes. The defaults hold for slow links and big objects."""

    connect_timeout: float = 10.0
    read_timeout: float = 60.0
    attempts: int = 6
    part_bytes: int = 16 << 20
    concurrency: int = 4


@dataclass(frozen=True)
class S3Place:
    """A bucket and a prefix in it, without slashes at its ends."""

    bucket: str
    prefix: str

    @property
    def url(self) -> str:
        return f"{SCHEME}{self.bucket}/{self.prefix}".rstrip("/")

    def key(self, name: str) -> str:
        """The full key of an object by its name below this place."""
        return f"{self.prefix}/{name}" if self.prefix else name


def parse_place(url: str) -> S3Place:
    """`s3://bucket` or `s3://bucket/prefix`. StoreError for anything else; credentials in it are never repeated."""
    bucket, _, prefix = url.removeprefix(SCHEME).partition("/")
    if "@" in bucket or ":" in bucket:
        raise StoreError(
            "an s3:// address is s3://bucket/prefix, without credentials or host; give those by the environment "
            "(AWS_ACCESS_KEY_ID, AWS_PROFILE, AWS_ENDPOINT_URL)"
        )
    if not url.startswith(SCHEME) or not _BUCKET.fullmatch(bucket):
        raise StoreError(f"{url!r} is no address of object storage; give s3://bucket/prefix")
    prefix = prefix.strip("/")
    if not {"..", "."}.isdisjoint(prefix.split("/")) or "//" in prefix or not prefix.isprintable():
        raise StoreError(f"{url!r} has a prefix that no folder can have; give s3://bucket/prefix")
    return S3Place(bucket, prefix)


def make_client(options: S3Options) -> Any:
    """An S3 client with the standard credential chain and endpoint settings (AWS_ENDPOINT_URL, profiles)."""
    config = Config(
        connect_timeout=options.connect_timeout,
        read_timeout=options.read_timeout,
        retries={"mode": "adaptive", "total_max_attempts": options.attempts},
        max_pool_connections=2 * options.concurrency,
        # Stores other than AWS's know no checksums of the newer kind; ghost has its own sha256 for every object.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    return boto3.session.Session().client("s3", config=config)


def error_code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


@contextmanager
def reporting(place: S3Place, action: str, name: str = "") -> Iterator[None]:
    """Turn what boto3 raises into StoreError (MissingArtifact for an absent object) naming bucket, key and remedy."""
    try:
        yield
    except ClientError as error:
        code = error_code(error)
        if code in ABSENT and name:
            raise MissingArtifact(f"{name} is not in the store {place.url}; run the same command again") from error
        reason = REMEDIES.get(code) or f"it answered {code or 'an error'}; try again later, or look at its status"
        raise StoreError(f"{_what(place, action, name)}: {reason}") from error
    except (NoCredentialsError, PartialCredentialsError) as error:
        raise StoreError(
            f"{_what(place, action, name)}: there are no complete credentials; set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        ) from error
    except BotoCoreError as error:
        kind = type(error).__name__
        raise StoreError(
            f"{_what(place, action, name)}: {kind}; check the network and AWS_ENDPOINT_URL, then try again"
        ) from error


def _what(place: S3Place, action: str, name: str) -> str:
    return f"cannot {action} {f'{place.key(name)} ' if name else ''}in bucket {place.bucket}"
