"""`ghost convert`: a model folder in the other format."""

from pathlib import Path

from ghost.checkpoint.files import is_taken
from ghost.checkpoint.source import open_checkpoint
from ghost.convert import Format, convert
from ghost.errors import SettingsError
from tasks.staging import local


def convert_folder(model: str, out: Path, form: Format) -> None:
    """`model` as `ghost run` takes it, to the new folder `out`. GhostError for what can't be read, or held by the
    format; SettingsError where something is there already."""
    if is_taken(out):
        raise SettingsError(f"{out} is there already and not empty; give a new folder")
    convert(open_checkpoint(local(model, "model")), out, form)
