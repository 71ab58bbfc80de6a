"""Stage remix: annotated rows and templates into the generator's training rows."""
