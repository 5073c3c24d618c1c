"""Prefect tasks: one thin adapter per capability, and the places where Prefect, DVC and MLflow are spoken to."""
