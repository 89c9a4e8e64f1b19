"""Benchmarks: the service compared with three reference applications; results in RESULTS.md."""
