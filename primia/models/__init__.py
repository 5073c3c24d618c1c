"""Networks, and the model that leaves a federation."""
