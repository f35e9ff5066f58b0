"""Analyses of a run, or of any checkpoint on any chains: which weights are looked at, what they score, what is kept."""
