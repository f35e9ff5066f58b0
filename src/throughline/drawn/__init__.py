"""The drawn world: scenes made of parts, their concept graph, styles, exact counterfactuals, a describer.

The laboratory for the demo, the tests and every claim with known truth; never evidence about real images.
"""

from pathlib import Path

DRAWN_NOTE = "The images are drawn and their content is known: these numbers are no evidence about real images."
"""Stands under every table that is made with it."""
SCENES = "scenes.jsonl"
"""What is in the images of a drawn world; written into its folder last."""


def is_drawn(root: Path) -> bool:
    """Whether a folder of images is a drawn world."""
    return (root / SCENES).is_file()
