"""Measurements of this system against named rivals, in one process, on the same model and the same inputs.

Stands between `reporting` and the command line: `throughline bench …` calls one file here for each benchmark.
"""
