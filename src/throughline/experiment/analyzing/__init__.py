"""`throughline analyze`: which weights are looked at on which images, and the file of everything that was found."""
