"""An evaluating process that runs out of memory, as `ask_apart` starts it."""

import torch

from tasks.run.evaluation_process import answer_apart
from tests.too_much import TOO_MUCH

if __name__ == "__main__":
    answer_apart(lambda job, progress: {"figure": float(torch.empty(TOO_MUCH).sum())})
