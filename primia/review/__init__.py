"""What a model version must show before a person may promote it."""
