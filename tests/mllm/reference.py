"""Every path alone through the plain transformers model, in its own processor call: what the tree must equal.

Uses nothing of the room under test but the loaded model and processor: rendering, image preprocessing, positions and
cross-entropy are transformers' and torch's own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from tests.mllm.tiny import image_of
from torch import Tensor

from throughline.mllm.chat import Message
from throughline.mllm.load import Mllm
from throughline.mllm.tree import Leaf, Reduce, Tree, merge_paths

ENDS = {
    "internvl": "<|im_end|>",
    "internvl35": "<|im_end|>",
    "qwen": "<|im_end|>",
    "qwen3": "<|im_end|>",
    "llava": "</s>",
    "llava_next": "</s>",
    "llava_onevision": "<|im_end|>",
    "mistral3": "</s>",
    "idefics3": "<end_of_utterance>",
    "smol": "<|im_end|>",
}
"""What closes an answer: the template's own mark, or (LLaVA's writes none) the end-of-sequence token."""


@dataclass(frozen=True)
class Spoken:
    """One path as a user would write it down: messages, `(seed, width, height)` of its images, the answer."""

    messages: Sequence[Message]
    pictures: Sequence[tuple[int, int, int]]
    answer: str
    weight: float = 1.0
    reduce: Reduce = "mean"


def picture(seed: int, width: int = 40, height: int = 32) -> tuple[int, int, int]:
    return seed, width, height


def tree_of(mllm: Mllm, paths: Sequence[Spoken]) -> Tree:
    """The tree under test; images are named by what was drawn."""
    leaves = []
    for index, spoken in enumerate(paths):
        images = [mllm.chat.encode_image(image_of(*drawn), str(drawn)) for drawn in spoken.pictures]
        path = mllm.chat.answered(spoken.messages, images, spoken.answer)
        leaves.append(Leaf(path, f"branch {index}", spoken.weight, spoken.reduce))
    return merge_paths(leaves, mllm.chat.image_token_id)


def processed(processor: Any, family: str, spoken: Spoken, answered: bool, tiles: int = 1) -> dict[str, Tensor]:
    """The processor's own output for the rendered conversation, with or without the answer."""
    if answered:
        answer = {"role": "assistant", "content": [{"type": "text", "text": spoken.answer}]}
        text = processor.apply_chat_template([*spoken.messages, answer], tokenize=False).rstrip()
        text = text if text.endswith(ENDS[family]) else text + ENDS[family]
    else:
        text = processor.apply_chat_template(list(spoken.messages), tokenize=False, add_generation_prompt=True)
    options = {"crop_to_patches": tiles > 1, "max_patches": tiles} if family.startswith("internvl") else {}
    text = text.removeprefix(processor.tokenizer.bos_token or "")  # the tokenizer writes it again
    images = [image_of(*drawn) for drawn in spoken.pictures] or None
    return dict(processor(images=images, text=text, return_tensors="pt", **options))


def nll_alone(model: Any, processor: Any, family: str, spoken: Spoken, tiles: int = 1) -> Tensor:
    """`(answer tokens,)` by torch's cross-entropy on the full logits."""
    whole = processed(processor, family, spoken, True, tiles)
    prompt = processed(processor, family, spoken, False, tiles)["input_ids"]
    ids, start = whole["input_ids"], prompt.shape[1]
    assert torch.equal(ids[:, :start], prompt), "the test's answers must not merge with the prompt"
    logits = model(**whole, use_cache=False).logits.float()
    return F.cross_entropy(logits[0, start - 1 : -1], ids[0, start:], reduction="none")


def loss_alone(nlls: Sequence[Tensor], paths: Sequence[Spoken]) -> Tensor:
    """Sum of weight x reduce(NLL), written out."""
    return torch.stack(
        [p.weight * (nll.mean() if p.reduce == "mean" else nll.sum()) for nll, p in zip(nlls, paths, strict=True)]
    ).sum()


def gradients(model: torch.nn.Module, loss: Tensor) -> dict[str, Tensor]:
    """Gradients by parameter name; the model's own are left empty."""
    model.zero_grad()
    loss.backward()
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def assert_same_gradients(ours: dict[str, Tensor], theirs: dict[str, Tensor], tolerance: float = 1e-4) -> None:
    """Relative error of every parameter's gradient. A gradient that is zero in exact arithmetic (a key's bias) is
    rounding noise on both sides, hence the floor: a thousandth of the largest gradient."""
    nonzero = {n for n, g in theirs.items() if g.any()}
    assert nonzero == {n for n, g in ours.items() if g.any()}
    assert len(nonzero) > 10
    floor = 1e-3 * max(float(theirs[n].norm()) for n in nonzero)
    errors = {n: float((ours[n] - theirs[n]).norm()) / max(float(theirs[n].norm()), floor) for n in nonzero}
    worst = max(errors, key=errors.__getitem__)
    assert errors[worst] < tolerance, f"{worst}: {errors[worst]:.2e}"
