"""Where the stages of dvc.yaml read and write, relative to the checkout."""

from pathlib import Path

RAW = Path("data/raw")
SITES = Path("data/sites")
TEST = Path("data/test")
FEDERATED = Path("models/federated")
ENCRYPTED = Path("models/encrypted")
RESULTS = Path("results")
FEDERATION = RESULTS / "federation"
EVALUATION = RESULTS / "evaluation"
COMPARISON = RESULTS / "comparison"
ATTACK = RESULTS / "attack"
ENCRYPTION = RESULTS / "encryption"
REPORT = RESULTS / "report"
GATES = Path("mlflow/gates.yaml")
CARD_TEMPLATE = Path("mlflow/model_card.md.j2")
TEST_SET = TEST / "test.safetensors"

# What a model version consists of, and what it is judged by; the report follows from these.
SUBSTANCE = (FEDERATED, ENCRYPTED, FEDERATION, EVALUATION, COMPARISON, ATTACK, ENCRYPTION)
RELEASE_FOLDERS = (*SUBSTANCE, REPORT)
# Not data/sites/summary.json: how many patients a hospital has is nobody's business but its own.
RELEASE_FILES = (RAW / "source.json", TEST / "summary.json", Path("params.yaml"), GATES)
