"""Reasoning drift: measured along chains; and counterfactuals that show it, and that training turns against it."""
