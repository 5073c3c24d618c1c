"""Secure aggregation: sums of integers modulo 2^32 in which no single site can be read."""
