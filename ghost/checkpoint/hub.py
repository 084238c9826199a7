"""A model of the Hugging Face hub, in the hub's own cache: what is read of it, or published, and nothing else."""

from collections.abc import Iterator
from contextlib import contextmanager
from glob import escape
from pathlib import Path

from ghost.checkpoint.companions import CONFIG
from ghost.checkpoint.files import read_json
from ghost.checkpoint.tensors import INDEXED, SINGLE, model_files
from ghost.errors import CheckpointError


def download(name: str) -> Path:
    """The snapshot of owner/name. Many repositories hold their weights several times over: config and index say which
    files count. Where the hub does not answer, it is what an earlier download left. CheckpointError without either."""
    from huggingface_hub import hf_hub_download, snapshot_download

    with _in_one_line(name):
        snapshot = download_config(name)
        if (names := _listed(name, snapshot)) is None:
            return snapshot
        wanted = model_files(names, lambda index: _shards(Path(hf_hub_download(name, index))))
        return Path(snapshot_download(name, allow_patterns=[escape(file) for file in sorted(wanted)]))


def download_config(name: str) -> Path:
    """The snapshot of owner/name, of which config.json alone is sure to be there. CheckpointError as `download`."""
    from huggingface_hub import hf_hub_download

    with _in_one_line(name):
        return Path(hf_hub_download(name, CONFIG)).parent


@contextmanager
def _in_one_line(name: str) -> Iterator[None]:
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise CheckpointError(
            f"model {name}: no such folder here, and the hub did not give it ({reason}); check the name or the network"
        ) from None


def _listed(name: str, snapshot: Path) -> set[str] | None:
    """The names of all files; None where the hub can't be asked, and weights are here already."""
    from huggingface_hub import HfApi

    try:
        return set(HfApi().list_repo_files(name))
    except Exception:
        if any((snapshot / weights).exists() for weights in (*SINGLE, *INDEXED)):
            return None
        raise


def _shards(index: Path) -> set[str]:
    """None of an index that is no index, as `find_tensors` will say."""
    try:
        return {str(shard) for shard in read_json(index)["weight_map"].values()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return set()
