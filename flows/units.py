"""Bytes and seconds as people read them."""

UNITS = ("bytes", "kB", "MB", "GB", "TB")


def in_bytes(size: float) -> str:
    """Such as `1.4 GB`."""
    for unit in UNITS[:-1]:
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} {UNITS[-1]}"


def in_binary(size: float) -> str:
    """Such as `24 GiB`."""
    return f"{size / 2**30:.4g} GiB"


def in_time(seconds: float) -> str:
    """Such as `40 seconds`, `12 minutes` or `3.5 hours`."""
    if seconds < 90:
        return f"{max(1, round(seconds))} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 90 * 60 else f"{seconds / 3600:.1f} hours"
