"""Measurements beside a peer: python -m benchmarks.<name> --json."""
