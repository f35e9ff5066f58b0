"""`smol` on real images as tables: what it answers on each style beside what words, a vote and a probe reach, and what
fine-tuning on labels is worth on a held-out one. Called by `documents.py`."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from certificate_block import NOT_MEASURED
from throughline.core.table import Table
from throughline.metrics.intervals import Interval, bootstrap_generator, hierarchical_bootstrap
from throughline.metrics.paired import paired_difference
from throughline.reporting.estimates import same_samples
from throughline.reporting.groups import Group, Right, groups
from throughline.reporting.probes import ANSWERED, TOWER, probes_beside
from throughline.reporting.tables import bracketed
from throughline.reporting.text import to_markdown
from throughline.runs.reader import read_run
from throughline.runs.unit import PROBE

ASKED, CHAINS, TUNED = "smol", "smol_chains", "smol_cls"
"""Folders of reduced runs under evidence/."""
PATHS = ("prior", "label", "likelihood", "contrast")


def _block(name: str, tables: Callable[[Group, Path], list[Table]]) -> Callable[[Path], str]:
    def block(evidence: Path) -> str:
        if not (evidence / name).is_dir():
            return NOT_MEASURED
        (group,) = groups(read_run(evidence / name))
        return "\n".join(to_markdown(table, with_title=False) for table in tables(group, evidence))

    return block


def _styles(group: Group, evidence: Path) -> list[Table]:
    probes = probes_beside(group)
    assert probes is not None, "the run has probes"
    answers = {path: group.right(ANSWERED, path) for path in PATHS}
    answers["reasoning"] = _reasoning(evidence)
    answers["probe"] = probes.right(PROBE, TOWER)
    majority = _majority(group)
    rows = [
        (
            target,
            f"{len(answers['contrast'][target, 0])}",
            f"{100 * majority[target]:.1f}",
            *(_shown(_of(right, (target,))) for right in answers.values()),
        )
        for target in group.targets
    ]
    means = (_shown(_of(right, group.targets)) for right in answers.values())
    rows.append(("mean", "", f"{100 * np.mean(list(majority.values())):.1f}", *means))
    columns = ("style", "asked", "majority vote", *PATHS, "reasoning", "probe on the tower")
    count = len(answers["reasoning"].get((group.targets[0], 0), ()))
    note = (
        f"`python bench/evidence.py smol`: accuracy in percent, the same images for every number of a row but "
        f"reasoning, which was asked about {count} of each style. prior: the likelihood without the image, what words "
        "alone reach; contrast: the likelihood less the prior's. Probe: linear, trained on other images of all styles. "
        "95 % intervals over images."
    )
    return [Table("styles", columns, tuple(rows), (note,))]


def _reasoning(evidence: Path) -> Right:
    if not (evidence / CHAINS).is_dir():
        return {}
    (group,) = groups(read_run(evidence / CHAINS))
    return group.right(ANSWERED, "reasoning")


def _majority(group: Group) -> dict[str, float]:
    """What the most frequent class of a style is worth among its images asked about."""
    asked = group.predictions.drop_duplicates("sample_id")
    labels = asked["labels"].str[0]
    return {target: float(own.value_counts(normalize=True).iloc[0]) for target, own in labels.groupby(asked["target"])}


def _tuned(group: Group, evidence: Path) -> list[Table]:
    rows = []
    for target in group.targets:
        for before, after, answer in _pairs(group):
            first, second = (_only(group.right(setup, answer), target) for setup in (before, after))
            if first and same_samples(first, second):
                gap = paired_difference(_vectors(second), _vectors(first), bootstrap_generator())
                cells = (_shown(_of(right, (target,))) for right in (first, second))
                rows.append((target, answer, f"{len(next(iter(first.values())))}", *cells, bracketed(gap)))
    columns = ("held out", "answer path", "asked", "zero_shot", "cls", "difference")
    note = (
        "Accuracy in percent, over two seeds: as it is, and fine-tuned with LoRA on the labels of 34 images of each "
        "other style, three epochs, with concepts kept apart. Chains are not trained: no teacher of these images is at "
        "hand that does not know the label. 95 % intervals over images and seeds."
    )
    return [Table("tuned", columns, tuple(rows), (note,))]


def _pairs(group: Group) -> Iterator[tuple[str, str, str]]:
    """Setups of `zero_shot` and `cls` at the same levels, and each answer path that both were asked on."""
    for answer in group.answers:
        for setup in group.setups.values():
            if setup.method == ANSWERED:
                yield setup.name, setup.of_method("cls"), answer


def _only(right: Right, target: str) -> Right:
    return {key: row for key, row in right.items() if key[0] == target}


def _of(right: Right, targets: tuple[str, ...]) -> Interval | None:
    rows = {key: row for key, row in right.items() if key[0] in targets}
    return hierarchical_bootstrap(_vectors(rows), bootstrap_generator()).scaled(100) if rows else None


def _vectors(right: Right) -> dict[tuple[str, int], NDArray[np.float64]]:
    return {key: row.to_numpy(np.float64) for key, row in right.items()}


def _shown(share: Interval | None) -> str:
    return "–" if share is None else f"{share.mean:.1f} ({share.low:.1f} to {share.high:.1f})"


BLOCKS = {"smol-styles": _block(ASKED, _styles), "smol-tuned": _block(TUNED, _tuned)}
