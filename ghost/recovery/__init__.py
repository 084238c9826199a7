"""Recovery: what a pruned mixer can do to come closer to the dense one's output, layer by layer."""

from ghost.recovery.dense_path import DensePath
from ghost.recovery.judge import Judge
from ghost.recovery.pairs import Pairs
from ghost.recovery.recover import Recovered, recover
from ghost.recovery.room import check_room

__all__ = ["DensePath", "Judge", "Pairs", "Recovered", "check_room", "recover"]
