"""Does counterfactual preference do what its source says, against what it is compared with, on equal data and steps?
Called by `evidence.py drift-study`.

Written down before anything was run: methods on pairs go on from the same `mtct` of their seed, with held-out styles
`sketch` and `photo` and seeds 0, 1, 2. `mtct` has the budget that was chosen for `reasoning` on the source domains, by
the conclusions of its chains (budgets.json); its own was chosen by likelihood, and chains are what is compared here.
After it, every method has a fifth of that learning rate, as the source's second stage has of its first (Table 6 of
arXiv 2505.13081), and passes four times over its pairs, of which there is one for each image and source; `cfp`, with
two, passes twice. `sft_more` is `mtct` from the start, at its rate, with as many steps as `mtct` and `cfp` together.
`cfp_rounds` has two rounds of two passes over the images about which the model wrote a right and a wrong chain, so at
most as many steps. Slope 0.1, summed log-probabilities, as in the source's script. `grpo` is TRL's, on ten images of
each class and source style, as far as `bench/grpo.py` goes: a row to look at, on fewer images and steps. The world's
size, the number of passes, the measures and the levels are ours.

Everything is asked of 8 images of each class of the held-out style by `throughline drift robustness`, on the same
images for every method and seed; unseen combinations by a second training in which sources and questions share no
combination of class and free parts. What comes out stands as it falls. Stopped runs resume; of a style and a seed that
are whole, the values are kept.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field

from budgets import EPOCHS, LR
from records import Budgets, Machine, Record
from reduced_run import require_whole
from throughline.core.errors import ThroughlineError
from throughline.drawn.concepts import GRAPH
from throughline.drawn.styles import DOMAIN_STYLES
from throughline.drift.interference import ANOTHER, BLANK, FACTOR, FALSE_START, FORCED, HINT, SYNONYMS
from throughline.metrics.intervals import Interval, bootstrap_generator, hierarchical_bootstrap
from throughline.metrics.paired import paired_difference
from throughline.ood.factors import CLEAN
from throughline.reporting.groups import Group, Setup, groups
from throughline.reporting.interference import IMAGE, interference_values
from throughline.runs.reader import Run, read_run

CONFIG = "bench/drift_study.yaml"
FOLDER = Path("runs/drift_study")
PER_CLASS, ASKED = 25, 8
"""Images of each class and style; of these asked about."""
TARGETS = ("sketch", "photo")
SEEDS = (0, 1, 2)
PARENT, BUDGET_OF = "mtct", "reasoning"
SOURCES = {
    "dpo_random": ("random_answer",),
    "dpo_crop": ("crop",),
    "dpo_noise": ("noise",),
    "dpo_mask": ("mask",),
    "dpo_symmetric": ("perception",),
    "cfp_thinking": ("thinking",),
    "cfp_perception": ("perception",),
    "cfp": ("thinking", "perception"),
}
"""The methods on pairs, with the sources of these."""
GRPO = "grpo"
METHODS = (PARENT, "sft_more", *SOURCES, "cfp_rounds", GRPO)
SLOWER, PASSES, ROUNDS = 5, 4, 2
PATHS = ("reasoning", "likelihood")
CORRUPTIONS = ("gaussian_noise", "motion_blur", "fog", "contrast")
INTERFERED = (*(f"{kind}-5" for kind in CORRUPTIONS), "other part", HINT, FALSE_START, *FORCED.values())
"""What is interference. Without its deciding part an image does not show the class, so that level is none."""


@dataclass(frozen=True)
class Measure:
    """A column of `interference_values`, in the mean over levels; `{sources}` is every source style."""

    words: str
    column: str
    levels: tuple[str, ...]
    less_is_better: bool = False


UNSEEN = "unseen combinations"
MEASURES = {
    measure.words: measure
    for measure in (
        Measure("in-domain", "accuracy", ("{sources}",)),
        Measure("held-out style", "accuracy", (CLEAN,)),
        Measure(UNSEEN, "accuracy", ()),
        Measure("interference", "accuracy", INTERFERED),
        Measure("coherent", "coherent", (CLEAN,)),
        Measure("flipped by synonyms", "flipped", (SYNONYMS,), less_is_better=True),
        Measure("lost without the image", "lost", (BLANK, ANOTHER)),
        Measure("drift", "drift", INTERFERED, less_is_better=True),
    )
}
"""In-domain: the scenes of the held-out style, none of which was trained on, drawn in the source styles."""


@dataclass(frozen=True)
class Claim:
    """That a method is better than another one by a measure; `source` is what the source says of it, in its number."""

    says: str
    source: str
    method: str
    baseline: str
    measure: str
    answer: str = "reasoning"


CLAIMS = (
    Claim("Counterfactual chains help after SFT", "+8.0 (CPO, MS-CXR-T)", "cfp_thinking", PARENT, "held-out style"),
    Claim("… more than random answers, same data", "+5.4 (CPO)", "cfp_thinking", "dpo_random", "held-out style"),
    Claim("Counterfactual images help after SFT", "yes (CPO++, Fig. 7)", "cfp_perception", PARENT, "held-out style"),
    Claim("Both together help after SFT", "yes (CPO++)", "cfp", PARENT, "held-out style"),
    Claim("… more than chains alone", "yes (CPO++, Fig. 7)", "cfp", "cfp_thinking", "held-out style"),
    Claim("… more than images alone", "yes (CPO++, Fig. 7)", "cfp", "cfp_perception", "held-out style"),
    Claim("Another image teaches more than a crop", "yes (CPO++)", "cfp_perception", "dpo_crop", "held-out style"),
    Claim("… more than noise", "yes (CPO++)", "cfp_perception", "dpo_noise", "held-out style"),
    Claim("… more than a mask", "not in the source", "cfp_perception", "dpo_mask", "held-out style"),
    Claim("It is robust to extreme interference", "yes (CPO++)", "cfp", PARENT, "interference"),
    Claim("… in what it finds likely", "yes (CPO++)", "cfp", PARENT, "interference", "likelihood"),
    Claim("Reasoning drifts less", "yes (CPO++)", "cfp", PARENT, "drift", "likelihood"),
    Claim("A synonym changes fewer decisions", "yes (CPO, project page)", "cfp", PARENT, "flipped by synonyms"),
    Claim("Perception and thinking are consistent", "yes (CPO++)", "cfp", PARENT, "coherent"),
    Claim("Decisions depend on the image", "yes (CPO++)", "cfp", PARENT, "lost without the image"),
    Claim("It holds for unseen combinations", "not in the source", "cfp", PARENT, UNSEEN),
    Claim("… and in-domain", "not in the source", "cfp", PARENT, "in-domain"),
    Claim("It is not the steps alone", "not in the source", "cfp", "sft_more", "held-out style"),
    Claim("… under interference", "not in the source", "cfp", "sft_more", "interference"),
    Claim("The symmetric form is better", "SymMPO says so", "dpo_symmetric", "cfp_perception", "held-out style"),
    Claim("Rewards for right conclusions collapse", "yes (GRPO, CPO)", PARENT, GRPO, "held-out style"),
    Claim("Pairs of its own chains are better", "OPA-DPO says so", "cfp_rounds", "cfp", "held-out style"),
)
"""Of CPO (arXiv 2505.13081), which has thinking pairs alone, and CPO++ (2604.15705); differences by our subtraction."""


class DriftCell(Record):
    """A measure of a method on an answer path, as a share, with its 95 % interval over seeds and images."""

    method: str
    answer: str
    measure: str
    value: Interval


class DriftDifference(Record):
    """The paired difference of a claim's method from its baseline; positive where the method has more of it."""

    method: str
    baseline: str
    measure: str
    answer: str
    difference: Interval
    p_value: float


class DriftStudy(Record):
    """All methods, all measures, all claims."""

    command: str
    images: int
    """Asked about, in each held-out style."""
    steps: dict[str, float]
    """Optimiser steps from the base, by method, mean over styles and seeds."""
    cells: list[DriftCell] = Field(min_length=1)
    differences: list[DriftDifference]
    environment: Machine


def study_drift(
    root: Path, throughline: Callable[..., None], budgets: Budgets, parts: Path, environment: Machine
) -> DriftStudy:
    """Runs whatever is not kept in `parts`, style by style and seed by seed; `throughline(*words)` is the command.
    Raises a ThroughlineError for a run that is not whole."""
    names = [f"{target}-seed{seed}" for target, seed in product(TARGETS, SEEDS)]
    if not all((parts / f"{name}.parquet").is_file() for name in names):
        _make_images_and_pairs(root, throughline)
    for target, seed in product(TARGETS, SEEDS):
        part = parts / f"{target}-seed{seed}.parquet"
        if not part.is_file():
            found = _measured(root, throughline, budgets, target, seed)
            part.parent.mkdir(parents=True, exist_ok=True)
            found.to_parquet(part.with_suffix(".partial"), index=False, compression="zstd")
            part.with_suffix(".partial").replace(part)
    return summarised(pd.concat([pd.read_parquet(parts / f"{name}.parquet") for name in names]), environment)


def settings_of(target: str, budgets: Budgets) -> dict[str, dict[str, float]]:
    """`per_method` of the config for a held-out style."""
    [chosen] = [draw for draw in budgets.draws if draw.chosen and (draw.method, draw.target) == (BUDGET_OF, target)]
    passes = {name: PASSES / len(sources) for name, sources in SOURCES.items()} | {"cfp_rounds": PASSES / ROUNDS}
    after = {LR: chosen.lr / SLOWER}
    keys = {name: {**after, EPOCHS: epochs} for name, epochs in passes.items()}
    return {PARENT: {LR: chosen.lr, EPOCHS: chosen.epochs}, "sft_more": {LR: chosen.lr}, **keys, GRPO: after}


def _make_images_and_pairs(root: Path, throughline: Callable[..., None]) -> None:
    images, pairs = FOLDER / "images", FOLDER / "pairs"
    throughline("data", "draw", str(images), "--per-class", str(PER_CLASS))
    if not (root / pairs).is_dir():
        sources = dict.fromkeys(name for own in SOURCES.values() for name in own)
        throughline("drift", "pairs", str(images), "--source", ",".join(sources), "--out", str(pairs))


def _measured(root: Path, throughline: Callable[..., None], budgets: Budgets, target: str, seed: int) -> pd.DataFrame:
    """The values of one held-out style and seed: two trainings of every method, and the first one's robustness."""
    keys = json.dumps(settings_of(target, budgets))
    own = [f"data.targets={target}", f"seeds={seed}", f"per_method={keys}"]
    apart = ["data.group_by=combinations", "data.split_rule=concepts", f"evaluation.sample.per_class={ASKED}"]
    apart.append(f"evaluation.answering.answers=[{','.join(PATHS)}]")
    seen, unseen = (FOLDER / f"{target}-seed{seed}-{name}" for name in ("any", "unseen"))
    for folder, settings in ((seen, own), (unseen, own + apart)):
        throughline("run", CONFIG, *_given(settings), "--out", str(folder))
    sources = [style for style in DOMAIN_STYLES if style != target]
    asked = ["--style", ",".join(sources), "--kind", ",".join(CORRUPTIONS), "--answers", ",".join(PATHS)]
    asked += ["--per-class", str(ASKED)]
    throughline("drift", "robustness", str(seen), *asked, "--out", str(seen / "robustness"))
    trained, robust, other = (read_run(root / folder) for folder in (seen, seen / "robustness", unseen))
    for run in (trained, robust, other):
        require_whole(run)
    steps = trained.frames.units.groupby("method")["steps"].mean().rename("value").reset_index()
    rows = pd.concat([*_values(robust, sources), *_unseen(other, target, seed), steps.assign(measure="steps")])
    return rows.assign(target=target, seed=seed)


def _given(settings: list[str]) -> Iterator[str]:
    for setting in settings:
        yield from ("--set", setting)


def _group(run: Run) -> Group:
    [group] = groups(run)
    return group


def _values(run: Run, sources: list[str]) -> Iterator[pd.DataFrame]:
    """Every measure of every method, a row for each image."""
    for answer in PATHS:
        at = interference_values(_group(run), answer, GRAPH)
        for method, measure in product(METHODS, MEASURES.values()):
            levels = [f"style {s}" for s in sources] if measure.levels == ("{sources}",) else measure.levels
            own = [at.get(Setup(method, {FACTOR: level}).name, {}).get(measure.column) for level in levels]
            known = [values for values in own if values is not None]
            if known:
                mean = pd.concat(known, axis=1).mean(axis=1).rename("value").reset_index()
                named = {"method": method, "answer": answer, "measure": measure.words}
                yield mean.drop(columns=[name for name in IMAGE if name != "sample_id"]).assign(**named)


def _unseen(run: Run, target: str, seed: int) -> Iterator[pd.DataFrame]:
    """Right answers about combinations that no source shows."""
    group = _group(run)
    for answer, setup in product(PATHS, group.setups.values()):
        right = group.right(setup.name, answer)[target, seed].astype(float).rename("value")
        named = {"method": setup.method, "answer": answer, "measure": UNSEEN}
        yield right.rename_axis("sample_id").reset_index().assign(**named)


def summarised(values: pd.DataFrame, environment: Machine) -> DriftStudy:
    """The record of all parts. ThroughlineError where methods or seeds have answered other images."""
    runs = {
        key: {(target, seed): own.sort_values("sample_id") for (target, seed), own in rows.groupby(["target", "seed"])}
        for key, rows in values[values["measure"] != "steps"].groupby(["method", "answer", "measure"])
    }
    asked = dict[tuple[str, str, str], list[str]]()
    for (method, answer, measure), by_run in runs.items():
        for (target, _), own in by_run.items():
            if asked.setdefault((answer, measure, target), [*own["sample_id"]]) != [*own["sample_id"]]:
                what = f"{method} has answered other images of {target} than other methods ({measure}, {answer})"
                raise ThroughlineError(what, FOLDER, "measure it again")
    vectors = {
        key: {run: own["value"].to_numpy(np.float64) for run, own in by_run.items()} for key, by_run in runs.items()
    }
    cells = [
        DriftCell(
            method=method,
            answer=answer,
            measure=measure,
            value=hierarchical_bootstrap(vectors[method, answer, measure], bootstrap_generator()),
        )
        for method, answer, measure in product(METHODS, PATHS, MEASURES)
        if (method, answer, measure) in vectors
    ]
    steps = values[values["measure"] == "steps"].groupby("method")["value"].mean()
    return DriftStudy(
        command="python bench/evidence.py drift-study",
        images=len(asked["reasoning", "held-out style", TARGETS[0]]),
        steps={method: float(steps[method]) for method in METHODS},
        cells=cells,
        differences=[_difference(claim, vectors) for claim in CLAIMS],
        environment=environment,
    )


Vectors = dict[tuple[str, str, str], dict[tuple[str, int], NDArray[np.float64]]]


def _difference(claim: Claim, vectors: Vectors) -> DriftDifference:
    first, second = (vectors[name, claim.answer, claim.measure] for name in (claim.method, claim.baseline))
    found = paired_difference(first, second, bootstrap_generator())
    return DriftDifference(
        method=claim.method,
        baseline=claim.baseline,
        measure=claim.measure,
        answer=claim.answer,
        difference=found.interval,
        p_value=found.p_value,
    )
