"""`smol`: a small multimodal LLM with real weights, put together on the user's machine from openly licensed packages.

`assembly` does this; the projector between the two, where there is one, is this project's and ships beside it.
"""
