"""Protocols, answering, model selection."""
