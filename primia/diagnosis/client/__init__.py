"""The diagnosing client: holder of the secret key, the image and the answer."""
