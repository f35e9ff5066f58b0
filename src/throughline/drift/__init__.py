"""Reasoning drift: counterfactuals that show it, and that training turns against it."""
