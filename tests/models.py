"""Tiny real models for tests: random weights, a tokenizer trained on the spot, transformers' and native format."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import ByteLevelBPETokenizer
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, Mamba2Config, Mamba2ForCausalLM, PreTrainedTokenizerFast

from ghost.checkpoint.source import Checkpoint, open_checkpoint
from ghost.export import KEPT, export, kept_channels
from ghost.forms import Dense
from ghost.saliency import form_of
from ghost.selection import Selection
from ghost.settings import RunSettings
from ghost.stack import Stack
from ghost.surgery import zero_mixer
from ghost.walk import walk

TEXT = "The state of a recurrent model is read and written for every token that it generates. " * 3
WORDS = ["state", "token", "model", "layer", "channel", "head", "group", "score", "prune", "keep", "drop", "read"]
VOCAB = 304
RANDOM = {"norm.weight": 1.0, "conv1d.bias": 0.0, "dt_bias": 0.0, "A_log": -1.5, ".D": 0.0}
"""Means of the tensors that transformers initialises to constants, or so that states forget within a few steps."""


def text(sentences: int, seed: int = 0) -> str:
    """Made-up prose, the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(len(WORDS), (sentences, 8), generator=generator)
    return "".join(" ".join(WORDS[i] for i in row) + ".\n" for row in drawn.tolist())


def random_tokens(rows: int, length: int, seed: int = 0) -> Tensor:
    """Token ids (rows, length), as int32 as tokenised texts are."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(VOCAB, (rows, length), generator=generator, dtype=torch.int32)


def make_tokenizer(folder: Path, vocab_size: int = 300) -> None:
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator([TEXT, text(50)], vocab_size=vocab_size, special_tokens=["<|endoftext|>"])
    end = "<|endoftext|>"
    PreTrainedTokenizerFast(tokenizer_object=bpe._tokenizer, eos_token=end, bos_token=end).save_pretrained(folder)


def make_model(
    folder: Path,
    *,
    layers: int = 3,
    d_state: int = 32,
    n_groups: int = 1,
    dtype: torch.dtype = torch.float32,
    max_shard_size: str = "5GB",
    seed: int = 0,
    **changes: Any,
) -> Path:
    """A Mamba2ForCausalLM folder whose weights are random in every tensor; `changes` are fields of its config."""
    fields = {
        "vocab_size": VOCAB, "hidden_size": 32, "num_hidden_layers": layers, "expand": 2, "num_heads": 4,
        "head_dim": 16, "state_size": d_state, "n_groups": n_groups, "tie_word_embeddings": True, "chunk_size": 32,
        "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0,
    }  # fmt: skip
    torch.manual_seed(seed)
    model: Any = Mamba2ForCausalLM(Mamba2Config(**fields | changes))
    for name, parameter in model.named_parameters():
        for ending, mean in RANDOM.items():
            if name.endswith(ending):
                nn.init.normal_(parameter, mean=mean, std=0.5)
    model.to(dtype=dtype).save_pretrained(folder, max_shard_size=max_shard_size)
    make_tokenizer(folder)
    return folder


def make_native(folder: Path, source: Path, *, as_bin: bool = True) -> Path:
    """The same model as `source` in the native state-spaces format, without a tokenizer as on the hub."""
    folder.mkdir()
    config = json.loads((source / "config.json").read_text())
    ssm = {"d_state": config["state_size"], "headdim": config["head_dim"], "ngroups": config["n_groups"]}
    native = {
        "d_model": config["hidden_size"], "d_intermediate": 0, "n_layer": config["num_hidden_layers"],
        "vocab_size": 300, "ssm_cfg": {"layer": "Mamba2"} | ssm, "attn_layer_idx": [], "attn_cfg": {},
        "rms_norm": True, "residual_in_fp32": True, "fused_add_norm": True, "pad_vocab_size_multiple": 16,
        "tie_embeddings": config["tie_word_embeddings"],
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(native))
    tensors = load_file(source / "model.safetensors")
    tensors["backbone.embedding.weight"] = tensors.pop("backbone.embeddings.weight")
    tensors.setdefault("lm_head.weight", tensors["backbone.embedding.weight"].clone())
    if as_bin:
        torch.save(tensors, folder / "pytorch_model.bin")
    else:
        save_file(tensors, folder / "model.safetensors")
    return folder


def open_stack(folder: Path, dtype: torch.dtype = torch.float32, batch_tokens: int | None = None) -> Stack:
    return Stack(open_checkpoint(folder), torch.device("cpu"), dtype, batch_tokens=batch_tokens)


@torch.inference_mode()
def stack_logits(stack: Stack, tokens_bl: Tensor) -> Tensor:
    """What ghost's own path computes, layer by layer."""
    with stack.head() as logits:
        return logits(stack.run(tokens_bl).hidden_blm)


def load_stock(folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    """The folder in stock transformers."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()


@torch.inference_mode()
def stock_logits(model: Any, tokens_bl: Tensor) -> Tensor:
    return model(tokens_bl.long(), use_cache=False).logits


def mask_stock(model: Any, source: Checkpoint, selections: list[Selection]) -> Any:
    """The stock model with the dropped channels of its first mixers zeroed; the others stay dense."""
    for i, selection in zip(source.mixers, selections, strict=False):
        zeroed = zero_mixer(source.mixer_layout, source.mixer(i), selection)
        prefix = source.names.mixers[i]
        model.load_state_dict({f"{prefix}.{name}": t for name, t in zeroed.items()}, strict=False)
    return model


def prune(source: Checkpoint, folder: Path, **fields: Any) -> list[Selection]:
    """Walk on random tokens and export to `folder`, as the flow does but with no store in between. The selections come
    in the order of the mixers."""
    settings = RunSettings.make(**{"round_to": 4} | fields)
    stack = Stack(source, torch.device("cpu"), torch.float32)
    selections = {result.layer: result.selection for result in walk(stack, random_tokens(4, 24, seed=7), settings)}
    form = form_of(settings.method, soft=settings.soft)
    layout = form.layout(source.mixer_layout, list(selections.values()), round_to=1)

    def pruned(i: int) -> dict[str, Tensor]:
        return form.reduce(Dense(source.mixer_layout, source.mixer(i), selections[i]))

    folder.mkdir()
    kept = kept_channels(source.layers, selections)
    provenance = {"ghost": {"determinants": {"checkpoint": source.digest}}, KEPT: kept}
    export(source, pruned, layout, folder, provenance)
    return list(selections.values())


def carried(path: Path) -> bytes:
    """A file as it travels with a model: in the words that transformers 4.57 knows too."""
    return path.read_bytes().replace(b'"TokenizersBackend"', b'"PreTrainedTokenizerFast"')
