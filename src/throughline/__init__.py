"""Throughline: multimodal LLMs that hold up on unseen domains by reasoning. Imports nothing heavy."""

__version__ = "0.1.0"
