"""The clinician's page: a local web page beside the secret key, which never leaves the hospital's machine."""
