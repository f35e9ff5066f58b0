"""The pocket CLIP: a small checkpoint for methods on CLIP (`baselines`) in tests and on drawn images.

`checkpoint/` is what the name `pocket_clip` stands for, the repository's `bench/pocket_clip.py` trains it, `CARD.md`
says what it has seen.
"""
