"""Measurements of this system against named rivals, in one process, on the same model and the same inputs.

`throughline bench NAME` calls `measure` of the module NAME with that bench's class of `settings`.
"""
