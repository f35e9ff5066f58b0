"""The budgets of the second laboratory: learning rate and epochs of each method and target, chosen on the source
domains alone (DomainBed's training-domain rule), and whether they are enough. Called by `evidence.py budgets`.

Written down before anything was run: the grid of `budget.yaml`, seed 0, for `cls`, `reasoning` and `mtct`; `sarr` and
`mtct_sarr` take what they start from. A path is judged by what its method is trained on: `reasoning` by its chains'
conclusions, the others by label likelihood. Then `cls` with three seeds at the chosen epochs and at twice as many: the
means over targets and seeds may differ by `TOLERANCE` at most. Stopped runs resume.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import fmean

from records import BudgetCheck, BudgetDraw, Budgets
from throughline.runs.draws import TRAINING_DOMAIN, choose, find_draws
from throughline.runs.reader import Run, read_run
from throughline.training.methods import METHODS

CONFIG = "bench/budget.yaml"
PATHS = {"cls": "likelihood", "reasoning": "reasoning", "mtct": "likelihood"}
SEEDS = (0, 1, 2)
TOLERANCE = 0.015
LR, EPOCHS = "training.stage.lr", "training.stage.epochs"


def choose_budgets(
    root: Path,
    run: Callable[..., None],
    known: Budgets | None = None,
    keep: Callable[[Budgets], object] = lambda _: None,
) -> Budgets:
    """Runs grids and check below `runs/budget`; `run(*words)` is `throughline run`. What is `known` is not run again;
    each method's grid and each target's check is kept when it is there."""
    found = known or Budgets(draws=[], checks=[], tolerance=TOLERANCE)
    for method in PATHS:
        if method not in {draw.method for draw in found.draws}:
            found.draws.extend(_searched(root, run, method))
            keep(found)
    for chosen in (draw for draw in found.draws if draw.chosen and draw.method == "cls"):
        if chosen.target not in {check.target for check in found.checks}:
            found.checks.extend(_checked(root, run, chosen))
            keep(found)
    return found


def per_method(budgets: Budgets) -> dict[str, dict[str, float]]:
    """The chosen values as `per_method` of a config; a control that takes another method's steps has the learning rate
    of the method that it repeats."""
    chosen = [draw for draw in budgets.draws if draw.chosen]
    own = {f"{draw.method}@{draw.target}": {LR: draw.lr, EPOCHS: draw.epochs} for draw in chosen}
    matched = {
        f"{draw.method}_matched@{draw.target}": {LR: draw.lr} for draw in chosen if f"{draw.method}_matched" in METHODS
    }
    return own | matched


def _searched(root: Path, run: Callable[..., None], method: str) -> list[BudgetDraw]:
    """Every draw of a method on every target, and which one is chosen."""
    finished = _finished(root, run, method, f"methods={method}", f"evaluation.answering.answers={PATHS[method]}")
    found = []
    for draws in find_draws(finished):
        chosen = choose(draws, TRAINING_DOMAIN)
        for draw in draws:
            stage = draw.unit.inputs["stage"]
            share = draw.shares[TRAINING_DOMAIN]
            assert share is not None
            (target,) = draw.unit.targets
            found.append(
                BudgetDraw(
                    method=method,
                    target=target,
                    lr=stage["lr"],
                    epochs=stage["epochs"],
                    accuracy=share,
                    chosen=draw is chosen,
                )
            )
    return found


def _checked(root: Path, run: Callable[..., None], chosen: BudgetDraw) -> Iterable[BudgetCheck]:
    """`cls` on one target at the chosen epochs (draw 0) and at twice as many, by seed."""
    finished = _finished(
        root,
        run,
        f"check-{chosen.target}",
        f"data.targets={chosen.target}",
        f"seeds=[{','.join(map(str, SEEDS))}]",
        f"{LR}={chosen.lr}",
        f"{EPOCHS}={chosen.epochs}",
        f"search.over={{{EPOCHS}: [{2 * chosen.epochs}]}}",
    )
    for draws in find_draws(finished):
        shares = {draw.number: draw.shares[TRAINING_DOMAIN] for draw in draws}
        at, twice = shares[0], shares[1]
        assert at is not None and twice is not None
        yield BudgetCheck(target=chosen.target, seed=draws[0].unit.seed, at=at, twice=twice)


def _finished(root: Path, run: Callable[..., None], name: str, *settings: str) -> Run:
    folder = Path("runs") / "budget" / name
    run(CONFIG, *(word for setting in settings for word in ("--set", setting)), "--out", str(folder))
    return read_run(root / folder)


def gain_of_twice(budgets: Budgets) -> float:
    """Mean over targets and seeds of what twice the steps are worth, as a share."""
    return fmean(check.twice - check.at for check in budgets.checks)
