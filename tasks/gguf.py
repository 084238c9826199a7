"""`ghost gguf`: a checkpoint, from wherever it lies, as one GGUF file."""

from pathlib import Path

from ghost.checkpoint.source import open_checkpoint
from ghost.errors import SettingsError
from ghost.llama_cpp import FileType, Progress, require_package
from tasks.staging import local
from tasks.wording import display_name

CHECKOUT = "git clone --depth 1 https://github.com/ggml-org/llama.cpp"


def write_gguf(
    model: str,
    out: Path | None,
    file_type: FileType,
    *,
    tokenizer: str | None,
    converter: Path | None,
    progress: Progress,
) -> Path:
    """The file that was written: `out`, or NAME-TYPE.gguf in the working folder. GhostError for a model or a tokenizer
    that llama.cpp would not have as transformers does."""
    require_package()
    from ghost.llama_cpp.converter import convert
    from ghost.llama_cpp.limits import check_computable
    from ghost.llama_cpp.write import write_mamba2

    name = display_name(model).rpartition("/")[-1]
    file = _file(out or Path(f"{name}-{file_type}.gguf"))
    source = open_checkpoint(local(model, "model"))
    words = local(tokenizer, "tokenizer") if tokenizer else source.folder
    check_computable(source)
    if converter:
        convert(source, words, file, file_type, name, converter, progress)
    elif source.config.model_type == "mamba2":
        write_mamba2(source, words, file, file_type, name, progress)
    else:
        raise SettingsError(
            f"a {source.config.model_type} is written by llama.cpp's own converter: {CHECKOUT}, then --converter "
            "llama.cpp"
        )
    return file


def _file(path: Path) -> Path:
    if path.is_dir():
        raise SettingsError(f"{path} is a folder; give a file name, such as {path / 'model.gguf'}")
    return path
