"""Named shapes with random weights, for benchmarks and whoever needs a model of a known size and no knowledge.

All are InternVL's own classes with its special tokens and chat form, as the pocket checkpoint is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import InternVLConfig, InternVLForConditionalGeneration, PreTrainedTokenizerFast

from throughline.mllm.load import Mllm, wrap_mllm
from throughline.mllm.pocket.geometry import IMAGE_SIZE, make_config, make_processor, train_tokenizer


@dataclass(frozen=True)
class Geometry:
    """A named shape: square images of `image_size` pixels, `vocabulary` rows of the embedding."""

    name: str
    image_size: int
    vocabulary: int
    config: Callable[[PreTrainedTokenizerFast, int], InternVLConfig]


def _pocket(tokenizer: PreTrainedTokenizerFast, vocabulary: int) -> InternVLConfig:
    return make_config(tokenizer, vocab_size=vocabulary)


def _bench_40m(tokenizer: PreTrainedTokenizerFast, vocabulary: int) -> InternVLConfig:
    """About 40 million parameters: ViT 6 x 256 on 448 pixels, 256 image tokens, Qwen2 decoder 12 x 512."""
    text: dict[str, Any] = {
        "model_type": "qwen2",
        "hidden_size": 512,
        "intermediate_size": 1408,
        "num_hidden_layers": 12,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "vocab_size": vocabulary,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {
        "hidden_size": 256,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,  # 64 wide, as the decoder's
        "intermediate_size": 1024,  # four times the width, as ViTs have it
        "image_size": [448, 448],
        "patch_size": [14, 14],
        "use_mean_pooling": False,
    }
    return InternVLConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=tokenizer.context_image_token_id,
        image_seq_length=256,
        tie_word_embeddings=True,
    )


GEOMETRIES: dict[str, Geometry] = {
    geometry.name: geometry
    for geometry in (
        Geometry("pocket", IMAGE_SIZE, 1_400, _pocket),
        Geometry("bench-40m", 448, 8_192, _bench_40m),
        Geometry("bench-40m-151k", 448, 151_674, _bench_40m),
    )
}


def random_mllm(geometry: Geometry, texts: Iterable[str], seed: int = 0) -> Mllm:
    """The geometry with weights drawn from `seed`, frozen and in float32, and a tokenizer trained on `texts`.

    Where the texts do not fill the vocabulary, its last rows are never used; they cost what they cost.
    """
    tokenizer = train_tokenizer(texts, geometry.vocabulary)
    config = geometry.config(tokenizer, geometry.vocabulary)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = InternVLForConditionalGeneration(config)
    model.requires_grad_(False).eval()
    processor = make_processor(tokenizer, geometry.image_size, config.image_seq_length)
    return wrap_mllm(model, processor, geometry.name, f"random weights, seed {seed}")
