"""Do the measures of drift tell a chain into which an error was put, at a known place? Called by
`evidence.py drift-planted`.

Written down before anything was run: about each of `IMAGES` drawn images the describer's true chain stands beside two
that go over to its chain about the scene in which the deciding part is the other way round. A *contradiction* goes over
in the REFLECTION: the chain turns against its own reasoning. A *perception* error goes over in the CAPTION: from there
on all agrees, and the image does not. Both conclude in the wrong class. Of each kind: the AUROC of every score for
planted against true chains, and its paired difference from plain confidence, with intervals over images; and with each
detector, how far the nearest change point is from the first planted token, and how many there are in a true chain.
"""

import itertools
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from pydantic import Field

from records import Machine, Record
from throughline.analysis.conclusions import blank_image
from throughline.domains.folders import read_images
from throughline.domains.samples import Sample, spread
from throughline.drawn.concepts import CLASSES
from throughline.drawn.counterfactuals import counterfactual
from throughline.drawn.describer import DescriberSettings, describe
from throughline.drawn.scenes import Scene, read_scenes
from throughline.drawn.world import write_world
from throughline.drift.change_points import Detector, changes_in
from throughline.drift.measures import Chain, Meter
from throughline.drift.summary import CHAIN, summarise
from throughline.metrics.intervals import Interval
from throughline.mllm.checkpoints import POCKET
from throughline.mllm.images import ImageReader
from throughline.mllm.load import load_mllm
from throughline.questions.question_set import make_question_set

IMAGES, WORLD_SEED = 48, 5
TRUE = "true"
TRUE_STAGES = {"contradiction": 3, "perception": 1}
"""By kind of error the stages, of five, that are still true: the first of the others is REFLECTION, or CAPTION."""
DETECTORS: tuple[Detector, ...] = ("adwin", "kswin", "page_hinkley")
SURE = DescriberSettings(part_mistakes=0, format_faults=0)


class PlantedScore(Record):
    """AUROC of a score for chains with an error, and how much it is above that of plain confidence."""

    kind: str
    score: str
    auroc: Interval
    gain: Interval


class PlantedChange(Record):
    """Change points of entropy + JSD: tokens from the planted one to the nearest, by its median over the chains that
    have any; the share that has any; and how many a true chain has."""

    kind: str
    detector: str
    distance: float | None
    noticed: float
    false_alarms: float


class Planted(Record):
    """What the measures make of planted errors."""

    command: str
    images: int
    scores: list[PlantedScore] = Field(min_length=1)
    changes: list[PlantedChange]
    environment: Machine


def chains_about(sample: Sample, scene: Scene) -> dict[str, str]:
    """The true chain, and for each kind of error the one that goes over to the other scene's."""
    true, other = (
        describe(own, seed=0, sample_id=sample.id, settings=SURE).split("\n") for own in (scene, counterfactual(scene))
    )
    planted = {kind: [*true[:stages], *other[stages:]] for kind, stages in TRUE_STAGES.items()}
    return {name: "\n".join(lines) for name, lines in {TRUE: true, **planted}.items()}


def measure_planted(images: int, report_progress: Callable[[int, int], None] = lambda done, of: None) -> pd.DataFrame:
    """The rows of `measures.SCHEMA` of all chains about some images of a drawn world; `chain` is the kind."""
    with tempfile.TemporaryDirectory() as folder:
        world = Path(folder) / "world"
        write_world(world, per_class=-(-images // (4 * len(CLASSES))), seed=WORLD_SEED)
        scenes, mllm = read_scenes(world), load_mllm(POCKET)
        meter, reader = Meter(mllm, make_question_set(CLASSES), every=0), ImageReader(mllm.chat)
        tables = []
        for done, sample in enumerate(spread(read_images(world).samples, images)):
            report_progress(done, images)
            image, blank = reader.encode(sample), blank_image(mllm.chat, sample)
            for kind, text in chains_about(sample, scenes[sample.id]).items():
                tables.append(meter.measure(Chain(sample, kind, text), image, blank).to_pandas())
    return pd.concat(tables, ignore_index=True)


def summarise_planted(rows: pd.DataFrame, detectors: Sequence[Detector], environment: Machine) -> Planted:
    """The record of these rows."""
    scores = [
        PlantedScore(kind=kind, score=row.score, auroc=row.auroc, gain=row.gain)
        for kind in TRUE_STAGES
        for row in summarise(rows[rows["chain"].isin([TRUE, kind])], CLASSES).scores
    ]
    return Planted(
        command="python bench/evidence.py drift-planted",
        images=rows["sample_id"].nunique(),
        scores=scores,
        changes=[_changes(rows, kind, own) for kind, own in itertools.product(TRUE_STAGES, detectors)],
        environment=environment,
    )


def first_planted(rows: pd.DataFrame, kind: str) -> dict[str, int]:
    """By image the first token in which the chain is no longer the true one."""
    tokens = {key: own.to_numpy() for key, own in rows.groupby(CHAIN)["token_id"]}
    found = {}
    for image in rows["sample_id"].unique():
        true, planted = tokens[image, TRUE], tokens[image, kind]
        shorter = min(len(true), len(planted))
        found[image] = int(np.flatnonzero(true[:shorter] != planted[:shorter])[0])
    return found


def _changes(rows: pd.DataFrame, kind: str, detector: Detector) -> PlantedChange:
    changes, places = changes_in(rows, detector), first_planted(rows, kind)
    nearest = [
        min(abs(place - own) for own in changes[image, kind]) for image, place in places.items() if changes[image, kind]
    ]
    return PlantedChange(
        kind=kind,
        detector=detector,
        distance=float(np.median(nearest)) if nearest else None,
        noticed=len(nearest) / len(places),
        false_alarms=float(np.mean([len(changes[image, TRUE]) for image in places])),
    )
