"""Run llama.cpp's convert_hf_to_gguf.py, and tell it what to take for a pre-tokenizer whose hash it does not know.

A program of its own: `python with_pre_tokenizer.py CHECKOUT NAME [options of the converter]`; an empty NAME tells it
nothing. It imports nothing of ghost, and of llama.cpp only what the converter itself does.
"""

import sys
from typing import Any


def main() -> None:
    checkout, name, *options = sys.argv[1:]
    sys.path.insert(0, checkout)
    sys.argv = ["convert_hf_to_gguf.py", *options]
    import convert_hf_to_gguf as converter  # pyright: ignore[reportMissingImports]
    from conversion.base import TextModel  # pyright: ignore[reportMissingImports]

    by_hash = TextModel.get_vocab_base_pre

    def by_hash_or_name(model: Any, tokenizer: Any) -> str:
        try:
            return by_hash(model, tokenizer)
        except NotImplementedError:
            if not name:
                raise
            return name

    TextModel.get_vocab_base_pre = by_hash_or_name
    converter.main()


if __name__ == "__main__":
    main()
