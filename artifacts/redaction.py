"""What must not be repeated in messages: passwords in addresses, and signed parts of them."""

import re

_USERINFO = re.compile(r"(?i)\b(https?://)\S*@")
_SIGNED = re.compile(r"(?i)\b((?:X-Amz-[A-Za-z-]+|Signature|AWSAccessKeyId)=)[^&\s'\"]+")


def redact(text: str) -> str:
    """`text` with *** for user and password in http(s) addresses, and for the values of presigned parameters."""
    return _SIGNED.sub(r"\1***", _USERINFO.sub(r"\1***@", text))
