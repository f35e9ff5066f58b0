"""What labelled examples in the prompt mend: the target domain's beside shifted ones and every control, on the drawn
world and on handwriting scans under both shifts. Called by `evidence.py in-context`.

Written down before anything was run: the pocket; 0, 1, 2, 4 and 8 examples of every kind of `ood.factors.CONTROLS`,
three draws of each; label likelihood and the label path. Images, by seed: a drawn world of 30 a class and style (seed
5000), of which 15 are asked about; scikit-learn's 1,797 scans (seed 0), rotated, 10 of each class and angle, and
coloured, 60 of each class and colouring. Whatever comes out stands as it falls. Stopped runs resume; of sets that are
whole, reduced runs are kept.
"""

from collections.abc import Callable
from pathlib import Path

from reduced_run import reduce_run
from throughline.ood.factors import CONTROLS
from throughline.runs.reader import REDUCED_PREDICTIONS

CONFIG = "bench/in_context.yaml"
SHOTS = (0, 1, 2, 4, 8)
DRAWS = 3
PATHS = ("likelihood", "label")
PER_CLASS = {"drawn": 15, "rotation": 10, "colour": 60}
"""By image set, how many of each class and domain are asked about."""


def record_name(name: str) -> str:
    """Of the folder below evidence/."""
    return f"in_context_{name}"


def ask_in_context(root: Path, evidence: Path, run: Callable[..., None]) -> None:
    """Runs each image set below `runs/in_context` and reduces it into `evidence`; `run(*words)` is `throughline`."""
    for name, per_class in PER_CLASS.items():
        reduced, folder = evidence / record_name(name), Path("runs") / "in_context" / name
        if (reduced / REDUCED_PREDICTIONS).is_file():
            continue
        run(*command(name, per_class), "--out", str(folder), *images_of(root, name, run))
        reduce_run(root / folder, reduced)


def command(name: str, per_class: int) -> tuple[str, ...]:
    """`throughline ood icl` about one image set."""
    options = {"shots": SHOTS, "examples": tuple(CONTROLS), "draws": (DRAWS,), "per-class": (per_class,)}
    words = (word for option, values in options.items() for word in (f"--{option}", ",".join(map(str, values))))
    return ("ood", "icl", CONFIG, *words, "--answers", ",".join(PATHS), "--set", f"name=in_context_{name}")


def images_of(root: Path, name: str, run: Callable[..., None]) -> tuple[str, ...]:
    """What sets the images of a config; those of handwriting are written where they are not there yet."""
    if name == "drawn":
        return ()
    folder = Path("runs") / "digits" / name
    if not (root / folder).exists():
        run("data", "digits", str(folder), "--shift", name)
    return ("--set", f"data={{images: {folder}, targets: all}}")
