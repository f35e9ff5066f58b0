"""A contradiction that was put into a chain at a known token, seen by the pocket checkpoint."""

import pandas as pd
import pytest

from throughline.domains.folders import read_images
from throughline.domains.samples import spread
from throughline.drawn.concepts import CLASSES, contrast_of
from throughline.drawn.counterfactuals import counterfactual
from throughline.drawn.describer import DescriberSettings, describe
from throughline.drawn.scenes import read_scenes
from throughline.drawn.world import write_world
from throughline.drift.measures import Chain, Meter
from throughline.drift.summary import LATE, summarise
from throughline.mllm.checkpoints import POCKET
from throughline.mllm.images import ImageReader
from throughline.mllm.load import load_mllm
from throughline.questions.question_set import make_question_set

SURE = DescriberSettings(part_mistakes=0, format_faults=0)
TRUE_STAGES = 3
"""Of the five; the reflection and the conclusion then speak for the class of which the deciding part is otherwise."""


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """About eight drawn images a true chain each, and one that turns against its own reasoning."""
    folder = tmp_path_factory.mktemp("world") / "images"
    write_world(folder, per_class=1, seed=5)
    scenes, mllm = read_scenes(folder), load_mllm(POCKET)
    meter, reader = Meter(mllm, make_question_set(CLASSES), every=0), ImageReader(mllm.chat)
    tables = []
    for sample in spread(read_images(folder).samples, 8):
        scene, image = scenes[sample.id], reader.encode(sample)
        true, other = (
            describe(own, seed=0, sample_id=sample.id, settings=SURE) for own in (scene, counterfactual(scene))
        )
        planted = [*true.split("\n")[:TRUE_STAGES], *other.split("\n")[TRUE_STAGES:]]
        for key, text in (("true", true), ("planted", "\n".join(planted))):
            tables.append(meter.measure(Chain(sample, key, text), image, None).to_pandas())
    return pd.concat(tables, ignore_index=True)


def test_the_planted_chains_conclude_wrongly(rows: pd.DataFrame) -> None:
    for (_, key), own in rows.groupby(["sample_id", "chain"]):
        label, [concluded] = own["label"].iloc[0], set(own["concluded"])
        assert concluded == (label if key == "true" else contrast_of(label))


def test_a_late_surprise_tells_them(rows: pd.DataFrame) -> None:
    summary = summarise(rows, CLASSES)
    [late] = [row for row in summary.scores if row.score == LATE]
    assert late.auroc.low > 0.5 and summary.wrong == 8
    reasoned = {row.stage: row for row in summary.stages}["REASONING"]
    assert reasoned.right.mean > 0.8  # half of all chains go on to turn against it
    assert reasoned.decided.mean < 0.7


def test_the_surprise_is_at_the_planted_token(rows: pd.DataFrame) -> None:
    higher = []
    for _, both in rows.groupby("sample_id"):
        true, planted = (both[both["chain"] == key].reset_index(drop=True) for key in ("true", "planted"))
        shorter = min(len(true), len(planted))
        [first, *_] = (true["token_id"][:shorter] != planted["token_id"][:shorter]).to_numpy().nonzero()[0]
        assert (true["nll"][:first] - planted["nll"][:first]).abs().max() < 1e-4  # nothing is seen before it
        higher.append(planted["nll"][first] > true["nll"][first])
    assert sum(higher) >= 7
