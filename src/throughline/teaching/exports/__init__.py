"""Chains on their way out: a dataset for the Hub, and what other trainers read."""
