"""The proof that a merged checkpoint says what base and adapter say together: it is opened anew and asked.

Compared are the log-probabilities of every token of all class names and of one chain, for a few images: the written
folder against base and adapter apart, in three products a layer. An adapter that changes nothing would pass by being
ignored, which is what some servers do with one that does not fit; so it has to change something.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from throughline.chains.formats import Chain, ChainFormat, render_chain
from throughline.core.errors import ThroughlineError
from throughline.mllm.chat import EncodedImage, user_turn
from throughline.mllm.forward import score_trees
from throughline.mllm.load import Mllm, load_mllm
from throughline.mllm.merging import Merged, adapted_layers
from throughline.mllm.tree import Leaf, Tree, merge_paths

EXACT = 1e-4
"""Nats, and of values over one nat their share: fp32 sums in another order differ by less."""
ROUNDED, ROUNDED_MOST = 0.3, 0.5
"""Half precision moves every output a little, by how much depends on the model. The measure is what the adapter
changes: a larger share of it lost, and what was learnt would be lost, too. And in nats no more than two roundings of
bfloat16 logits can make."""
PROBED = 4
_WIDTH, _HEIGHT = 120, 40
"""Wide, so that a processor that cuts tiles where it was not to shows it."""


@dataclass(frozen=True)
class Probe:
    """What both are asked: images, and questions about each of them with an answer to score."""

    images: tuple[Image.Image, ...]
    answers: tuple[tuple[str, str], ...]
    """Question and answer."""


@dataclass(frozen=True)
class MergeCheck:
    """How far the written checkpoint is from the adapter, in nats (a share beyond one nat), largest over `values`."""

    images: int
    values: int
    difference: float
    tolerance: float
    adapter_change: float
    """How far the adapter is from the base, in the same measure."""


def make_probe(
    images: Sequence[Image.Image], questions: tuple[str, str], labels: Sequence[str], format: ChainFormat
) -> Probe:
    """A probe with the first few images, or with drawn noise where there are none. Of the two questions, the first is
    answered by every label, the second by a chain in the format."""
    asked, reasoned = questions
    texts = [f"What the picture shows stands here, with a handle and two wheels ({number})." for number in range(9)]
    stages = [*texts[: len(format.stages)]]
    stages[format.answer_index] = labels[0]
    shown = tuple(images[:PROBED]) or tuple(_noise(number) for number in range(PROBED))
    chain = render_chain(Chain(format, tuple(stages)))
    return Probe(shown, (*((asked, label) for label in labels), (reasoned, chain)))


def check_merged(mllm: Mllm, folder: Path, merged: Merged, probe: Probe) -> MergeCheck:
    """Opens `folder` in the type and on the device of `mllm`, the base with its adapter, and compares.

    Raises ThroughlineError when the outputs differ by more than the tolerance, when the adapter does not change the
    base's, and when a server would show the model other tokens or pixels than we do.
    """
    adapter = _token_nll(mllm, probe)
    with _without_adapter(mllm.model):
        base = _token_nll(mllm, probe)
    dtype = str(mllm.model.dtype).removeprefix("torch.")
    written = load_mllm(str(folder), tiles=mllm.chat.tiles, dtype=dtype, device=str(mllm.device))
    change = _largest_difference(base, adapter)
    if not change > EXACT:  # NaN as well
        raise ThroughlineError(
            f"the adapter does not change what the base says (by {change:.1e} nats)", mllm.name, "is it trained?"
        )
    exact = dtype == merged.dtype == "float32"
    check = MergeCheck(
        images=len(probe.images),
        values=len(adapter),
        difference=_largest_difference(_token_nll(written, probe), adapter),
        tolerance=EXACT if exact else min(ROUNDED * change, ROUNDED_MOST),
        adapter_change=change,
    )
    if not check.difference <= check.tolerance:
        raise ThroughlineError(
            f"the merged checkpoint says something else than the adapter: {check.difference:.1e} nats apart, "
            f"tolerance {check.tolerance:.1e}",
            mllm.name,
            None if exact else "float32 would not be rounded: load and write it so",
        )
    _require_same_input(written, probe)
    return check


@torch.no_grad()
def _token_nll(mllm: Mllm, probe: Probe) -> Tensor:
    """`(scored tokens,)` of all images, fp32 on the CPU. Adapters are not folded in, as `Mllm.asked` would."""
    images = [mllm.chat.encode_image(image, str(number)) for number, image in enumerate(probe.images)]
    batch = mllm.collate([[_probe_tree(mllm, probe, image)] for image in images]).to(mllm.device)
    training = mllm.model.training
    mllm.model.eval()
    try:
        return score_trees(mllm.model, batch).token_nll.float().cpu()
    finally:
        mllm.model.train(training)


def _probe_tree(mllm: Mllm, probe: Probe, image: EncodedImage) -> Tree:
    chat = mllm.chat
    leaves = [
        Leaf(chat.answered(user_turn(question), [image], answer), answer, 0.0) for question, answer in probe.answers
    ]
    return merge_paths(leaves, chat.image_token_id)


@contextlib.contextmanager
def _without_adapter(model: Any) -> Iterator[None]:
    """The plain base inside. By the flag that peft's own switch sets: the switch also says anew what is trained."""
    layers = [layer for layer in adapted_layers(model).values() if not layer.disable_adapters]
    for layer in layers:
        layer._disable_adapters = True
    try:
        yield
    finally:
        for layer in layers:
            layer._disable_adapters = False


def _largest_difference(first: Tensor, second: Tensor) -> float:
    return float(((first - second).abs() / second.abs().clamp(min=1.0)).max())


def _require_same_input(written: Mllm, probe: Probe) -> None:
    """A server renders with the processor as it was saved, and with nothing that we tell it at every call."""
    image, question = probe.images[0], probe.answers[-1][0]
    parts: list[dict[str, Any]] = [{"type": "image", "image": image}, {"type": "text", "text": question}]
    rendered = written.chat.processor.apply_chat_template(
        [{"role": "user", "content": parts}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    encoded = written.chat.encode_image(image, "probe")
    ours = written.chat.prompt(user_turn(question), [encoded])
    same = rendered["input_ids"][0].tolist() == ours.tokens.tolist()
    if not same or not all(torch.equal(rendered[name], value) for name, value in encoded.inputs.items()):
        raise ThroughlineError(
            "a server would show this model other tokens or pixels than it was trained on",
            written.name,
            "its processor's own settings and chat template differ from how it is asked here",
        )


def _noise(number: int) -> Image.Image:
    coarse = np.random.default_rng(number).integers(0, 256, (2, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((_WIDTH, _HEIGHT), Image.Resampling.NEAREST)
