"""Stage evaluate: how good a generator is."""
