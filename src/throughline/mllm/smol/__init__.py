"""`smol`: a small multimodal LLM with real weights, put together on the user's machine from openly licensed packages.

`assembly` does this; the projector between the two is this project's and ships beside it (CARD.md).
"""
