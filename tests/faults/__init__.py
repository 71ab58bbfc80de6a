"""Faults, one after the other, against the real stages: ``python -m tests.faults`` (``make soak``).

Only the language model is a fake.
"""
