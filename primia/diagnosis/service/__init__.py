"""The diagnosis service: computes on ciphertexts that it cannot read."""
