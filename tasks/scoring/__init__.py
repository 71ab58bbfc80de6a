"""Evaluation sets, a model's answers, ranked choices and F1."""
