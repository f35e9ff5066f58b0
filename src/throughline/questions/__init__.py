"""Prompts, questions and their wording: what a model is asked, and how its reply is read. Imports without torch."""
