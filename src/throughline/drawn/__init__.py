"""The drawn world: scenes made of parts, their concept graph, styles, exact counterfactuals, a describer.

The laboratory for the demo, the tests and every claim with known truth; never evidence about real images.
"""

DRAWN_NOTE = "The images are drawn and their content is known: these numbers are no evidence about real images."
"""Stands under every table that is made with it."""
