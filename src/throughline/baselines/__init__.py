"""Feature-level methods: a classifier on the features of a timm backbone, in the place of a multimodal model."""
