"""What federation and privacy cost: the same model trained centrally, by each hospital alone, and federated."""
