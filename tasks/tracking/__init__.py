"""The MLflow ledger."""
