"""Calibration, intervals and paired tests. Arrays in, numbers out; no torch."""
