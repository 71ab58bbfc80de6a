"""Stage ingest: documents into passages."""
