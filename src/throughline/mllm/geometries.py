"""Named model shapes: InternVL's own classes, special tokens and chat form in sizes of ours.

The pocket checkpoint is trained in the shape `pocket` (by the repository's `bench/pocket.py`). Benchmarks and tests
draw random weights in these shapes, where a model of a known size will do.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from importlib.resources import files
from typing import Any

import torch
import yaml
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForImageTextToText,
    GotOcr2ImageProcessor,
    InternVLConfig,
    InternVLProcessor,
    InternVLVideoProcessor,
    PreTrainedTokenizerFast,
)

from throughline.mllm.load import DTYPES, Mllm, wrap_mllm

SPECIAL_TOKENS = {
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": "<IMG_CONTEXT>",
    "video_token": "<video>",
}

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<IMG_CONTEXT>\n{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

# How GPT-2's descendants cut text before merging: contractions aside, a word takes its leading blank with it.
WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


@dataclass(frozen=True)
class Geometry:
    """A named shape: square images of `image_size` pixels in patches of `patch_size`, an embedding of `vocabulary`
    rows, which is the LM head too where they are `tied`; `vision` and `decoder` as in transformers' configs."""

    name: str
    image_size: int
    patch_size: int
    vocabulary: int
    vision: Mapping[str, Any]
    decoder: Mapping[str, Any]
    tied: bool = True

    @property
    def image_tokens(self) -> int:
        """Tokens of one image in the decoder's row: pixel shuffle joins 2 x 2 patches."""
        return (self.image_size // self.patch_size) ** 2 // 4

    def config(self, tokenizer: PreTrainedTokenizerFast) -> InternVLConfig:
        """InternVL's configuration with a Qwen2 decoder and the ids of the tokenizer's special tokens."""
        special = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
        sizes = {"vocab_size": self.vocabulary, "tie_word_embeddings": self.tied, **self.decoder}
        return InternVLConfig(
            vision_config={"image_size": [self.image_size] * 2, "patch_size": [self.patch_size] * 2, **self.vision},
            text_config={"model_type": "qwen2", **special, **sizes},
            image_token_id=tokenizer.context_image_token_id,
            image_seq_length=self.image_tokens,
            tie_word_embeddings=self.tied,
        )

    def processor(self, tokenizer: PreTrainedTokenizerFast) -> InternVLProcessor:
        """One square tile an image, normalised as InternVL does (ImageNet statistics)."""
        size = {"height": self.image_size, "width": self.image_size}
        statistics = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
        return InternVLProcessor(
            image_processor=GotOcr2ImageProcessor(size=size, crop_to_patches=False, **statistics),
            tokenizer=tokenizer,
            video_processor=InternVLVideoProcessor(size=size, **statistics),
            image_seq_length=self.image_tokens,
            chat_template=CHAT_TEMPLATE,
        )


GEOMETRIES = {
    name: Geometry(name, **shape)
    for name, shape in yaml.safe_load(files(__package__).joinpath("geometries.yaml").read_text("utf-8")).items()
}
"""By name; `geometries.yaml` has them as data."""


def shallow(geometry: Geometry, layers: int) -> Geometry:
    """The geometry with so many layers in each tower and all its widths: small enough to compare arithmetic on."""
    fewer = {"num_hidden_layers": layers}
    vision, decoder = {**geometry.vision, **fewer}, {**geometry.decoder, **fewer}
    return replace(geometry, name=f"{geometry.name}, {layers} layers", vision=vision, decoder=decoder)


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer: any text can be written, the texts' words are single tokens."""
    tokenizer = Tokenizer(models.BPE())
    words = pre_tokenizers.Split(Regex(WORDS), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [words, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>", *SPECIAL_TOKENS.values()],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=SPECIAL_TOKENS,
        model_max_length=4096,
    )


def random_mllm(
    geometry: Geometry, texts: Iterable[str], seed: int = 0, *, device: str = "cpu", dtype: str = "float32"
) -> Mllm:
    """The geometry with weights drawn from `seed`, frozen, and a tokenizer trained on `texts`.

    Weights are drawn on `device` in `dtype`: eight billion parameters need no copy in the host's memory. Where the
    texts do not fill the vocabulary, its last rows are never used; they cost what they cost.
    """
    tokenizer = train_tokenizer(texts, geometry.vocabulary)
    config = geometry.config(tokenizer)
    forked = [device] if device.startswith("cuda") else []
    with torch.random.fork_rng(devices=forked), torch.device(device):
        torch.manual_seed(seed)
        model = AutoModelForImageTextToText.from_config(config, dtype=DTYPES[dtype], attn_implementation="sdpa")
    model.requires_grad_(False).eval()
    return wrap_mllm(model, geometry.processor(tokenizer), geometry.name, f"random weights, seed {seed}")
