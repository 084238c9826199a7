"""Benchmarks: ratios measured in one run, medians, printed as tables and written as JSON. Not tests."""
