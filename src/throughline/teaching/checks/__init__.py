"""Whether a store or an export is sound, line by line."""
