"""What a checkpoint is worth: perplexity, and the proof that a pruned one computes what it should."""
