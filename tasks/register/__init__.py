"""Stage register: adapter, F1 and provenance into MLflow."""
