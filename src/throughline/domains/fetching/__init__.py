"""Gets archives from where they are to be had, checks and unpacks them: what image sets are made from."""
