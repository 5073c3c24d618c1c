"""Diagnosis on encrypted images: the client keeps image, key and answer; the server keeps the model."""
