"""Who executes the units of a plan: worker processes of this machine."""
