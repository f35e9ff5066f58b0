"""What a run will take before anything is loaded: tokens, FLOPs, memory, hours on named hardware (`run --dry-run`)."""
