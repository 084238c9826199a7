"""The watch: recipes, the checkpoints that a source has, and the runs that were asked for."""
