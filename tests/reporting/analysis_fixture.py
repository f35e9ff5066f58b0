"""An analysis of a fake run, built from the records themselves: every part filled, numbers chosen."""

from pathlib import Path

from throughline.analysis.context import Context
from throughline.analysis.divergence import Divergence, Pair
from throughline.analysis.document import FILE, Analysis, Fold
from throughline.analysis.entropy import EntropyTable, Overlap, TokenEntropy
from throughline.analysis.faithfulness import Variant
from throughline.analysis.mismatch import Mismatch
from throughline.analysis.optimisation import Curve
from throughline.analysis.probabilities import Buckets, Moved
from throughline.analysis.records import Kind, Missing, Source, State
from throughline.analysis.sensitivity import Sensitivity, Setting
from throughline.analysis.shading import Shaded
from throughline.core.files import write_atomically
from throughline.metrics.intervals import Interval
from throughline.runs.reader import Run

BASE = State(method=None, unit=None, round=None)
KINDS: tuple[tuple[Source, Kind], ...] = (("label", "class"), ("teacher", "class"), ("teacher", "chain"))
HOSTILE = "</script><img src=https://elsewhere.example/x.png onerror=alert(1)>\u2028{{ 7 * 7 }}"


def estimate(mean: float, half: float = 0.1) -> Interval:
    return Interval(mean=mean, low=mean - half, high=mean + half)


def fold(target: str, seed: int, units: dict[str, str], high: float = 0.8) -> Fold:
    """`units`: unit by method. `high` is the trained weights' share above 0.75 everywhere."""
    states = [State(method=m, unit=u, round=None) for m, u in units.items() if "sarr" not in m and m != "zero_shot"]
    states += [State(method=m, unit=u, round=r) for m, u in units.items() if "sarr" in m for r in (1, 2)]
    ends = {state.method: state for state in states}
    histogram = (1,) * 19 + (21,)
    return Fold(
        targets=(target,),
        seed=seed,
        states=(BASE, *states),
        buckets=tuple(
            Buckets(
                state=state, source=source, kind=kind, images=8, tokens=40, low=estimate(0.4 if state == BASE else 0.1),
                high=estimate(0.3 if state == BASE else high), mean=estimate(0.5), histogram=histogram,
            )
            for state in (BASE, *states) for source, kind in KINDS
        ),
        moved=tuple(
            Moved(
                before=BASE, after=state, source=source, kind=kind, tokens=40, low_to_high=0.2, high_to_low=0.05,
                net=estimate(100 * (high - 0.3), 5),
            )
            for state in states for source, kind in (*KINDS, ("self", "class"))  # type: ignore[misc]
            if source != "self" or state.round == 2
        ),
        context=(
            Context(
                state=BASE, source="teacher", images=8, without=0.2, with_chain=0.6, low_without=0.5,
                low_with_chain=0.3, net=estimate(40, 5),
            ),
        ),
        curves=tuple(
            Curve(
                method=method, unit=unit, steps=(5, 10), losses={"label": (2.0, 1.0)},
                class_probability={"label": (0.25, None)},
            )
            for method, unit in units.items() if method != "zero_shot"
        ),
        entropy=tuple(
            EntropyTable(
                before=BASE, after=ends["mtct"], source=source, minimum=5, tokens=100, mean_before=1.5, mean_after=0.5,
                top=(TokenEntropy(token=" sky\n", count=7, before=2.5, after=0.25),), about_classes=0,
            )
            for source in ("teacher", "self")
        ),
        overlap=(Overlap(teacher=ends["mtct"], own=ends["mtct_sarr"], shared=(" sky",), of=15),),
        mismatch=tuple(
            Mismatch(
                state=state, source=source, images=8, perplexity=estimate(4.0 - (state.round or 0)), low=0.1,
                distance=None if state == BASE else 0.125,
            )
            for source in ("teacher", "self")
            for state in (BASE, ends["mtct"], *(one for one in states if one.method == "mtct_sarr"))
        ),
        variants=tuple(
            Variant(
                state=state, name=name, about=about, images=8, accuracy=estimate(0.5), probability=estimate(0.375),
                lost=None if about == "whole" else estimate(12.5),
            )
            for state in (BASE, ends["mtct_sarr"])
            for name, about in (("whole chain", "whole"), ("image blanked", "image"))
        ),
        shaded=tuple(
            Shaded(
                sample_id=f"photo/cup/{number}.png", label="cup", source=source, before=BASE, after=ends["mtct"],
                tokens=(("<SUMMARY", 0.125, 0.875), (" a", 0.5, 0.75), (HOSTILE, 0.0625, 0.1875)),
            )
            for source in ("teacher", "self") for number in range(2)
        ),
    )  # fmt: skip


def full_analysis(run: Run) -> Analysis:
    """A fold for every target and seed of the run, whose shares above 0.75 grow with the seed."""
    folds: dict[tuple[str, int], dict[str, str]] = {}
    for line in run.results:
        folds.setdefault((line.target, line.seed), {})[line.method] = line.unit
    setting = Setting(
        value="1", method="mtct_sarr", answer="label", units=2, accuracy=estimate(0.5), against="0",
        points=estimate(2.5, 1), p_value=0.04,
    )  # fmt: skip
    first = setting.model_copy(update={"value": "0", "against": None, "points": None, "p_value": None})
    return Analysis(
        dataset="drawn",
        model="pocket",
        drawn=True,
        limit=8,
        classes=("boat", "bowl", "cup"),
        folds=tuple(fold(target, seed, units, 0.7 + 0.1 * seed) for (target, seed), units in sorted(folds.items())),
        divergence=tuple(
            Divergence(
                encoder="pocket's own towers", of=of, source=source, samples=24, permutations=999, mean=0.2,
                pairs=(Pair(first="painting", second="sketch", distance=0.2, expected=0.05, p_value=0.001),),
            )
            for of, source in (("images", None), ("chains", "teacher"))
        ),
        sensitivity=(Sensitivity(setting="rounds", rows=(first, setting)),),
        missing=(Missing(what="class probability by step, sarr", why="it was not logged"),),
    )  # fmt: skip


def write_full_analysis(run: Run) -> Path:
    """Leaves it in the run folder."""
    path = run.folder / FILE
    write_atomically(path, full_analysis(run).model_dump_json())
    return path
