"""The pocket checkpoint: a small model of the classes that serve real ones.

It serves the demo, the tests and every claim with known truth. `checkpoint/` is what `load_mllm("pocket")` opens, the
repository's `bench/pocket.py` trains it in the shape `pocket` of `geometries`, `CARD.md` says what it has seen.
"""
