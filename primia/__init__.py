"""primia: private federated learning and encrypted diagnosis on medical images."""
