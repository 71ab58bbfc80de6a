"""The programs that run against each other, ours and the peers', each a process of its own: see
:mod:`benchmarks.worker`.
"""
