"""What the REFLECTION stage and early stopping buy, measured with the describer on a drawn world: three builds of the
same images, each with three seeds of the teacher. `evidence.py chains` calls this."""

import shutil
from collections import defaultdict
from pathlib import Path

from transformers import AutoTokenizer

from records import BuiltChains, ChainsStudy
from throughline.chains.formats import FIVE_STAGE, FOUR_STAGE, ChainFormat
from throughline.chains.rules import RULES
from throughline.chains.store import read_store
from throughline.domains.folders import read_images
from throughline.domains.samples import ImageSet
from throughline.drawn.world import write_world
from throughline.mllm.checkpoints import checkpoint_source
from throughline.questions.question_set import make_question_set
from throughline.teaching.building import build_chains
from throughline.teaching.plan import BuildPlan
from throughline.teaching.teachers import Describer

PER_CLASS, CANDIDATES, SEEDS = 25, 4, (0, 1, 2)

BUILDS: tuple[tuple[str, ChainFormat, int | None], ...] = (
    ("five stages, stop at the first accepted", FIVE_STAGE, 1),
    ("five stages, always K = 4", FIVE_STAGE, None),
    ("four stages, stop at the first accepted", FOUR_STAGE, 1),
)


def study_chains(folder: Path) -> ChainsStudy:
    """Builds everything anew below `folder`."""
    shutil.rmtree(folder, ignore_errors=True)
    write_world(folder / "images", per_class=PER_CLASS, seed=0)
    images = read_images(folder / "images")
    builds = [_built(name, images, format, enough, folder / str(n)) for n, (name, format, enough) in enumerate(BUILDS)]
    return ChainsStudy(
        command="python bench/evidence.py chains", images=len(images.samples), candidates=CANDIDATES, builds=builds
    )


def _built(name: str, images: ImageSet, format: ChainFormat, enough: int | None, folder: Path) -> BuiltChains:
    tokenizer = AutoTokenizer.from_pretrained(checkpoint_source("pocket", hub=False))
    question = make_question_set(images.classes, format).reasoning
    counts: dict[str, list[int]] = defaultdict(list)
    for seed in SEEDS:
        store = folder / str(seed)
        plan = BuildPlan(images, format, candidates=CANDIDATES, enough=enough)
        build_chains(plan, Describer(images.root, format, question, seed), store)
        chains = read_store(store)
        accepted = {rule: chains.answers.loc[chains.verdicts(rule).query("accepted").index] for rule in RULES}
        counts["answers"].append(len(chains.answers))
        counts["tokens"].append(sum(len(tokenizer(c.text)["input_ids"]) for c in chains.candidates()))
        counts["well_formed"].append(len(accepted["format"]))
        counts["consistent"].append(len(accepted["consistent"]))
        counts["correct"].append(len(accepted["correct"]))
        counts["images_with_chain"].append(accepted["correct"]["sample"].nunique())
    return BuiltChains(name=name, images=len(images.samples), **counts)
