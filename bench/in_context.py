"""What labelled examples in the prompt mend: the target domain's beside shifted ones and every control, on the drawn
world and on handwriting scans under both shifts. Called by `evidence.py in-context`.

Written down before anything was run: the pocket, by label likelihood; 0, 1, 2, 4 and 8 examples of every kind of
`ood.factors.CONTROLS`, of two classes alone in a ratio of 3 to 1 (label shift), and from other domains that go with the
class half the time or always (spurious correlation); three draws of each. Images, by seed: a drawn world of 30 a class
and style (seed 5000), of which 15 are asked about; scikit-learn's 1,797 scans (seed 0), rotated by 0, 30 and 60
degrees, 10 of each class and angle, and coloured, 60 of each class and colouring. Whatever comes out stands as it
falls. Stopped runs resume; of sets that are whole, reduced runs are kept.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from reduced_run import reduce_run
from throughline.ood.factors import CONTROLS
from throughline.runs.reader import REDUCED_PREDICTIONS

CONFIG = "bench/in_context.yaml"
SHOTS = (0, 1, 2, 4, 8)
DRAWS = 3
PATH = "likelihood"
SPURIOUS = (0.5, 1)


@dataclass(frozen=True)
class Images:
    """What is asked about: so many of each class and domain, of these targets; `shares` are those of label shift."""

    per_class: int
    shares: str
    targets: str = "all"


SETS = {
    "drawn": Images(15, "cup=3,bowl=1"),
    "rotation": Images(10, "three=3,eight=1", "[rotation_00, rotation_30, rotation_60]"),
    "colour": Images(60, "low=3,high=1"),
}


def record_name(name: str) -> str:
    """Of the folder below evidence/."""
    return f"in_context_{name}"


def ask_in_context(root: Path, evidence: Path, run: Callable[..., None]) -> None:
    """Runs each image set below `runs/in_context` and reduces it into `evidence`; `run(*words)` is `throughline`."""
    for name in SETS:
        reduced, folder = evidence / record_name(name), Path("runs") / "in_context" / name
        if (reduced / REDUCED_PREDICTIONS).is_file():
            continue
        run(*command(name), "--out", str(folder), *images_of(root, name, run))
        reduce_run(root / folder, reduced, splits=("all",))


def command(name: str) -> tuple[str, ...]:
    """`throughline ood icl` about one image set."""
    lists = {"shots": SHOTS, "examples": tuple(CONTROLS), "spurious": SPURIOUS}
    numbers = {"draws": DRAWS, "per-class": SETS[name].per_class, "shares": SETS[name].shares, "answers": PATH}
    options = {option: ",".join(map(str, values)) for option, values in lists.items()} | numbers
    words = (word for option, value in options.items() for word in (f"--{option}", str(value)))
    return ("ood", "icl", CONFIG, *words, "--set", f"name={record_name(name)}")


def images_of(root: Path, name: str, run: Callable[..., None]) -> tuple[str, ...]:
    """What sets the images of a config; those of handwriting are written where they are not there yet."""
    if name == "drawn":
        return ()
    folder = Path("runs") / "digits" / name
    if not (root / folder).exists():
        run("data", "digits", str(folder), "--shift", name)
    return ("--set", f"data={{images: {folder}, targets: {SETS[name].targets}}}")
