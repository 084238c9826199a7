"""One way to reach S3, and one way to say what went wrong there: the bucket, the key and the remedy, in one line."""

import random
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from botocore import exceptions
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.loaders import create_loader
from botocore.parsers import ResponseParserError
from botocore.session import get_session
from urllib3.exceptions import HTTPError

from artifacts.errors import MissingArtifact, StoreError
from artifacts.places import SCHEME

Result = TypeVar("Result")

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")
_CODE = re.compile(r"[A-Za-z0-9.]{1,64}")
_DENIED = "access denied; allow s3:ListBucket, GetObject, PutObject and DeleteObject there"
_CREDENTIALS = "renew the credentials (environment, profile or role)"
_REGION = "the bucket is in another region; set AWS_DEFAULT_REGION"
REMEDIES = {
    "NoSuchBucket": "there is no such bucket; create it, or correct the name or AWS_ENDPOINT_URL",
    "AccessDenied": _DENIED,
    "Forbidden": _DENIED,
    "403": _DENIED,
    "AllAccessDisabled": "access denied; ask the owner of the bucket",
    "ExpiredToken": f"the credentials have expired; {_CREDENTIALS}",
    "ExpiredTokenException": f"the credentials have expired; {_CREDENTIALS}",
    "TokenRefreshRequired": f"the credentials have expired; {_CREDENTIALS}",
    "InvalidAccessKeyId": f"the access key is unknown there; {_CREDENTIALS}",
    "InvalidToken": f"the session token is not valid; {_CREDENTIALS}",
    "SignatureDoesNotMatch": f"the secret key does not fit the access key; {_CREDENTIALS}",
    "RequestTimeTooSkewed": "this machine's clock is off; set it by NTP",
    "PermanentRedirect": _REGION,
    "AuthorizationHeaderMalformed": _REGION,
    "IllegalLocationConstraintException": _REGION,
    "EntityTooLarge": "the object is larger than the store takes",
    "InvalidObjectState": "the object is archived; restore it there first",
    "NotImplemented": "it lacks what ghost needs (conditional puts, If-None-Match); update its software",
}
"""What to do about an error that trying again does not mend, by S3's code."""
ABSENT = {"NoSuchKey", "404", "NotFound"}
_DESCRIPTIONS = create_loader()
"""Of the services, shared by all clients: parsing them is most of the time that it takes to make one."""
_UNREADABLE = (ResponseParserError, HTTPError)
"""Answers that end too early or make no sense: boto3 hands these two up as they are, whatever its retries."""
_UNUSABLE_CREDENTIALS = (
    exceptions.NoCredentialsError,
    exceptions.PartialCredentialsError,
    exceptions.CredentialRetrievalError,
    exceptions.SSOError,
    exceptions.TokenRetrievalError,
)


@dataclass(frozen=True, kw_only=True)
class S3Options:
    """How patient and how greedy: seconds, attempts, bytes. The defaults hold for slow links and big objects."""

    connect_timeout: float = 10.0
    read_timeout: float = 60.0
    attempts: int = 10
    """Of each request. Ten take 13 seconds on average if each fails at once, and a minute if each is throttled."""
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
    """An S3 client with the standard credential chain and endpoint settings (AWS_ENDPOINT_URL, profiles).

    Raises StoreError where those settings cannot be used.
    """
    config = Config(
        connect_timeout=options.connect_timeout,
        read_timeout=options.read_timeout,
        retries={"mode": "adaptive", "total_max_attempts": options.attempts},
        max_pool_connections=2 * options.concurrency,
        # Stores other than AWS's know no checksums of the newer kind; ghost has its own sha256 for every object.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    try:
        session = get_session()
        session.register_component("data_loader", _DESCRIPTIONS)
        return session.create_client("s3", config=config)
    except (BotoCoreError, ValueError) as error:
        # Not the message: an endpoint's address may hold a password.
        kind = type(error).__name__
        raise StoreError(
            f"cannot set up S3 ({kind}); check AWS_ENDPOINT_URL, AWS_PROFILE and AWS_CONFIG_FILE"
        ) from error


def metadata_of(answer: Mapping[str, Any]) -> dict[str, str]:
    """What was stored beside an object, by names in lower case: proxies and older servers send them in another."""
    return {name.lower(): value for name, value in answer.get("Metadata", {}).items()}


def error_code(error: ClientError) -> str:
    """S3's code, '' where the answer has none that looks like one."""
    code = str(error.response.get("Error", {}).get("Code", ""))
    return code if _CODE.fullmatch(code) else ""


def pause(attempt: int) -> None:
    """Wait after the failed `attempt`, counted from 1: longer each time, and never as long as another process."""
    time.sleep(random.uniform(0, min(20.0, 0.1 * 2.0**attempt)))


def persist(attempts: int, call: Callable[[], Result], *codes: str) -> Result:
    """`call()`, made again where boto3 does not by itself: after unreadable answers and errors of these codes."""
    for attempt in range(1, attempts):
        try:
            return call()
        except _UNREADABLE:
            pause(attempt)
        except ClientError as error:
            if error_code(error) not in codes:
                raise
            pause(attempt)
    return call()


@contextmanager
def reporting(place: S3Place, action: str, name: str = "") -> Iterator[None]:
    """Turn what boto3 raises into StoreError naming bucket, key and remedy, and an absent object into MissingArtifact.

    `action` is a verb for the message; what cannot be written (`write`) is never taken for absent.
    """
    try:
        yield
    except ClientError as error:
        code = error_code(error)
        if code in ABSENT and name and action != "write":
            raise MissingArtifact(missing(place, name)) from error
        reason = REMEDIES.get(code) or f"it answered {code or 'an error'}; try again later, or look at its status"
        raise StoreError(f"{_what(place, action, name)}: {reason}") from error
    except _UNUSABLE_CREDENTIALS as error:
        raise StoreError(
            f"{_what(place, action, name)}: there are no complete credentials ({type(error).__name__}); set "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        ) from error
    except (BotoCoreError, *_UNREADABLE) as error:
        raise StoreError(
            f"{_what(place, action, name)}: {type(error).__name__}; check the network and AWS_ENDPOINT_URL, then try "
            "again"
        ) from error


def missing(place: S3Place, name: str) -> str:
    return f"{name} is not in the store {place.url}; run the same command again to make it"


def _what(place: S3Place, action: str, name: str) -> str:
    return f"cannot {action} {f'{place.key(name)} ' if name else ''}in bucket {place.bucket}"
