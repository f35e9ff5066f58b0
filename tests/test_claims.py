"""Claims get the verdict that their interval gives them, from the numbers of the folds that they name."""

from pathlib import Path

import numpy as np
import pytest

import claims
import paper_claims
from throughline.analysis.context import Context
from throughline.analysis.divergence import Divergence, Pair
from throughline.analysis.document import FILE, Analysis, Fold
from throughline.analysis.faithfulness import Variant
from throughline.analysis.probabilities import Buckets, Moved
from throughline.analysis.records import State
from throughline.analysis.sensitivity import Sensitivity, Setting
from throughline.metrics.intervals import Interval, clustered_interval, hierarchical_bootstrap

BASE = State(method=None, unit=None, round=None)
CLS = State(method="cls", unit="c", round=None)
CHAINS = State(method="reasoning", unit="r", round=None)
MTCT = State(method="mtct", unit="m", round=None)
FIRST, LAST = (State(method="mtct_sarr", unit="s", round=number) for number in (1, 2))


def about(value: float, half: float = 1.0) -> Interval:
    return Interval(mean=value, low=value - half, high=value + half)


def moved(after: State, source: str, kind: str, net: float, before: State = BASE) -> Moved:
    return Moved(
        before=before, after=after, source=source, kind=kind, tokens=9, low_to_high=0, high_to_low=0, net=about(net)
    )


def bucket(state: State, high: float) -> Buckets:
    return Buckets(
        state=state,
        source="label",
        kind="class",
        images=2,
        tokens=9,
        low=about(0),
        high=about(high),
        mean=about(0.5),
        histogram=(9,),
    )


def variant(name: str, accuracy: float, lost: Interval | None = None) -> Variant:
    return Variant(
        state=LAST,
        name=name,
        about="chain",
        images=4,
        accuracy=about(accuracy, 0.02),
        lost=lost,
        probability=about(0.5),
    )


def fold(target: str, seed: int, **parts) -> Fold:
    return Fold(targets=(target,), seed=seed, states=(BASE, CLS, CHAINS, FIRST, LAST), **parts)


def analysis_of(folds, **more) -> Analysis:
    return Analysis(dataset="drawn", model="pocket", drawn=True, limit=4, classes=("a", "b"), folds=folds, **more)


def row(says: str, analysis: Analysis):
    (claim,) = (one for one in (*claims.CHALLENGES, *claims.ROUNDS) if one.says == says)
    return claims.row_of(claim, analysis)


@pytest.mark.parametrize(
    ("chains", "verdict"),
    [((1.0, 2.0, 3.0), "seen"), ((30.0, 31.0, 32.0), "the reverse"), ((5, 10, 15), "undecided")],
)
def test_the_interval_over_seeds_decides(chains, verdict):
    folds = tuple(
        fold("sketch", i, moved=(moved(CLS, "label", "class", 10.0), moved(CHAINS, "teacher", "class", net)))
        for i, net in enumerate(chains)
    )
    found = row("Labels do so more than chains", analysis_of(folds))
    assert found[-1] == verdict
    assert float(found[3].split()[0]) == pytest.approx(10 - sum(chains) / 3, abs=0.01)


def test_the_last_round_stands_for_its_method():
    folds = (fold("sketch", 0, moved=(moved(FIRST, "self", "chain", 1.0), moved(LAST, "self", "chain", 7.0, MTCT))),)
    assert row("Training on own chains raises their tokens above 0.75", analysis_of(folds))[3] == "7.00 points"


def test_what_no_fold_speaks_of_is_not_measured():
    found = row("Both together come near labels alone", analysis_of((fold("sketch", 0, buckets=(bucket(CLS, 0.9),)),)))
    assert found[3:] == ("X", "X", "not measured")


def test_falls_are_of_the_whole_chains_accuracy():
    variants = (
        variant("whole chain", 0.5),
        variant("another image", 0.1, about(40, 5)),
        variant("another image's chain", 0.5, about(0, 2)),
    )
    analysis = analysis_of((fold("sketch", 0, variants=variants),))
    assert row("Conclusions depend on the image", analysis)[3] == "40.00 points"
    *_, numbers, interval, verdict = row("Conclusions depend on the chain", analysis)
    low, high = (float(end) for end in interval.split(" to "))
    assert (numbers, verdict) == ("0.00 points", "undecided")
    assert low == pytest.approx(-2, abs=0.2) and high == pytest.approx(2, abs=0.2)


def test_a_measure_that_no_seed_changes_still_has_the_images_interval():
    base = Context(
        state=BASE, source="teacher", images=9, without=0.5, with_chain=0.3, low_without=0.1, low_with_chain=0.1,
        net=about(-20.0, 5.0),
    )  # fmt: skip
    folds = tuple(fold("sketch", seed, context=(base,)) for seed in range(3))
    *_, interval, verdict = row("A chain in the context raises the untrained model's confidence", analysis_of(folds))
    low, high = (float(end) for end in interval.split(" to "))
    assert low == pytest.approx(-25, abs=0.4) and high == pytest.approx(-15, abs=0.4) and verdict == "the reverse"


def apart(of: str, *distances: float) -> Divergence:
    pairs = tuple(
        Pair(first="a", second=str(i), distance=d, expected=0.1, p_value=0.5) for i, d in enumerate(distances)
    )
    return Divergence(
        encoder="own", of=of, source=None, samples=9, permutations=9, mean=sum(distances) / len(distances), pairs=pairs
    )


@pytest.mark.parametrize(
    ("images", "chains", "verdict"),
    [
        ((0.5, 0.6), (0.2, 0.3), "seen"),
        ((0.1, 0.2), (0.5, 0.6), "the reverse"),
        ((0.1, 0.6), (0.2, 0.3), "undecided"),
    ],
)
def test_divergence_is_above_chance_and_of_every_pair(images, chains, verdict):
    analysis = analysis_of((), divergence=(apart("images", *images), apart("chains", *chains)))
    ((*_, numbers, _, said),) = claims.divergence_rows(analysis)
    assert said == verdict
    assert numbers == f"{sum(images) / 2 - 0.1:.3f} and {sum(chains) / 2 - 0.1:.3f}"


def test_rounds_are_those_of_the_whole_method():
    def setting(method, value, against, points):
        return Setting(
            value=value,
            method=method,
            answer="label",
            units=3,
            accuracy=about(0.5),
            against=against,
            points=None if points is None else Interval(mean=points, low=points - 0.5, high=points + 0.5),
            p_value=None if points is None else 0.01,
        )

    tables = tuple(
        Sensitivity(setting="rounds", rows=(setting(m, "0", None, None), setting(m, "1", "0", 2.0)))
        for m in ("sarr", "mtct_sarr")
    )
    (found,) = claims.round_tests(analysis_of((), sensitivity=tables))
    assert found[0] == "Round 1 beats round 0" and found[3] == "+2.0 points, p 0.010" and found[-1] == "seen"


def test_blocks_without_evidence_say_so(tmp_path: Path):
    assert claims.claims_block("challenges")(tmp_path, None) == claims.NOT_MEASURED
    assert claims.claims_block("rounds")(tmp_path, object()) == claims.NOT_MEASURED
    assert not (tmp_path / "evidence" / "demo_full" / FILE).exists()


def test_an_interval_over_runs_is_what_a_bootstrap_of_the_answers_themselves_gives() -> None:
    drawn = np.random.default_rng(0)
    answers, known = {}, {}
    for target, skill in (("a", 0.3), ("b", 0.7)):
        images = drawn.uniform(size=150)
        for seed in range(4):
            right = (images + 0.1 * drawn.standard_normal(150) < skill + 0.06 * drawn.standard_normal()).astype(float)
            answers[target, seed] = right
            known[target, seed] = clustered_interval(right, np.ones(150), np.random.default_rng(1))
    whole = hierarchical_bootstrap(answers, np.random.default_rng(2))
    found = claims.interval_over_runs(known, np.random.default_rng(3))
    assert found.mean == pytest.approx(whole.mean)
    assert found.low == pytest.approx(whole.low, abs=0.012) and found.high == pytest.approx(whole.high, abs=0.012)


def test_without_image_intervals_only_seeds_count_and_one_run_keeps_its_own() -> None:
    def exactly(value: float) -> Interval:
        return Interval(low=value, high=value, mean=value)

    spread = {("a", seed): exactly(value) for seed, value in enumerate((1.0, 2.0, 6.0))}
    found = claims.interval_over_runs(spread, np.random.default_rng(0))
    assert found == hierarchical_bootstrap({k: [v.mean] for k, v in spread.items()}, np.random.default_rng(0))
    one = claims.interval_over_runs({("a", 0): Interval(low=-1.0, high=3.0, mean=1.0)}, np.random.default_rng(0))
    assert one.low == pytest.approx(-1, abs=0.15) and one.high == pytest.approx(3, abs=0.15) and one.mean == 1
    with pytest.raises(ValueError, match="no runs"):
        claims.interval_over_runs({}, np.random.default_rng(0))


def test_targets_with_the_same_images_do_not_average_the_images_away() -> None:
    known = {(f"t{n}", 0): Interval(low=-2.0, high=2.0, mean=0.0) for n in range(4)}
    apart, same = (
        claims.interval_over_runs(known, np.random.default_rng(0), same_images=shared) for shared in (False, True)
    )
    assert apart.high - apart.low == pytest.approx(4 / 4**0.5, rel=0.1) and same.high - same.low == pytest.approx(
        4, rel=0.1
    )


def test_errors_of_a_difference_add_as_squares() -> None:
    found = paper_claims.difference_of(Interval(low=7.0, high=13.0, mean=10.0), Interval(low=0.0, high=8.0, mean=4.0))
    assert (found.low, found.mean, found.high) == (1.0, 6.0, 11.0)
