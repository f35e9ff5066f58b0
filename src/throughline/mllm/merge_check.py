"""Checks that a merged checkpoint computes what base and adapter compute together: it is loaded anew and asked.

Compared are the log-probabilities of every token of all class names and of one chain, for a few images: the written
folder against base and adapter apart, in three products a layer. Some servers ignore an adapter that does not fit. So
that this cannot pass for equal, the adapter has to change the base's outputs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from throughline.chains.formats import Chain, ChainFormat, render_chain
from throughline.core.errors import ThroughlineError
from throughline.mllm.chat import user_turn
from throughline.mllm.forward import score_trees
from throughline.mllm.load import Mllm, load_mllm
from throughline.mllm.merging import Merged, adapted_layers
from throughline.mllm.switches import switched
from throughline.mllm.tree import Leaf, merge_paths

EXACT = 1e-4
"""Nats, or a share of values over one nat: fp32 sums in another order differ by less."""
ROUNDED, ROUNDED_MOST = 0.3, 0.5
"""Half precision moves every output a little, by how much depends on the model. The first bound is a share of what the
adapter changes: beyond it, what was learnt would be lost. The second, in nats, is what two roundings of bfloat16 logits
can differ by."""
PROBED = 4
_WIDTH, _HEIGHT = 120, 40
"""Pixels of drawn images: wide, so that a processor that cuts tiles against its settings is noticed."""


@dataclass(frozen=True)
class Probe:
    """What both are asked: every pair of question and answer, about every image."""

    images: tuple[Image.Image, ...]
    answers: tuple[tuple[str, str], ...]


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
    label_question, reasoning_question = questions
    sentence = "What the picture shows stands here, with a handle and two wheels ({})."
    stages = [sentence.format(number) for number in range(len(format.stages))]
    stages[format.answer_index] = labels[0]
    chain = render_chain(Chain(format, tuple(stages)))
    answers = (*((label_question, label) for label in labels), (reasoning_question, chain))
    return Probe(tuple(images[:PROBED]) or tuple(_noise(seed) for seed in range(PROBED)), answers)


def check_merged(mllm: Mllm, folder: Path, merged: Merged, probe: Probe) -> MergeCheck:
    """Opens `folder` in the type and on the device of `mllm`, the base with its adapter, and compares.

    Raises ThroughlineError when the outputs differ by more than the tolerance, when the adapter does not change the
    base's, and when a server would show the model other tokens or pixels than we do.
    """
    adapter = _token_nll(mllm, probe)
    # the flag behind peft's own switch, which would also reset what is trained
    with switched(adapted_layers(mllm.model).values(), "_disable_adapters", True):
        base = _token_nll(mllm, probe)
    dtype = str(mllm.model.dtype).removeprefix("torch.")
    written = load_mllm(str(folder), tiles=mllm.chat.tiles, dtype=dtype, device=str(mllm.device))
    change = _largest_difference(base, adapter)
    if not change > EXACT:  # NaN as well
        raise ThroughlineError(
            f"the adapter does not change the base's likelihoods (by {change:.1e} nats)", mllm.name, "is it trained?"
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
            f"the merged checkpoint differs from the adapter: {check.difference:.1e} nats apart, "
            f"tolerance {check.tolerance:.1e}",
            mllm.name,
            None if exact else "float32 would not be rounded: load and write it so",
        )
    _require_same_input(written, probe)
    return check


@torch.no_grad()
def _token_nll(mllm: Mllm, probe: Probe) -> Tensor:
    """`(scored tokens,)` of all images, fp32 on the CPU, with adapters as they are in training."""
    chat, rows = mllm.chat, []
    for number, image in enumerate(probe.images):
        encoded = [chat.encode_image(image, str(number))]
        paths = [(chat.answered(user_turn(question), encoded, answer), answer) for question, answer in probe.answers]
        rows.append([merge_paths([Leaf(path, answer, 0.0) for path, answer in paths], chat.image_token_id)])
    with mllm.evaluating(fold=False):
        return score_trees(mllm.model, mllm.collate(rows).to(mllm.device)).token_nll.float().cpu()


def _largest_difference(first: Tensor, second: Tensor) -> float:
    return float(((first - second).abs() / second.abs().clamp(min=1.0)).max())


def _require_same_input(written: Mllm, probe: Probe) -> None:
    """A server renders with the processor as it was saved, without the options that we pass at every call."""
    image, question = probe.images[0], probe.answers[-1][0]
    parts = [{"type": "image", "image": image}, {"type": "text", "text": question}]
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


def _noise(seed: int) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (2, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((_WIDTH, _HEIGHT), Image.Resampling.NEAREST)
