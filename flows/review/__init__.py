"""What people say of a run: verdicts on its rows, labelled items, and why an answer is as it is."""
