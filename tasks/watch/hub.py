"""The models of an organisation on the Hugging Face hub, as candidates. Nothing but small JSON files is downloaded."""

from pathlib import Path
from typing import Any

from artifacts.folders import Entry
from ghost.errors import CheckpointError, SettingsError
from tasks.watch.checkpoint_folder import CONFIG, CheckpointFolder

HUB = "hf:"


def hub_candidates(organisation: str) -> dict[str, CheckpointFolder]:
    """The organisation's models that have a config.json, by name (owner/name). SettingsError without an answer."""
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        models = list(api.list_models(author=organisation))
    except Exception as error:
        raise SettingsError(
            f"source {HUB}{organisation}: the hub gave no list ({_reason(error)}); check the name or the network"
        ) from None
    candidates = [_candidate(api, model.id) for model in models]
    return {candidate.path: candidate for candidate in candidates if CONFIG in candidate.files}


def _candidate(api: Any, name: str) -> CheckpointFolder:
    """A model that the hub does not tell about is one that can't be read: the others are looked at all the same."""
    try:
        info = api.model_info(name, files_metadata=True)
    except Exception as error:
        return _unreadable(name, f"the hub did not tell about it ({_reason(error)})")
    files = {file.rfilename: Entry(file.rfilename, file.size or 0, file.blob_id or "") for file in info.siblings or ()}

    def read(file: str, start: int, length: int | None) -> bytes:
        data = _download(name, file, info.sha).read_bytes()[start:]
        return data if length is None else data[:length]

    return CheckpointFolder(name, name, "hub", files, read, commit=info.sha)


def _unreadable(name: str, problem: str) -> CheckpointFolder:
    def read(file: str, start: int, length: int | None) -> bytes:
        raise CheckpointError(problem)

    return CheckpointFolder(name, name, "hub", {CONFIG: Entry(CONFIG, 0, "")}, read)


def _download(name: str, file: str, commit: str) -> Path:
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(name, file, revision=commit))
    except Exception as error:
        raise CheckpointError(f"the hub did not give {file} ({_reason(error)})") from None


def _reason(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
