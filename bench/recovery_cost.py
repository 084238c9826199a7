"""What recovery costs beside the plain walk, phase by phase, and what it would for a real model.

    python -m bench.recovery_cost --device cpu        # or: ghost bench recovery-cost
"""

import argparse
import json
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import ceil
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from bench.random_checkpoint import write_random
from ghost.checkpoint.source import open_checkpoint
from ghost.config import resolve_device
from ghost.recovery import fit as _  # noqa: F401
from ghost.settings import RunSettings
from ghost.stack import Stack
from ghost.walk import walk
