"""What a run calibrates on."""

from pydantic import Field

from ghost.config import Settings


class Calibration(Settings):
    """Calibration: the text that channels are scored on."""

    calibration: str = "stdlib"
    """Calibration text: `stdlib`, a .txt, .jsonl or .parquet path (`path:column`), or
    `hf:dataset:config:split:column`."""
    samples: int = Field(default=128, ge=1)
    """Calibration windows."""
    length: int = Field(default=128, ge=2)
    """Tokens of a calibration window."""
