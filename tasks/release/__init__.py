"""A registered model leaves the store: as files for other programs, or for the hub."""
