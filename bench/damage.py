"""Does `ood diagnose` name what was damaged? Copies of the pocket with known damage, and the undamaged one as their
reference. Called by `evidence.py damage`.

Fixed with copies of the seeds CHOOSING (docs/notebook.md), before any of the seeds TESTING was made: the rule, the
kinds of damage and their strengths, the images. Those are of the eight classes that the pocket names (four were never
the answer to a question about one image), in all styles. A stopped study goes on; of every copy the verdict is kept.
"""

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field

from damaged_pocket import NAMED, UNNAMED, Case, Damage, exchanged, write_checkpoint
from records import Machine, Record, read_record, this_machine, write_record
from throughline.core.files import write_atomically
from throughline.domains.folders import read_images
from throughline.domains.tables import image_table
from throughline.drawn.scenes import WorldSettings
from throughline.drawn.styles import DOMAIN_STYLES
from throughline.drawn.world import write_world
from throughline.metrics.intervals import Interval
from throughline.mllm.checkpoints import POCKET
from throughline.ood.diagnosis import CAUSES, Evidence, diagnose
from throughline.reporting.groups import Group, groups
from throughline.reporting.probes import ANSWERED, evidence_of
from throughline.runs.reader import read_run

CHOOSING, TESTING = (1, 2), (11, 12)
"""Seeds. Nothing was decided with a copy of TESTING, nor with images of its world."""
WORLD = {CHOOSING: 4100, TESTING: 4200}
"""Seeds of the images."""
STYLES = DOMAIN_STYLES
PER_CLASS, ASKED = 40, 10
"""Images of each class and style, and how many of them are asked about; probes learn from the others."""
PATH = "likelihood"
STRENGTHS: dict[Damage, tuple[float, ...]] = {
    "tower": (0.5, 0.7, 1),
    "noise": (3, 4, 6),
    "rotation": (0.6, 1),
    "words": (3, 5, 8),
    "task": (4, 8),
    "harmless": (0.01, 0.03),
}
PAIRS: tuple[tuple[tuple[Damage, float], tuple[Damage, float]], ...] = (
    (("tower", 0.5), ("words", 5)),
    (("tower", 0.5), ("noise", 4)),
    (("noise", 4), ("words", 5)),
    (("rotation", 1), ("words", 3)),
)


class Verdict(Record):
    """What `diagnose` said of a copy. Shares of all images, 0 to 1, with 95 % intervals; the error is that added."""

    name: str
    damages: list[tuple[Damage, float]] = Field(min_length=1)
    causes: list[str]
    named: tuple[str, ...]
    why: str
    error: Interval
    shares: dict[str, Interval]
    accuracy: float
    seconds: float
    """Of the diagnosis: probes and answers of the copy and of the reference."""

    @property
    def judged(self) -> Literal["right", "wrong", "refused"]:
        """Naming a cause that is one is right, and refusing where there is none; so is naming either of two, or both.
        Two that are named where one is a cause are wrong."""
        if not self.named:
            return "refused" if self.causes else "right"
        return "right" if set(self.named) <= set(self.causes) else "wrong"


class DamageStudy(Record):
    """All copies."""

    command: str
    images: int
    asked: int
    accuracy: float
    """Of the undamaged one."""
    verdicts: list[Verdict] = Field(min_length=1)
    environment: Machine


def cases(seeds: Sequence[int]) -> Iterator[Case]:
    """One damage at a time at every strength, then two at once."""
    for seed in seeds:
        yield from (Case(((damage, own),), seed) for damage, strengths in STRENGTHS.items() for own in strengths)
        yield from (Case(pair, seed) for pair in PAIRS)


def study_damage(root: Path, run: Callable[..., None], parts: Path, seeds: tuple[int, int] = TESTING) -> DamageStudy:
    """The verdict of each copy, kept in `parts`; `run(*words)` is `throughline`, which runs in `root`."""
    scratch = Path("runs") / "damage" / "-".join(map(str, seeds))
    images = scratch / "images"
    settings = WorldSettings(class_weights=tuple((name, 0.0) for name in UNNAMED))
    write_world(root / images, per_class=PER_CLASS, seed=WORLD[seeds], styles=STYLES, settings=settings)

    def probed(source: Path, model: str, out: Path) -> tuple[Group, float]:
        began = time.monotonic()
        options = ("--answers", PATH, "--per-class", str(ASKED), "--set", "workers=2", "--set", "data.name=drawn")
        run("ood", "probe", str(source), "--model", model, "--out", str(out), *options)
        (group,) = groups(read_run(root / out))
        return group, time.monotonic() - began

    reference, began = scratch / "reference", parts / "reference.txt"
    undamaged, seconds = probed(images, POCKET, reference)
    if not began.is_file():  # later calls find a finished run
        write_atomically(began, f"{seconds:.1f}")
    verdicts = []
    for case in cases(seeds):
        kept, folder = parts / f"{case.name}.json", scratch / case.name
        verdict = read_record(kept, Verdict)
        if verdict is None:
            source, model = damaged(case, root, images, folder)
            group, own = probed(source, model, folder / "run")
            verdict = judge(case, group, undamaged, own + float(began.read_text()))
            write_record(kept, verdict)
            shutil.rmtree(root / folder)
        verdicts.append(verdict)
    return DamageStudy(
        command="python bench/evidence.py damage",
        images=len(NAMED) * PER_CLASS * len(STYLES),
        asked=len(NAMED) * ASKED * len(STYLES),
        accuracy=accuracy(undamaged),
        verdicts=verdicts,
        environment=this_machine(),
    )


def judge(case: Case, group: Group, undamaged: Group, seconds: float) -> Verdict:
    """The verdict of `diagnose`, as the verb gives it. Words that are exchanged in the images' table are those of the
    reference's probe, too: then each has its own."""
    reads = not any(damage == "task" for damage, _ in case.damages)
    found, before = evidence(group, undamaged if reads else None), evidence(undamaged)
    diagnosis = diagnose(found, before)
    return Verdict(
        name=case.name,
        damages=list(case.damages),
        causes=list(case.causes),
        named=diagnosis.named,
        why=diagnosis.why,
        error=diagnosis.error,
        shares={name: diagnosis.causes[name] for name in CAUSES},
        accuracy=accuracy(group),
        seconds=round(seconds, 1),
    )


def evidence(group: Group, reference: Group | None = None) -> Evidence:
    """Of the one setup there is."""
    found = evidence_of(group, group.setups[ANSWERED], PATH, reference)
    assert found is not None, "the run has answers and probes about the same images"
    return found


def accuracy(group: Group) -> float:
    """Of the answers, mean over the styles."""
    return float(group.final.query("split == 'all' and answer == @PATH")["accuracy"].mean())


def damaged(case: Case, root: Path, images: Path, folder: Path) -> tuple[Path, str]:
    """What is asked about, and the checkpoint that is asked, made below `folder`."""
    names = [damage for damage, _ in case.damages]
    source, checkpoint = images, folder / "checkpoint"
    for damage, strength in case.damages:
        if damage == "task":
            source = images / f"{case.name}.csv"
            meant = exchanged(int(strength), case.seed)
            samples = read_images(root / images).samples
            rows = ({"image": s.id, "domain": s.domain, "label": meant.get(s.label, s.label)} for s in samples)
            write_atomically(root / source, image_table(rows))
    if names == ["task"]:
        return source, POCKET
    write_checkpoint(case, root / checkpoint)
    return source, str(checkpoint)
