"""Networks on encrypted images: the compiler, and the engine that computes on ciphertexts it cannot read."""
