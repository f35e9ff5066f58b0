"""Calibration, intervals, paired tests and robustness. Arrays in, numbers out; no torch."""
