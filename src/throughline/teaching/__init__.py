"""Teachers, and building a reasoning dataset with them."""
