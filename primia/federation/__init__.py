"""Federated training: one coordinator state machine, typed sites, interchangeable channels."""
