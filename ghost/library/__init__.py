"""Library use: what `ghost.prune` and `ghost.perplexity` are made of."""
