"""Out-of-distribution evaluation: what a model still has of an image where it fails, and what mends it."""
