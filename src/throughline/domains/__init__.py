"""Images by domain and class: reading, DomainBed's splits, checks. Knows no torch."""
