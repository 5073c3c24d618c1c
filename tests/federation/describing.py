"""Hospitals that described themselves, for plans in tests."""

from primia.federation.messages import Description


def described(params, **changes):
    """By name, what each hospital of `params` says of itself, with `changes` for all of them."""
    fields = {"identity": bytes(32), "data": "0" * 64, "classes": params.ingest.classes, "pixels": 16, **changes}
    return {name: Description(**{"name": name, **fields}) for name in params.preprocess.hospitals}
