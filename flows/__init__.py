"""Orchestration and the command line, nothing else."""

from ghost_ssm import require_packages

require_packages("artifacts", "ghost", "tasks")
