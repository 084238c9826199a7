"""Many runs as one table: models x methods x sparsities and more, each cell a run like any other."""
