"""The ground floor: errors, files, seeding, typed settings, nearest names. Knows no other room, and no torch."""
