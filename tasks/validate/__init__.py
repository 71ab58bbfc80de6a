"""Stage validate: which rows are kept, and why the others are not."""
