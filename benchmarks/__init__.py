"""Every speed claim of this repository, made again: one module a claim, us and the peers side by
side. See benchmarks/README.md.
"""
