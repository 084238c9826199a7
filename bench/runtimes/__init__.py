"""Pruned checkpoints in the runtimes that serve them: `python -m bench.runtimes`."""
