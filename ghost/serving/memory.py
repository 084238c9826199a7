"""Memory as people write it: 24GiB, 80GB, 512 MiB."""

import re

from ghost.errors import SettingsError

UNITS = {"kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}
WRITTEN = re.compile(r"(\d{1,6}(?:\.\d{1,6})?)\s*([kmgt]i?b)", re.IGNORECASE)


def parse_memory(written: str) -> int:
    """Bytes. SettingsError for anything but a positive number with its unit."""
    found = WRITTEN.fullmatch(written.strip())
    size = int(float(found[1]) * UNITS[found[2].lower()]) if found else 0
    if size < 1:
        raise SettingsError(f"memory: {written!r} is no amount of memory; give a number and its unit, such as 24GiB")
    return size
