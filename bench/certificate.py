"""The laboratory's certificate: is the drawn world, with the pocket base, a place where methods can be compared?

    python bench/certificate.py            # writes evidence/certificate.json; about a quarter of an hour on two cores
    python bench/certificate.py --checkpoint DIR --out FILE     # of a base that does not ship (yet)

Measured before any method is compared, with the bars and the budget below, which were written down first. Accuracies
are by label likelihood; the label path's unparsed share stands beside them. What makes reasoning matter is measured in
`certificate_reasoning.py`.
"""

import argparse
import itertools
import json
import math
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from certificate_reasoning import ReasoningBars
from certificate_reasoning import checks as reasoning_checks
from throughline.core.files import content_hash, write_json
from throughline.drawn.concepts import CLASSES, FAMILIES, contrast_of
from throughline.drawn.styles import DOMAIN_STYLES
from throughline.mllm.checkpoints import checkpoint_folder

ROOT = Path(__file__).parent.parent
SCRATCH = ROOT / "runs" / "certificate"


@dataclass(frozen=True)
class Budget:
    """What `cls` gets, held out or not: as many images, as many epochs."""

    images_held_out: int = 40  # a class and style, three source styles
    images_included: int = 30  # a class and style, four styles: 3 x 40 = 4 x 30
    epochs: int = 6
    batch: int = 16
    lr: float = 1e-3
    seeds: tuple[int, ...] = (0, 1, 2)
    test_images: int = 25  # a class and style, never trained on, the same for every model
    reasoning_images: int = 5  # of these, the first: for the measures of chains, parts, examples and words
    world_seed: int = 7000


@dataclass(frozen=True)
class Bars:
    """Fixed by the design before anything was measured."""

    zero_shot: tuple[float, float] = (0.20, 0.65)  # per style
    gain: float = 0.08  # of cls on the held-out style, mean over targets and seeds
    included: float = 0.75  # mean accuracy with the target among the sources
    gap: float = 0.08  # included minus held out
    background: float = 0.10  # a linear classifier on the background, above chance
    pairs: float = 0.95  # an independent pixel classifier, every kind of pair in every style
    perplexity_ratio: float = 2.0  # of the base: the describer's chains over its own


def world(budget: Budget) -> Path:
    """Images of all styles in one folder: per class the first `images_held_out` to train on, the rest to test on."""
    from throughline.drawn.world import write_world

    folder = SCRATCH / "world"
    write_world(folder, per_class=budget.images_held_out + budget.test_images, seed=budget.world_seed)
    return folder


def parts(budget: Budget) -> tuple[Any, dict[str, list[Any]], dict[str, list[Any]]]:
    """The image set, and per style its training and its test samples, classes in turn."""
    from throughline.domains.folders import read_images

    images = read_images(world(budget), name="drawn")
    train: dict[str, list[Any]] = {style: [] for style in DOMAIN_STYLES}
    test: dict[str, list[Any]] = {style: [] for style in DOMAIN_STYLES}
    for sample in images.samples:
        index = int(sample.path.stem)
        (train if index < budget.images_held_out else test)[sample.domain].append(sample)
    return images, train, test


def answers(mllm: Any, images: Any, samples: Sequence[Any]) -> dict[str, float]:
    """Accuracy by label likelihood, and the label path's accuracy and unparsed share."""
    from throughline.chains.formats import FIVE_STAGE
    from throughline.core.settings import AnswerSettings
    from throughline.evaluation.answers import answer_samples
    from throughline.questions.question_set import make_question_set

    questions = make_question_set(images.classes, FIVE_STAGE)
    asked = questions.build(AnswerSettings(answers=("likelihood", "label")))
    found = answer_samples(mllm, samples, asked, batch=50)
    likelihood = [p.correct for p in found if p.answer == "likelihood"]
    label = [p for p in found if p.answer == "label"]
    return {
        "likelihood": float(np.mean(likelihood)),
        "label_path": float(np.mean([p.correct for p in label])),
        "label_path_unparsed": float(np.mean([p.predicted is None for p in label])),
    }


def zero_shot(budget: Budget, checkpoint: str) -> dict[str, dict[str, float]]:
    """Per style, the base as it ships."""
    from throughline.mllm.load import load_mllm

    images, _, test = parts(budget)
    mllm = load_mllm(checkpoint)
    return {style: answers(mllm, images, test[style]) for style in DOMAIN_STYLES}


def cls(job: tuple[Budget, tuple[str, ...], int], checkpoint: str) -> dict[str, dict[str, float]]:
    """`cls` trained on the given styles within the budget, measured on every style; kept on disk once measured."""
    import torch

    from throughline.chains.formats import FIVE_STAGE
    from throughline.core.seeding import seed_of
    from throughline.core.settings import LoraSettings, StageSettings
    from throughline.mllm.checkpoints import fingerprint_checkpoint
    from throughline.mllm.images import ImageReader
    from throughline.mllm.load import load_mllm
    from throughline.mllm.lora import add_lora
    from throughline.questions.question_set import make_question_set
    from throughline.training.methods import LABELS
    from throughline.training.paths import Example, PathRenderer
    from throughline.training.trainer import TreeDataset, train_stage

    budget, styles, seed = job
    images, train, test = parts(budget)
    key = content_hash([asdict(budget), styles, seed, fingerprint_checkpoint(checkpoint), images.fingerprint()])[:16]
    kept = SCRATCH / f"cls-{key}.json"
    if kept.is_file():
        return dict(json.loads(kept.read_text()))
    torch.set_num_threads(1)
    mllm = load_mllm(checkpoint)
    per_class = budget.images_held_out if len(styles) < len(DOMAIN_STYLES) else budget.images_included
    samples = [s for style in styles for s in train[style] if int(s.path.stem) < per_class]
    model = add_lora(mllm.model, LoraSettings(), seed_of(seed, "lora") % 2**32)
    reader, prompts = ImageReader(mllm.chat), make_question_set(images.classes, FIVE_STAGE)

    def tree(index: int) -> Any:
        one = samples[index]
        return LABELS.tree(PathRenderer(mllm.chat, prompts), Example((reader.encode(one),), one.label))

    stage = StageSettings(epochs=budget.epochs, batch=budget.batch, micro_batch=budget.batch, lr=budget.lr)
    train_stage(
        model,
        TreeDataset(len(samples), tree),
        mllm.collate,
        stage,
        seed=seed_of(seed, "stage", 0),
        folder=SCRATCH / f"stage-{key}",
        log_steps=100,
        objective=LABELS,
        on_log=lambda step, steps, loss: print(f"{'+'.join(styles)} seed {seed}: {step}/{steps} {loss:.3f}"),
    )
    found = {style: answers(mllm, images, test[style]) for style in DOMAIN_STYLES}
    write_json(kept, found)
    return found


def background(budget: Budget, _checkpoint: str) -> dict[str, float]:
    """A linear classifier on colour statistics of the pixels outside the object's mask, pooled over styles."""
    from PIL import Image
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from throughline.drawn.scenes import read_scenes
    from throughline.drawn.styles import object_mask

    root = world(budget)
    scenes = read_scenes(root)
    rows: dict[bool, list[Any]] = {True: [], False: []}
    classes: dict[bool, list[str]] = {True: [], False: []}
    for sample_id, scene in scenes.items():
        style, cls_name, name = sample_id.split("/")
        pixels = np.asarray(Image.open(root / sample_id).convert("RGB")) / 255
        outside = pixels[~object_mask(scene, pixels.shape[0], style)]
        quantiles = np.quantile(outside, [0.1, 0.5, 0.9], axis=0)
        in_training = int(name.split(".")[0]) < budget.images_held_out
        rows[in_training].append(np.concatenate([outside.mean(0), outside.std(0), quantiles.ravel()]))
        classes[in_training].append(cls_name)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)).fit(rows[True], classes[True])
    return {"accuracy": float(model.score(rows[False], classes[False])), "chance": 1 / len(CLASSES)}


def pairs(seed: int = 0, per_class: int = 200, epochs: int = 6, tested: int = 100) -> dict[str, Any]:
    """A small convolutional network of its own, trained on images of all four domain styles, tells scenes it has not
    seen from their counterfactuals: of the family's two classes, the true one must be the likelier for each image."""
    import torch
    from torch import nn

    from throughline.drawn.counterfactuals import counterfactual
    from throughline.drawn.scenes import sample_scene
    from throughline.drawn.styles import render

    torch.set_num_threads(1)
    torch.manual_seed(seed)

    def picture(scene: Any, style: str) -> np.ndarray[Any, Any]:
        return np.asarray(render(scene, style)).transpose(2, 0, 1)

    drawn = [
        (picture(sample_scene(8000 + seed, f"pixel {style}", name, i), style), CLASSES.index(name))
        for style, name, i in itertools.product(DOMAIN_STYLES, CLASSES, range(per_class))
    ]
    pixels = torch.from_numpy(np.stack([p for p, _ in drawn])).float() / 127.5 - 1
    labels = torch.tensor([c for _, c in drawn])
    layers: list[nn.Module] = []
    for wide_in, wide in ((3, 32), (32, 64), (64, 96), (96, 128)):
        layers += [nn.Conv2d(wide_in, wide, 3, padding=1), nn.BatchNorm2d(wide), nn.ReLU(), nn.MaxPool2d(2)]
    network = nn.Sequential(*layers, nn.Flatten(), nn.Linear(128 * 4 * 4, len(CLASSES)))
    steps = epochs * (len(labels) // 64)
    optimiser = torch.optim.AdamW(network.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=steps)
    for _ in range(epochs):
        for index in torch.randperm(len(labels)).split(64)[: len(labels) // 64]:
            optimiser.zero_grad()
            nn.functional.cross_entropy(network(pixels[index]), labels[index]).backward()
            optimiser.step()
            schedule.step()
    network.eval()
    accuracy: dict[str, float] = {}
    for family, style in itertools.product(FAMILIES, DOMAIN_STYLES):
        right = []
        for name, i in itertools.product(family.classes, range(tested)):
            scene = sample_scene(9000 + seed, f"pairs {style}", name, i)
            other = counterfactual(scene)
            both = np.stack([picture(scene, style), picture(other, style)])
            with torch.no_grad():
                scores = network(torch.from_numpy(both).float() / 127.5 - 1)
            for row, shown in zip(scores, (scene, other), strict=True):
                right.append(bool(row[CLASSES.index(shown.cls)] > row[CLASSES.index(contrast_of(shown.cls))]))
        accuracy[f"{'/'.join(family.classes)} in {style}"] = float(np.mean(right))
    return {"accuracy": accuracy, "lowest": min(accuracy.values()), "training_images": len(labels), "epochs": epochs}


def perplexity(budget: Budget, checkpoint: str, per_class: int = 4) -> dict[str, float]:
    """The base's perplexity on the describer's chains and on chains it samples itself, on the same domain images."""
    import torch

    from throughline.chains.formats import FIVE_STAGE
    from throughline.core.seeding import generator
    from throughline.core.settings import SamplingSettings
    from throughline.drawn.describer import DescriberSettings, describe
    from throughline.drawn.scenes import read_scenes
    from throughline.mllm.chat import user_turn
    from throughline.mllm.forward import score_trees
    from throughline.mllm.images import ImageReader
    from throughline.mllm.load import load_mllm
    from throughline.mllm.sampling import sample
    from throughline.mllm.tree import Leaf, merge_paths
    from throughline.questions.question_set import make_question_set

    images, _, test = parts(budget)
    scenes = read_scenes(world(budget))
    mllm = load_mllm(checkpoint)
    chat, reader = mllm.chat, ImageReader(mllm.chat)
    question = user_turn(make_question_set(images.classes, FIVE_STAGE).reasoning)
    chosen = [s for rows in test.values() for s in rows if int(s.path.stem) < budget.images_held_out + per_class]
    prompts = [chat.prompt(question, [reader.encode(s)]) for s in chosen]
    sampling = SamplingSettings(temperature=0.7, max_new_tokens=200)
    own = [row[0].text for row in sample(mllm, prompts, sampling, [[generator(0, "own", s.id)] for s in chosen])]
    whole = DescriberSettings(format_faults=0.0)
    theirs = [describe(scenes[s.id], seed=0, sample_id=s.id, settings=whole) for s in chosen]
    nll = {}
    with torch.no_grad():
        for name, texts in (("own", own), ("describer", theirs)):
            trees = [
                merge_paths([Leaf(chat.answered(question, [reader.encode(s)], t), name)], chat.image_token_id)
                for s, t in zip(chosen, texts, strict=True)
            ]
            nll[name] = float(score_trees(mllm.model, mllm.collate([[t] for t in trees])).token_nll.mean())
    return {**{name: math.exp(value) for name, value in nll.items()}, "ratio": math.exp(nll["describer"] - nll["own"])}


def reasoning(budget: Budget, checkpoint: str) -> dict[str, Any]:
    """What `certificate_reasoning` measures, on a part of the test images and on new scenes of the styles that the base
    has seen."""
    from certificate_reasoning import Base, measure
    from pocket import SIGHT
    from throughline.domains.folders import read_images
    from throughline.drawn.scenes import read_scenes
    from throughline.drawn.world import write_world
    from throughline.mllm.load import load_mllm

    images, _, test = parts(budget)
    last = budget.images_held_out + budget.reasoning_images
    samples = tuple(s for rows in test.values() for s in rows if int(s.path.stem) < last)
    seen = SCRATCH / "auxiliary"
    write_world(seen, per_class=budget.reasoning_images, seed=budget.world_seed, styles=SIGHT.styles)
    auxiliary = read_images(seen, name="auxiliary").samples
    scenes, auxiliary_scenes = read_scenes(world(budget)), read_scenes(seen)
    return measure(Base(load_mllm(checkpoint), images, samples, scenes, auxiliary, auxiliary_scenes))


def end_with_parent() -> None:
    """A worker of a killed certificate would go on for minutes and take the cores from whatever comes next."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def main() -> None:
    """Measures everything, compares with the bars, writes the certificate; exit code 1 when a bar is missed."""
    parser = argparse.ArgumentParser(description="certify the laboratory")
    parser.add_argument("--checkpoint", default="pocket", help="the base (default: pocket)")
    parser.add_argument("--out", type=Path, default=ROOT / "evidence" / "certificate.json", help="file to write")
    parser.add_argument("--quick", action="store_true", help="print what needs no training, write nothing")
    arguments = parser.parse_args()
    budget, bars, checkpoint = Budget(), Bars(), arguments.checkpoint
    if checkpoint_folder(checkpoint) is None:
        raise SystemExit(f"certificate: error: no folder {checkpoint}: name one, or leave it out for the pocket")
    world(budget)
    held_out = [
        (budget, tuple(s for s in DOMAIN_STYLES if s != t), seed) for t in DOMAIN_STYLES for seed in budget.seeds
    ]
    included = [(budget, tuple(DOMAIN_STYLES), seed) for seed in budget.seeds]
    with ProcessPoolExecutor(2, mp_context=get_context("spawn"), initializer=end_with_parent) as pool:
        # What is quick to fail comes first, and says so at once.
        measures: tuple[Callable[[Budget, str], Any], ...] = (zero_shot, reasoning, perplexity, background)
        quick = [pool.submit(measure, budget, checkpoint) for measure in measures]
        trained = () if arguments.quick else (*included, *held_out)
        seen = None if arguments.quick else pool.submit(pairs)
        futures = {job: pool.submit(cls, job, checkpoint) for job in trained}
        base, reasoned, chains, colour = (future.result() for future in quick)
        shown = {"zero_shot": base, "reasoning": reasoned, "perplexity": chains, "background": colour}
        shown["checks"] = reasoning_checks(reasoned, ReasoningBars())
        print(json.dumps(shown, indent=1), flush=True)
        if seen is None:
            return
        pixel = seen.result()
        print(json.dumps({"pairs": pixel}), flush=True)
        found = {job: future.result() for job, future in futures.items()}
    per_target: dict[str, dict[str, Any]] = {
        target: {
            "zero_shot": base[target],
            "held_out": [found[job][target] for job in held_out if target not in job[1]],
            "included": [found[job][target] for job in included],
        }
        for target in DOMAIN_STYLES
    }

    def mean(name: str) -> float:
        return float(np.mean([row["likelihood"] for target in per_target.values() for row in target[name]]))

    zero = float(np.mean([base[style]["likelihood"] for style in DOMAIN_STYLES]))
    checks = {
        "zero_shot_per_style": all(bars.zero_shot[0] <= base[s]["likelihood"] <= bars.zero_shot[1] for s in base),
        "cls_gains_held_out": mean("held_out") - zero >= bars.gain,
        "included_is_learnable": mean("included") >= bars.included,
        "gap_to_close": mean("included") - mean("held_out") >= bars.gap,
        "background_tells_nothing": colour["accuracy"] <= colour["chance"] + bars.background,
        "pairs_can_be_seen": pixel["lowest"] >= bars.pairs,
        "wordings_differ": chains["ratio"] >= bars.perplexity_ratio,
        **reasoning_checks(reasoned, ReasoningBars()),
    }
    means = {"zero_shot": zero, "held_out": mean("held_out"), "included": mean("included")}
    write_json(
        arguments.out,
        {
            "what": "drawn world and pocket base; no evidence about real images",
            "budget": asdict(budget),
            "bars": asdict(bars) | asdict(ReasoningBars()),
            "per_target": per_target,
            "means": means,
            "background": colour,
            "pairs": pixel,
            "perplexity": chains,
            "reasoning": reasoned,
            "checks": checks,
            "holds": all(checks.values()),
        },
    )
    print(
        json.dumps({"means": means, "zero_shot": {s: base[s]["likelihood"] for s in base}, "checks": checks}, indent=2)
    )
    if not all(checks.values()):
        raise SystemExit("the certificate does not hold: change the world or the base, not the bars")


if __name__ == "__main__":
    main()
