"""Local training at a site, with and without differential privacy."""
