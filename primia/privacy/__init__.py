"""Noise, accounting, and the record of what was spent."""
