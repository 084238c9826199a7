"""Large objects go through in bounded memory; `ghost bench s3` measures the same with 2 GiB."""

from bench.s3 import measure

SIZE = 96 << 20
BOUND = 32 << 20
"""A third of the object, and half of the four parts that are under way at once."""


def test_a_large_object_is_stored_and_fetched_in_bounded_memory() -> None:
    figures = measure(SIZE)
    for name in ("put_file", "fetch"):
        assert 0 <= figures[name]["peak_rss_above"] < BOUND, figures
