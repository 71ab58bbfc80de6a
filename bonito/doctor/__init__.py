"""Template doctor: what is wrong with each template."""
