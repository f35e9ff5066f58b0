"""A stage of training, for a process of its own, that kills itself at a moment."""

import os
import signal
from pathlib import Path

from tests.training.small import samples_of, settings, train, weights, with_lora
from torch import Tensor

from throughline.domains.folders import read_images
from throughline.mllm.load import load_mllm
from throughline.training import trainer

NEVER, IN_STEP_FIVE, WHILE_SAVING = range(3)
AFTER_STEP_FOUR = 20
"""Eleven samples in batches of four: the sixth step begins with the 20th, which is fetched just before the fifth."""


def run(checkpoint: Path, images: Path, folder: Path, moment: int) -> dict[str, Tensor]:
    """The weights, unless this process is dead by then."""
    mllm = load_mllm(str(checkpoint))
    model = with_lora(mllm, dropout=0.1)
    uses = iter(range(1, 1000))

    def seen(index: int) -> None:
        if next(uses) == AFTER_STEP_FOUR and moment == IN_STEP_FIVE:
            os.kill(os.getpid(), signal.SIGKILL)

    if moment == WHILE_SAVING:  # the weights of the next checkpoint are written, its mark is not
        trainer.write_atomically = lambda path, content: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[attr-defined]
    stage = settings(epochs=3, batch=4, save_steps=2)
    train(mllm, model, samples_of(read_images(images)), folder, stage, seen=seen)
    return weights(model)
