"""Stage baseline: the unadapted model's answers."""
