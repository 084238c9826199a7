"""The config of a projected checkpoint; what its own modeling_ghost_mamba2.py has, without its code."""

from transformers import Mamba2Config


class GhostMamba2Config(Mamba2Config):
    """`state_size` is r, the size of the state that is kept, and `projected_from` is N."""

    model_type = "ghost_mamba2"

    projected_from: int = 128
