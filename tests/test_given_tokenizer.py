"""A tokenizer that is given: it takes the place of the model's own, whole, and belongs to what the run is."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

import ghost
from ghost.checkpoint.tokenizer import CONFIG, published, tokenizer_files
from tasks.run.open import open_run
from tests.by_hand import small_settings, through_layers
from tests.models import make_model, make_tokenizer, text

OWN: dict[str, Any] = {"chat_template": {"default": "own {{ messages }}", "tool_use": "own tools"}}
MENDED: dict[str, dict[str, Any]] = {
    "padding": {"pad_token": "<|pad|>"},
    "an end of its own": {"eos_token": "<|im_end|>"},
    "a chat template": {"chat_template": "mended {{ messages }}"},
    "templates": {"chat_template": {"default": "mended", "rag": "mended too"}},
    "special tokens": {"extra_special_tokens": ["<|tool|>"]},
    "nothing": {},
}


def make_given(folder: Path, **fields: Any) -> Path:
    """A tokenizer's folder, with these fields set."""
    make_tokenizer(folder)
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    added = {name: value for name, value in fields.items() if name != "chat_template"}
    if added:
        tokenizer.add_special_tokens(added)
    tokenizer.chat_template = fields.get("chat_template")
    shutil.rmtree(folder)
    tokenizer.save_pretrained(folder)
    return folder


def with_own(folder: Path) -> Path:
    """A model whose own tokenizer says something else everywhere, in files of every kind."""
    make_model(folder, layers=2)
    make_given(folder / "made", eos_token="<|own|>", pad_token="<|own|>", **OWN)
    for path in (folder / "made").rglob("*"):
        target = folder / path.relative_to(folder / "made")
        target.mkdir(exist_ok=True) if path.is_dir() else shutil.copyfile(path, target)
    shutil.rmtree(folder / "made")
    (folder / "special_tokens_map.json").write_text(json.dumps({"eos_token": "<|own|>", "pad_token": "<|own|>"}))
    (folder / "added_tokens.json").write_text(json.dumps({"<|own|>": 300}))
    for name in ("vocab.json", "merges.txt", "spiece.model", "tekken.json", "chat_template.json"):
        (folder / name).write_text("{}")
    (folder / "NOTICE").write_text("notice")
    return folder


def assert_same(found: Path, given: Path) -> None:
    """As AutoTokenizer makes them."""
    one, other = (AutoTokenizer.from_pretrained(folder) for folder in (found, given))
    for name in ("special_tokens_map", "all_special_ids", "chat_template", "padding_side", "model_max_length"):
        assert getattr(one, name) == getattr(other, name), name
    for name in ("eos_token_id", "pad_token_id", "bos_token_id"):
        assert getattr(one, name) == getattr(other, name), name
    assert one.get_vocab() == other.get_vocab()
    assert one("state <|im_end|> of a model")["input_ids"] == other("state <|im_end|> of a model")["input_ids"]


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("fields", MENDED.values(), ids=MENDED)
def test_it_is_published_in_place_of_the_models_own(fields: dict[str, Any], tmp_path: Path) -> None:
    with_own(tmp_path / "model")
    (tmp_path / "text.txt").write_text(text(400))
    given = make_given(tmp_path / "given", **fields)
    run = through_layers(small_settings(tmp_path, tokenizer=str(given)))
    run.export()
    out = run.exported.folder(run.run)
    assert_same(out, given)
    assert names(out) == {"config.json", "model.safetensors", "generation_config.json", "NOTICE"} | names(given)
    saved = ghost.prune(
        tmp_path / "model", calibration=tmp_path / "text.txt", tokenizer=given, samples=4, length=32, round_to=8
    ).save(tmp_path / "saved")
    assert_same(saved, given)
    assert names(saved) - {"ghost.json"} == names(out)
    assert all((saved / name).read_bytes() == (out / name).read_bytes() for name in names(given))


def test_the_ids_at_which_the_model_stops_stay_the_models_own(tmp_path: Path) -> None:
    with_own(tmp_path / "model")
    (tmp_path / "text.txt").write_text(text(400))
    given = make_given(tmp_path / "given", eos_token="<|im_end|>")
    run = through_layers(small_settings(tmp_path, tokenizer=str(given)))
    run.export()
    before, after = (
        AutoModelForCausalLM.from_pretrained(folder) for folder in (tmp_path / "model", run.exported.folder(run.run))
    )
    assert after.generation_config.eos_token_id == before.generation_config.eos_token_id == 0
    assert after.config.eos_token_id == before.config.eos_token_id == 0


def test_it_belongs_to_what_the_run_is(tmp_path: Path) -> None:
    settings = small_settings(tmp_path)
    ids = [open_run(settings).keys.run_id]
    given = tmp_path / "given"
    for fields in ({}, {"pad_token": "<|endoftext|>"}, {"chat_template": "new"}, MENDED["templates"]):
        make_given(given, **fields)
        ids.append(open_run(small_settings(tmp_path, tokenizer=str(given))).keys.run_id)
    assert len(set(ids)) == 5
    moved = shutil.copytree(given, tmp_path / "moved")
    assert open_run(small_settings(tmp_path, tokenizer=str(moved))).keys.run_id == ids[-1]


def test_what_is_published_of_it_does_not_tell_how_it_was_loaded(tmp_path: Path) -> None:
    given = make_given(tmp_path / "given", **MENDED["templates"])
    offline = tokenizer_files(AutoTokenizer.from_pretrained(given, local_files_only=True))
    assert offline == tokenizer_files(AutoTokenizer.from_pretrained(given, local_files_only=False))
    assert str(tmp_path).encode() not in b"".join(offline.values())


def test_the_home_folder_is_found_by_its_sign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = small_settings(tmp_path)
    make_given(tmp_path / "given", pad_token="<|endoftext|>")
    expected = open_run(small_settings(tmp_path, tokenizer=str(tmp_path / "given"))).keys.run_id
    monkeypatch.setenv("HOME", str(tmp_path))
    assert open_run(settings.model_copy(update={"model": "~/model", "tokenizer": "~/given"})).keys.run_id == expected
    corpus = tmp_path / "text.txt"
    pruned = ghost.prune("~/model", calibration=corpus, tokenizer="~/given", samples=2, length=32, round_to=8)
    assert pruned.tokenizer is not None and pruned.tokenizer.pad_token == "<|endoftext|>"


def test_transformers_4_57_knows_the_words_of_what_is_published(tmp_path: Path) -> None:
    """It has another name for the class, and a table where 5 has a list of further special tokens."""
    given = make_given(tmp_path / "given", extra_special_tokens=["<|tool|>", "<|user|>"])
    saved = json.loads((given / "tokenizer_config.json").read_bytes())
    assert saved["tokenizer_class"] == "TokenizersBackend" and isinstance(saved["extra_special_tokens"], list)
    for files in (
        tokenizer_files(AutoTokenizer.from_pretrained(given)),
        {CONFIG: published(CONFIG, (given / CONFIG).read_bytes())},
    ):
        fields = json.loads(files[CONFIG])
        assert fields["tokenizer_class"] == "PreTrainedTokenizerFast" and "extra_special_tokens" not in fields
        assert fields["additional_special_tokens"] == ["<|tool|>", "<|user|>"]
        (given / CONFIG).write_bytes(files[CONFIG])
        again = AutoTokenizer.from_pretrained(given)
        assert again.extra_special_tokens == ["<|tool|>", "<|user|>"] and again.is_fast


@pytest.mark.parametrize(
    "content", [b"{", b"[]", b'{"tokenizer_class": "GPTNeoXTokenizer"}', b'{"extra_special_tokens": {"a": "b"}}']
)
def test_what_it_reads_as_it_is_stays_as_it_is(content: bytes) -> None:
    assert published(CONFIG, content) == content
    assert (
        published("config.json", b'{"tokenizer_class": "TokenizersBackend"}')
        == b'{"tokenizer_class": "TokenizersBackend"}'
    )
