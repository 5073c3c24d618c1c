"""Diagnosis on encrypted images: the client keeps image, key and answer; the service keeps the model."""
