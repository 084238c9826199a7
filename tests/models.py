"""Tiny real models for tests: random weights, a tokenizer trained on the spot, in transformers' and in native format."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import ByteLevelBPETokenizer
from transformers import Mamba2Config, Mamba2ForCausalLM, PreTrainedTokenizerFast

TEXT = "The state of a recurrent model is read and written for every token that it generates. " * 3
WORDS = "state token model layer channel head group score prune keep drop text energy write read".split()


def text(sentences: int, seed: int = 0) -> str:
    """Made-up prose, the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(len(WORDS), (sentences, 8), generator=generator)
    return "".join(" ".join(WORDS[i] for i in row) + ".\n" for row in drawn.tolist())


def make_tokenizer(folder: Path, vocab_size: int = 300) -> None:
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator([TEXT, text(50)], vocab_size=vocab_size, special_tokens=["<|endoftext|>"])
    end = "<|endoftext|>"
    PreTrainedTokenizerFast(tokenizer_object=bpe._tokenizer, eos_token=end, bos_token=end).save_pretrained(folder)


def make_model(folder: Path, *, layers: int = 3, d_state: int = 32, n_groups: int = 1, dtype=torch.float32, **changes) -> Path:
    """A Mamba2ForCausalLM folder whose weights are random in every tensor."""
    torch.manual_seed(0)
    config = Mamba2Config(
        **{
            "vocab_size": 304, "hidden_size": 32, "num_hidden_layers": layers, "expand": 2, "num_heads": 4, "head_dim": 16,
            "state_size": d_state, "n_groups": n_groups, "tie_word_embeddings": True, "chunk_size": 32,
            "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0,
        } | changes
    )  # fmt: skip
    model = Mamba2ForCausalLM(config)
    for name, parameter in model.named_parameters():
        if name.endswith(("conv1d.bias", "dt_bias", ".D", "norm.weight")):
            torch.nn.init.normal_(parameter, mean=1.0 if name.endswith("norm.weight") else 0.0, std=0.5)
    model.to(dtype).save_pretrained(folder)
    make_tokenizer(folder)
    return folder


def make_native(folder: Path, source: Path, *, as_bin: bool = True) -> Path:
    """The same model as `source` in the native state-spaces format, without a tokenizer as on the hub."""
    folder.mkdir()
    config = json.loads((source / "config.json").read_text())
    ssm = {"layer": "Mamba2", "d_state": config["state_size"], "headdim": config["head_dim"], "ngroups": config["n_groups"]}
    native = {
        "d_model": config["hidden_size"], "d_intermediate": 0, "n_layer": config["num_hidden_layers"],
        "vocab_size": 300, "ssm_cfg": ssm, "attn_layer_idx": [], "attn_cfg": {}, "rms_norm": True,
        "residual_in_fp32": True, "fused_add_norm": True, "pad_vocab_size_multiple": 16, "tie_embeddings": True,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(native))
    tensors = load_file(source / "model.safetensors")
    tensors["backbone.embedding.weight"] = tensors.pop("backbone.embeddings.weight")
    tensors["lm_head.weight"] = tensors["backbone.embedding.weight"].clone()
    if as_bin:
        torch.save(tensors, folder / "pytorch_model.bin")
    else:
        save_file(tensors, folder / "model.safetensors")
    return folder
