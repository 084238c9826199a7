"""Orchestration and the command line, nothing else."""
