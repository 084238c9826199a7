"""`ghost bench cuda` goes its whole way on a CPU, in a size that proves nothing about speed."""

from bench import cuda


def test_every_row_of_the_table_comes_out() -> None:
    figures = cuda.run("cpu")
    (pruned,) = figures["from disk to disk"].values()
    assert len(pruned) == 2 and all(row["seconds"] > 0 and row["peak_rss"] > 0 for row in pruned.values())
    decoded = figures["decoding at batch 1"]
    speeds = [name for name in decoded if name.endswith("tokens/s")]
    assert speeds == [f"N = {n} tokens/s" for n in cuda.PLANS["cpu"].states]
    assert all(value > 0 for value in decoded.values()) and figures["kernels installed"] == 0
    assert figures["walk / transformers' forward (bound 1.5)"] > 0
