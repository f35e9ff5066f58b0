"""Does the answer follow from the chain, and the chain from the image? What a model concludes when either is tampered
with; `conclusions` reads the classes, this module counts them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from throughline.analysis.estimates import over_images
from throughline.analysis.folds import averaged, by_state, together
from throughline.analysis.records import OfState, State
from throughline.analysis.section import Scope, Section
from throughline.core.table import Table
from throughline.metrics.intervals import Interval
from throughline.runs.order import in_order
from throughline.training.methods import METHODS

WHOLE = "whole chain"
EXCHANGED = ("another image", "another image's chain")

About = Literal["stage removed", "stage swapped", "chain", "image", "whole"]
"""What was changed."""


@dataclass(frozen=True)
class Read:
    """What was read of one image in one variant: the probability of its class, and whether it is the most likely."""

    sample_id: str
    variant: str
    about: About
    probability: float
    correct: bool


class Variant(OfState):
    """The predicted class behind a chain that was tampered with, or about an image that was, on held-out images."""

    name: str
    about: About
    images: int
    accuracy: Interval
    probability: Interval
    """Of the true class among the classes offered."""
    lost: Interval | None = None
    """Accuracy of the whole chain minus this one's, in points, image by image; None for the whole chain itself."""


def variants(reads: Sequence[Read], state: State) -> tuple[Variant, ...]:
    """A line for each variant, in the order in which they were read."""
    whole = {read.sample_id: float(read.correct) for read in reads if read.variant == WHOLE}
    lines = []
    for name, rows in together(reads, lambda read: read.variant).items():
        ids = [row.sample_id for row in rows]
        lost = [whole[row.sample_id] - float(row.correct) for row in rows]
        lines.append(
            Variant(
                state=state,
                name=name,
                about=rows[0].about,
                images=len(rows),
                accuracy=over_images([float(row.correct) for row in rows], ids),
                probability=over_images([row.probability for row in rows], ids),
                lost=None if name == WHOLE else over_images(lost, ids).scaled(100),
            )
        )
    return tuple(lines)


def section(measured: Sequence[Variant], scope: Scope) -> Section:
    """Accuracy, what of it was lost, and the probability of the true class, each as a table."""
    return Section(
        "faithfulness",
        "Does the conclusion depend on the chain",
        "The predicted class when a stage of the chain is removed, when a stage or the whole chain is replaced by "
        "that of another image, and when the image is blanked or replaced.",
        variant_tables(measured, scope),
        finding=finding(measured),
    )


def finding(measured: Sequence[Variant]) -> str:
    """What the full method's conclusions hang on, else those of the last method there is; empty where nothing was
    exchanged."""
    methods = in_order((variant.state.method for variant in measured if variant.state.method), METHODS)
    full = [name for name in methods if name in METHODS and METHODS[name].full]
    method = next(reversed(full or methods), "")
    whole, image, chain = (right_behind(measured, method, name) for name in (WHOLE, *EXCHANGED))
    if whole is None or image is None or chain is None:
        return ""
    more = "the image more than the chain" if image < chain else "the chain more than the image"
    follows = more if image != chain else "image and chain alike"
    return (
        f"{method} follows {follows}: of its conclusions {100 * whole:.0f} % are right, behind another image's chain "
        f"{100 * chain:.0f} %, with another image {100 * image:.0f} %."
    )


def right_behind(measured: Sequence[Variant], method: str, name: str) -> float | None:
    """The share of a method's conclusions that are right behind a variant, in the mean over folds."""
    shares = [v.accuracy.mean for v in measured if (v.state.method, v.name) == (method, name)]
    return math.fsum(shares) / len(shares) if shares else None


def variant_tables(measured: Sequence[Variant], scope: Scope) -> tuple[Table, ...]:
    """Accuracy, what of it was lost, and probability of the true class, behind chains that were tampered with: a column
    for each state."""
    states = list(by_state(measured))
    kinds = dict.fromkeys((variant.about, variant.name) for variant in measured)
    cells = together(measured, lambda variant: (variant.about, variant.name, variant.state.name))
    images = max((variant.images for variant in measured), default=0)
    note = (
        f"Held-out images whose own chain is well-formed and names one class, at most {images} per fold; columns may "
        "be of different images. The conclusion is the class with the highest likelihood after the chain, not the "
        "class that would be written. If a row does not differ from the whole chain, the conclusion does not depend "
        f"on what was changed. {scope.spread}"
    )
    return tuple(
        Table(
            title=f"Does the conclusion depend on the chain? {title}",
            columns=("the chain before the conclusion", "what changed", *states),
            rows=tuple(
                (name, about, *(_mean(cells.get((about, name, state), []), measure, scale) for state in states))
                for about, name in kinds
                if (about, measure) != ("whole", "lost")
            ),
            notes=scope.notes(note),
        )
        for title, measure, scale in (
            ("Accuracy, %", "accuracy", 100),
            ("Accuracy lost, points", "lost", 1),
            ("Probability of the true class, %", "probability", 100),
        )
    )


def summary(measured: Sequence[Variant]) -> list[str]:
    """What was lost behind exchanged images and chains."""
    exchanged = (variant for variant in measured if variant.name in EXCHANGED)
    grouped = together(exchanged, lambda variant: (variant.state.name, variant.name))
    return [
        f"accuracy lost behind {name}, {state}: {averaged(variant.lost for variant in of_folds)} points"
        for (state, name), of_folds in grouped.items()
    ]


def _mean(of_folds: Sequence[Variant], measure: str, scale: float) -> str:
    return averaged((getattr(variant, measure) for variant in of_folds), 1, scale)
