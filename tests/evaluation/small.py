"""A final model small enough for tests: two domains of three classes, a tiny checkpoint, chains written by hand.

Also for `tests/experiment/test_fitting.py`.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from tests.mllm.tiny import image_of, write_checkpoint

from throughline.chains.formats import FIVE_STAGE, Chain, render_chain
from throughline.chains.journal import JournalWriter
from throughline.chains.records import Candidate, classes_sha256, make_header, prompt_sha256
from throughline.domains.folders import read_images
from throughline.experiment.engine.worker import Job, run_unit
from throughline.questions.question_set import make_question_set
from throughline.runs.unit import Unit

DOMAINS = ("photo", "sketch")
CLASSES = ("boat", "cat", "dog")
PER_CLASS = 2


def write_images(
    root: Path, domains: Sequence[str] = DOMAINS, classes: Sequence[str] = CLASSES, first_seed: int = 0
) -> Path:
    """`root/<domain>/<class>/<n>.png`, every picture another one."""
    seed = first_seed
    for domain in domains:
        for label in classes:
            folder = root / domain / label
            folder.mkdir(parents=True)
            for number in range(PER_CLASS):
                image_of(seed, 64, 64).save(folder / f"{number}.png")
                seed += 1
    return root


def write_chains(world: Path, journal: Path) -> Path:
    """A journal with a chain for every image that concludes in its class."""
    images = read_images(world)
    prompts = make_question_set(images.classes, FIVE_STAGE)
    with JournalWriter(journal) as writer:
        writer.write(make_header(images.classes, FIVE_STAGE, prompts.texts))
        for sample in images.samples:
            label = sample.label
            texts = ("A picture.", "It has a handle.", f"So a {label}.", f"A {label} it is.", label)
            writer.write(
                Candidate(
                    key=sample.id,
                    sample_id=sample.id,
                    image_sha256=sample.image_sha256,
                    domain=sample.domain,
                    classes_sha256=classes_sha256(images.classes),
                    format=FIVE_STAGE.name,
                    source="test",
                    model="by hand",
                    prompt_sha256=prompt_sha256(prompts.reasoning),
                    text=render_chain(Chain(FIVE_STAGE, texts)),
                    finish_reason="stop",
                )
            )
    return journal


def write_preset(folder: Path) -> Path:
    """`small.yaml`, and beside it the checkpoint `tiny-base` that it names. Every step is a checkpoint."""
    checkpoint = write_checkpoint("internvl", folder / "tiny-base")
    values = {
        "model": {"checkpoint": str(checkpoint)},
        "training": {
            "rounds": 2,
            "rejected": "keep_last",
            "self_labelling": {"temperature": 0.7, "max_new_tokens": 6},
            "stage": {"epochs": 1, "batch": 4, "micro_batch": 4, "lr": 5e-3, "save_steps": 1},
        },
        "evaluation": {"answering": {"batch": 4, "label_tokens": 4, "chain_tokens": 8}},
    }
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def in_this_process(
    units: Sequence[Unit], job: Job, *, done: set[str], finished: Callable[[Unit], None], **_: Any
) -> None:
    """Stands in for `run_units`: no worker has to import torch. What a worker sets in torch is set back."""
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    try:
        for unit in units:
            if unit.name not in done:
                run_unit(unit, job, lambda line: None)
                finished(unit)
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic)
