"""`ghost gguf`: a mamba2's file read back with the gguf package, and what is refused before one is written."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers
from torch import Tensor

from ghost.checkpoint.source import open_checkpoint
from ghost.llama_cpp.vocabulary import PATTERNS, pre_tokenizer
from tasks.gguf import write_gguf
from tests.hybrids import make_hybrid
from tests.models import VOCAB, make_model, make_native, make_tokenizer, prune
from tests.projected import projected_model

pytest_plugins = ["tests.refusals"]

Command = Callable[..., str]
LAYERS, GROUPS, STATE = 2, 2, 12
MATRICES = ("token_embd.weight", "output.weight", "ssm_in.weight", "ssm_out.weight")


def written(model: Path | str, out: Path, file_type: Any = "f32", **options: Any) -> gguf.GGUFReader:
    ignored = {"tokenizer": None, "converter": None, "progress": lambda done, total: None}
    return gguf.GGUFReader(write_gguf(str(model), out, file_type, **ignored | options))


def values(reader: gguf.GGUFReader, name: str) -> np.ndarray:
    """In float32, in numpy's order of dimensions."""
    found = next(tensor for tensor in reader.tensors if tensor.name == name)
    return gguf.dequantize(found.data, found.tensor_type).reshape(found.shape[::-1])


def field(reader: gguf.GGUFReader, name: str) -> Any:
    found = reader.fields.get(name)
    return None if found is None else found.contents()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gguf") / "tiny"
    return make_model(folder, layers=LAYERS, d_state=STATE, n_groups=GROUPS, tie_word_embeddings=False)


@pytest.fixture(scope="module")
def reader(model: Path) -> gguf.GGUFReader:
    return written(model, model.parent / "tiny.gguf")


def test_llama_cpp_finds_a_mamba2s_sizes_under_its_own_keys(reader: gguf.GGUFReader) -> None:
    wanted = {
        "general.architecture": "mamba2", "general.name": "tiny", "general.file_type": 0,
        "mamba2.context_length": 2**20, "mamba2.embedding_length": 32, "mamba2.block_count": LAYERS,
        "mamba2.feed_forward_length": 0, "mamba2.attention.head_count": 0, "mamba2.vocab_size": VOCAB,
        "mamba2.ssm.conv_kernel": 4, "mamba2.ssm.inner_size": 64, "mamba2.ssm.state_size": STATE,
        "mamba2.ssm.time_step_rank": 4, "mamba2.ssm.group_count": GROUPS,
    }  # fmt: skip
    assert {name: field(reader, name) for name in wanted} == wanted
    assert field(reader, "mamba2.attention.layer_norm_rms_epsilon") == pytest.approx(1e-5)


def test_every_tensor_is_there_in_llama_cpps_shape(reader: gguf.GGUFReader, model: Path) -> None:
    ours, found = load_file(model / "model.safetensors"), {}
    for i in range(LAYERS):
        layer = f"backbone.layers.{i}"
        found |= {f"blk.{i}.attn_norm.weight": ours[f"{layer}.norm.weight"]}
        mixer = {name.removeprefix(f"{layer}.mixer."): t for name, t in ours.items() if f"{layer}.mixer." in name}
        found |= {f"blk.{i}.{name}": tensor for name, tensor in as_llama_cpp_has_it(mixer).items()}
    found |= {"token_embd.weight": ours["backbone.embeddings.weight"], "output.weight": ours["lm_head.weight"]}
    found |= {"output_norm.weight": ours["backbone.norm_f.weight"]}
    assert {tensor.name for tensor in reader.tensors} == found.keys()
    for name, tensor in found.items():
        np.testing.assert_array_equal(values(reader, name), tensor.numpy(), name)


def as_llama_cpp_has_it(mixer: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        "ssm_in.weight": mixer["in_proj.weight"],
        "ssm_conv1d.weight": mixer["conv1d.weight"].squeeze(1),
        "ssm_conv1d.bias": mixer["conv1d.bias"],
        "ssm_dt.bias": mixer["dt_bias"],
        "ssm_a": -torch.exp(mixer["A_log"])[:, None],
        "ssm_d": mixer["D"][:, None],
        "ssm_norm.weight": mixer["norm.weight"].view(GROUPS, -1),
        "ssm_out.weight": mixer["out_proj.weight"],
    }


@pytest.mark.parametrize(("file_type", "share"), [("f16", 2.0**-11), ("q8_0", 0.5 / 127 + 2.0**-11)])
def test_matrices_take_the_files_type_and_nothing_else_does(
    file_type: str, share: float, reader: gguf.GGUFReader, model: Path, tmp_path: Path
) -> None:
    small = written(model, tmp_path / "small.gguf", file_type)
    kinds = {t.name: t.tensor_type.name for t in small.tensors}
    assert {kind for name, kind in kinds.items() if name.endswith(MATRICES)} == {file_type.upper()}
    assert {kind for name, kind in kinds.items() if not name.endswith(MATRICES)} == {"F32"}
    for name in kinds:
        exact = values(reader, name)
        blocks = exact.reshape(-1, 32 if name.endswith(MATRICES) else 1)  # those that share a scale
        off = np.abs(values(small, name) - exact).reshape(blocks.shape)
        assert (off <= share * np.abs(blocks).max(-1, keepdims=True) + 1e-7).all(), name


def test_rows_that_do_not_divide_into_blocks_are_float16(tmp_path: Path) -> None:
    odd = make_model(tmp_path / "odd", layers=1, hidden_size=40, num_heads=5, tie_word_embeddings=True)
    kinds = {t.name: t.tensor_type.name for t in written(odd, tmp_path / "odd.gguf", "q8_0").tensors}
    assert (kinds["blk.0.ssm_in.weight"], kinds["token_embd.weight"]) == ("F16", "F16")
    assert "output.weight" not in kinds


def test_a_pruned_checkpoint_has_its_smaller_state(model: Path, tmp_path: Path) -> None:
    prune(open_checkpoint(model), tmp_path / "pruned", sparsity=0.5)
    reader = written(tmp_path / "pruned", tmp_path / "pruned.gguf")
    kept = json.loads((tmp_path / "pruned" / "config.json").read_text())["state_size"]
    assert field(reader, "mamba2.ssm.state_size") == kept < STATE
    assert values(reader, "blk.1.ssm_conv1d.weight").shape == (64 + 2 * GROUPS * kept, 4)


def test_a_native_folder_with_a_tokenizer_that_is_given(tmp_path: Path) -> None:
    source = make_model(tmp_path / "model", layers=1)
    native = make_native(tmp_path / "native", source)
    given = written(native, tmp_path / "native.gguf", tokenizer=str(source))
    own = written(source, tmp_path / "own.gguf")
    assert field(given, "tokenizer.ggml.tokens") == field(own, "tokenizer.ggml.tokens")
    np.testing.assert_array_equal(values(given, "token_embd.weight"), values(own, "token_embd.weight"))


def test_the_vocabulary_is_the_tokenizers_padded_to_the_rows(reader: gguf.GGUFReader, model: Path) -> None:
    saved = json.loads((model / "tokenizer.json").read_text())
    tokens, types = (field(reader, f"tokenizer.ggml.{name}") for name in ("tokens", "token_type"))
    known = len(saved["model"]["vocab"])
    assert {token: i for i, token in enumerate(tokens[:known])} == saved["model"]["vocab"]
    assert tokens[known:] == [f"[PAD{i}]" for i in range(known, VOCAB)] and known < VOCAB
    kinds = gguf.TokenType
    assert types == [kinds.CONTROL] + [kinds.NORMAL] * (known - 1) + [kinds.UNUSED] * (VOCAB - known)
    assert field(reader, "tokenizer.ggml.merges") == [" ".join(pair) for pair in saved["model"]["merges"]]
    wanted = {"model": "gpt2", "pre": "gpt-2", "bos_token_id": 0, "eos_token_id": 0, "add_bos_token": False}
    assert {name: field(reader, f"tokenizer.ggml.{name}") for name in wanted} == wanted


def test_added_tokens_and_a_chat_template_come_along(model: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.add_tokens(["<tool>"])
    tokenizer.chat_template = "{{ messages[0].content }}"
    tokenizer.save_pretrained(tmp_path / "words")
    reader = written(model, tmp_path / "chat.gguf", tokenizer=str(tmp_path / "words"))
    at = field(reader, "tokenizer.ggml.tokens").index("<tool>")
    assert field(reader, "tokenizer.ggml.token_type")[at] == gguf.TokenType.USER_DEFINED
    assert field(reader, "tokenizer.chat_template") == tokenizer.chat_template


def test_the_models_config_names_the_end_that_the_tokenizer_does_not(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", layers=1, eos_token_id=7)
    path = model / "tokenizer_config.json"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "eos_token"}))
    reader = written(model, tmp_path / "x.gguf")
    assert [field(reader, f"tokenizer.ggml.{role}_token_id") for role in ("bos", "eos", "unk")] == [0, 7, None]


def split_by(model: Path, splitter: Any, *, whole: bool = False) -> str | None:
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    tokenizer.pre_tokenizer = splitter
    parts = json.loads(tokenizer.to_str())
    parts["model"]["ignore_merges"] = whole
    return pre_tokenizer(parts)


def test_a_pre_tokenizer_is_known_by_the_pattern_that_it_splits_by(model: Path) -> None:
    bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    for pattern, (name, whole) in PATTERNS.items():
        steps = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), bytes_only])
        assert split_by(model, steps, whole=whole) == name
        assert split_by(model, steps, whole=not whole) is None
    other = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(r"\d"), "isolated"), bytes_only])
    assert split_by(model, other) is None and split_by(model, bytes_only) is None
    assert split_by(model, pre_tokenizers.ByteLevel(add_prefix_space=True)) is None
    assert split_by(model, pre_tokenizers.Whitespace()) is None


def test_a_file_is_replaced_only_by_a_whole_one(command: Command, model: Path, tmp_path: Path) -> None:
    large = shutil.copytree(model, tmp_path / "large")
    tensors = load_file(large / "model.safetensors")
    tensors["lm_head.weight"][3, 5] = 1e5
    save_file(tensors, large / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "out.gguf").write_text("as it was")
    line = command("gguf", large, tmp_path / "out.gguf", "--type=f16")
    assert "tensor lm_head.weight has values up to 1e+05, and F16 ends at 6.55e+04; give --type f32" in line
    assert (tmp_path / "out.gguf").read_text() == "as it was"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["large", "out.gguf"]
    assert values(written(large, tmp_path / "out.gguf", "q8_0"), "output.weight").max() == pytest.approx(1e5, rel=1e-2)


def test_the_command_says_what_it_wrote_and_where(
    execute: Any, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = execute(["gguf", str(model), "--type=q8_0"])
    assert not code and out.startswith("wrote tiny-q8_0.gguf (") and "writing q8_0" in err
    assert field(gguf.GGUFReader(tmp_path / "tiny-q8_0.gguf"), "general.file_type") == gguf.LlamaFileType.MOSTLY_Q8_0


@pytest.mark.parametrize(
    ("variant", "changes", "said"),
    [
        ("mamba2-8-groups", {"time_step_limit": [0.0, 0.1]}, "time_step_limit is [0.0, 0.1], which llama.cpp does not"),
        ("mamba2-8-groups", {"use_bias": True}, "use_bias is true and use_conv_bias true, but llama.cpp's mamba2 has"),
        ("zamba2", {}, "model_type 'zamba2' is none that llama.cpp computes as transformers does; give one of: mamba2"),
        ("bamba", {}, "model_type 'bamba' is none that llama.cpp computes"),
        ("granitemoehybrid-rope", {}, "position_embedding_type is 'rope'"),
        ("falcon_h1-gate-norm", {}, "embedding_multiplier is 2.5 and lm_head_multiplier 0.4, but llama.cpp has one"),
        ("falcon_h1-norm-gate", {}, "mamba_norm_before_gate is true, and llama.cpp gates before"),
        ("granitemoehybrid", {}, "a granitemoehybrid is written by llama.cpp's own converter: git clone"),
    ],
)
def test_what_llama_cpp_computes_otherwise_is_refused(
    command: Command, variant: str, changes: dict[str, Any], said: str, tmp_path: Path
) -> None:
    make_hybrid(tmp_path / "model", variant, **changes)
    assert said in command("gguf", tmp_path / "model", tmp_path / "x.gguf")
    assert not (tmp_path / "x.gguf").exists()


def test_a_projected_checkpoint_is_refused(command: Command, tmp_path: Path) -> None:
    projected_model().save_pretrained(tmp_path / "model")
    make_tokenizer(tmp_path / "model")
    assert "projects B and C, which llama.cpp has no code for" in command("gguf", tmp_path / "model")


def test_a_tokenizer_that_llama_cpp_would_not_split_text_like_is_refused(
    command: Command, model: Path, tmp_path: Path
) -> None:
    words, small = shutil.copytree(model, tmp_path / "words"), make_model(tmp_path / "small", vocab_size=270)
    assert "has token 299, but the embeddings have 270 rows" in command("gguf", small)
    tokenizer = Tokenizer.from_file(str(words / "tokenizer.json"))
    for change, said in (
        ({"normalizer": normalizers.Lowercase()}, "normalizes by Lowercase, which llama.cpp does not"),
        (
            {"normalizer": None, "pre_tokenizer": pre_tokenizers.Digits()},
            "splits text by a pattern that ghost does not",
        ),
    ):
        for name, value in change.items():
            setattr(tokenizer, name, value)
        tokenizer.save(str(words / "tokenizer.json"))
        assert said in command("gguf", words)
    for path in words.glob("tokenizer*"):
        path.unlink()
    assert f"{words} has no tokenizer that knows a word; give one with --tokenizer" in command("gguf", words)


def test_what_is_missing_is_said_in_one_line(
    command: Command, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert f"{tmp_path} is a folder; give a file name" in command("gguf", model, tmp_path)
    assert "there is no convert_hf_to_gguf.py" in command("gguf", model, f"--converter={tmp_path}")
    monkeypatch.setitem(sys.modules, "gguf", None)
    assert command("gguf", model).endswith("not installed: pip install 'ghost-ssm[gguf]'")
