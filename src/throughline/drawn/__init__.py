"""The drawn world: scenes made of parts, their concept graph, styles, exact counterfactuals, a describer.

The laboratory for the demo, the tests and every claim with known truth; never evidence about real images.
"""
