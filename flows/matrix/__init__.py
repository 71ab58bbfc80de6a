"""The matrix: many runs that differ in one setting, compared."""
