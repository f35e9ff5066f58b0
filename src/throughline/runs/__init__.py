"""The run folder: a record for each kind of line in it, their writers, their one reader, pandas frames. No torch."""
