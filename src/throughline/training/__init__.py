"""Objectives, the trainer and the self-labelling rounds."""
