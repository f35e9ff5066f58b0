"""Real images of nine classes in many styles, out of openly licensed packages: what is taken, drawn and written."""
