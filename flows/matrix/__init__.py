"""The matrix: many runs that differ in one thing, compared."""
