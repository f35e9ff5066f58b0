"""The features of a frozen encoder: computed once for all methods, targets and seeds of a run."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from throughline.baselines.images import Read
from throughline.core.errors import ThroughlineError
from throughline.core.files import content_hash, write_atomically
from throughline.core.locks import take_lock
from throughline.domains.samples import Sample


def frozen_reader(
    samples: Sequence[Sample],
    asked: Sequence[Sample],
    folder: Path,
    batch: int,
    on_progress: Callable[[str], None],
    about: Any,
    encoder: nn.Module,
    read: Read,
) -> Read:
    """Gives the features `(width,)` of the samples, and of what is asked about, in the place of images.
    `read` reads an image for the encoder, which is known by `about`. Files in `folder` keep the features; a process
    waits for another one that is computing the same."""
    features: dict[str, Tensor] = {}
    folder.mkdir(parents=True, exist_ok=True)
    for images in (samples, asked):
        by_hash = {sample.image_sha256: sample for sample in images if sample.image_sha256 not in features}
        path = folder / f"features-{content_hash([about, batch, sorted(by_hash)])[:16]}.safetensors"
        with path.with_suffix(".lock").open("a") as lock:
            while not take_lock(lock.fileno()):
                time.sleep(0.1)
            if by_hash and not path.is_file():
                write_atomically(path, save(_computed(by_hash, encoder, read, batch, on_progress)))
        features |= load_file(path) if by_hash else {}

    def read_features(sample: Sample) -> Tensor:
        known = features.get(sample.image_sha256)
        return known if known is not None else encoder(read(sample)[None])[0]  # `read` says what is wrong with it

    return read_features


@torch.inference_mode()
def _computed(
    samples: dict[str, Sample], encoder: nn.Module, read: Read, batch: int, on_progress: Callable[[str], None]
) -> dict[str, Tensor]:
    encoder.eval()
    device, names, features = next(encoder.parameters()).device, sorted(samples), dict[str, Tensor]()
    for at in range(0, len(names), batch):
        images = {}
        for name in names[at : at + batch]:
            try:
                images[name] = read(samples[name])
            except ThroughlineError:
                continue  # whoever needs this image will say so
        if images:
            rows = encoder(torch.stack(list(images.values())).to(device)).cpu()
            features |= {name: row.clone() for name, row in zip(images, rows, strict=True)}
        on_progress(f"features: {min(at + batch, len(names))}/{len(names)} images")
    return features
