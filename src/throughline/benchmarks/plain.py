"""Plain transformers, as a user without this package writes it: a rival of `step`, `score`, `sample` and, in the
checkout, `bench/evaluate.py`.

Only a model and its processor are used here: the processor's chat template, tokenizer and batch encoding, the model's
own `forward`, `generate` and key-value cache. What this package has put into the model is out of it meanwhile
(`plainly`). Everything is encoded before the clock starts.
"""

import copy
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache

from throughline.mllm.lora_linear import in_pefts_way
from throughline.mllm.prefix import CACHE

Result = TypeVar("Result")

Inputs = dict[str, Tensor]
"""What the model takes by name: `input_ids` and `attention_mask` `(images, tokens)`, `pixel_values`."""

ROWS_AT_ONCE = 69
"""Labels of the batched cache that go through the model together: 65 at once, 345 in five parts."""


def plainly(model: Any, run: Callable[..., Result]) -> Callable[..., Result]:
    """`run` with the model as transformers and peft have it, with peft's own LoRA layers."""

    @functools.wraps(run)
    def as_it_was(*arguments: Any, **options: Any) -> Result:
        with in_pefts_way(model):
            return run(*arguments, **options)

    return as_it_was


def render(processor: Any, question: str, answer: str | None = None, images: int = 1) -> str:
    """A turn about `images` images in the checkpoint's chat form, up to where the model speaks, or with its answer and
    the end of its turn."""
    content = [*({"type": "image"} for _ in range(images)), {"type": "text", "text": question}]
    messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
    if answer is not None:
        messages.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
    text = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=answer is None)
    return str(text) if answer is None else str(text).rstrip()


def encode(processor: Any, text: str, pictures: Sequence[Image.Image]) -> Inputs:
    """The same text about each picture, a batch padded on the left."""
    encoded = processor(
        text=[text] * max(1, len(pictures)),
        images=list(pictures) or None,
        padding=True,
        padding_side="left",
        crop_to_patches=False,
        return_tensors="pt",
    )
    return {name: encoded[name] for name in ("input_ids", "attention_mask", "pixel_values") if name in encoded}


@dataclass(frozen=True, eq=False)
class LabelQuestion:
    """A question about B images and the C labels that might answer it.

    `prompt` has B rows of P tokens; `wholes` holds for each label B rows of prompt, label and end of the turn; `labels`
    the label's tokens alone, the end of the turn included.
    """

    prompt: Inputs
    wholes: tuple[Tensor, ...]
    labels: tuple[Tensor, ...]

    @property
    def images(self) -> int:
        """B."""
        return len(self.prompt["input_ids"])


def ask_labels(processor: Any, question: str, pictures: Sequence[Image.Image], labels: Sequence[str]) -> LabelQuestion:
    """Tokenises all of it; the pixel values are made once and serve every pass."""
    prompt = encode(processor, render(processor, question), pictures)
    length = prompt["input_ids"].shape[1]
    wholes = []
    for label in labels:
        whole = encode(processor, render(processor, question, label), pictures)["input_ids"]
        assert torch.equal(whole[:, :length], prompt["input_ids"]), "a label's tokens begin where the prompt ends"
        wholes.append(whole)
    return LabelQuestion(prompt, tuple(wholes), tuple(whole[0, length:] for whole in wholes))


@torch.no_grad()
def one_pass_per_label(model: Any, question: LabelQuestion) -> Tensor:
    """`(images, labels)` log-likelihoods: image, question and label through the model for each label anew; logits at
    the label only."""
    before, pixels = question.prompt["input_ids"].shape[1] - 1, question.prompt["pixel_values"]
    columns = []
    for whole, label in zip(question.wholes, question.labels, strict=True):
        kept = torch.arange(before, before + len(label))
        logits = model(input_ids=whole, pixel_values=pixels, use_cache=False, logits_to_keep=kept).logits
        columns.append(_log_likelihood(logits, label.expand(question.images, -1)))
    return torch.stack(columns, dim=1)


@torch.no_grad()
def loop_on_cache(model: Any, question: LabelQuestion) -> Tensor:
    """`(images, labels)` log-likelihoods: the prefix once, then each label on its key-value cache, which is cropped
    back by as many tokens as the label had put there."""
    cache, first = prefilled(model, question.prompt)
    columns = []
    for label in question.labels:
        ids = label.expand(question.images, -1)
        rest = model(input_ids=ids[:, :-1], **{CACHE: cache}, use_cache=True).logits
        columns.append(_log_likelihood(torch.cat([first, rest], dim=1), ids))
        cache.crop(-(len(label) - 1))
    return torch.stack(columns, dim=1)


@torch.no_grad()
def batched_cache(model: Any, question: LabelQuestion, rows: int = ROWS_AT_ONCE) -> Tensor:
    """`(images, labels)` log-likelihoods: the prefix once, its cache copied for every label, the labels padded on the
    right in one pass; in parts of at most `rows` labels, each on a copy of the prefix's cache."""
    prefix, first = prefilled(model, question.prompt)
    parts = []
    for start in range(0, len(question.labels), rows):
        part = question.labels[start : start + rows]
        last = start + rows >= len(question.labels)
        cache = prefix if last else copy.deepcopy(prefix)
        cache.batch_repeat_interleave(len(part))
        ids = pad_sequence(list(part), batch_first=True).repeat(question.images, 1)
        # Causal attention keeps labels from the padding behind them, which is not scored.
        rest = model(input_ids=ids[:, :-1], **{CACHE: cache}, use_cache=True).logits
        logits = torch.cat([first.repeat_interleave(len(part), dim=0), rest], dim=1)
        lengths = torch.tensor([len(label) for label in part] * question.images)
        parts.append(_log_likelihood(logits, ids, lengths).view(question.images, -1))
    return torch.cat(parts, dim=1)


def prefilled(model: Any, prompt: Inputs) -> tuple[DynamicCache, Tensor]:
    """The cache behind image and question, and the logits `(images, 1, vocabulary)` of each next token."""
    cache = DynamicCache(config=model.config)
    ids, pixels = prompt["input_ids"], prompt["pixel_values"]
    out = model(input_ids=ids, pixel_values=pixels, **{CACHE: cache}, use_cache=True, logits_to_keep=1)
    return cache, out.logits


def _log_likelihood(logits: Tensor, ids: Tensor, lengths: Tensor | None = None) -> Tensor:
    """`(rows,)`: the sum over `(rows, tokens)` ids, each predicted by the logits in its own place; of each row the
    first `lengths` tokens."""
    nll = F.cross_entropy(logits.float().flatten(0, 1), ids.flatten(), reduction="none").view(ids.shape)
    if lengths is not None:
        nll = nll.masked_fill(torch.arange(ids.shape[1]) >= lengths[:, None], 0.0)
    return -nll.sum(dim=1)
