"""The demo model's tokenizer and its training stream, from the train part of the corpus stdlib."""

from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from ghost.calibration.corpus import SEPARATOR
from ghost.calibration.stdlib import TESTS, Split, documents

VOCAB = 4096
END = "<|endoftext|>"


def make_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The demo's tokenizer, trained on the train split."""
    return bpe_tokenizer((text for _, text in documents("train")), folder)


def bpe_tokenizer(texts: Iterable[str], folder: Path) -> PreTrainedTokenizerFast:
    """Byte-level BPE of VOCAB tokens, trained on the texts and saved to `folder`; no text is out of vocabulary."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB, special_tokens=[END], initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token=END, eos_token=END, pad_token=END)
    tokenizer.save_pretrained(folder)
    return tokenizer


def training_stream(tokenizer: PreTrainedTokenizerFast) -> Tensor:
    """Token ids of the library's modules twice and of its test suite once: the test suite is twice as long, and less
    like the text that the model is for."""
    train = documents("train")
    library = encode(tokenizer, [text for name, text in train if not TESTS & set(Path(name).parts)])
    tests = encode(tokenizer, [text for name, text in train if TESTS & set(Path(name).parts)])
    return torch.cat([library, library, tests])


def held_out(tokenizer: PreTrainedTokenizerFast, split: Split) -> Tensor:
    """Token ids of a split that the model is not trained on."""
    return encode(tokenizer, [text for _, text in documents(split)])


def encode(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> Tensor:
    """Token ids (length,) of the texts, joined as corpora are."""
    encoded = tokenizer.backend_tokenizer.encode_batch([text + SEPARATOR for text in texts])
    return torch.tensor([token for encoding in encoded for token in encoding.ids], dtype=torch.int32)
