"""Named shapes with random weights, for benchmarks and whoever needs a model of a known size and no knowledge.

All are InternVL's own classes with its special tokens and chat form, as the pocket checkpoint is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from transformers import AutoModelForImageTextToText, InternVLConfig, PreTrainedTokenizerFast

from throughline.mllm.load import DTYPES, Mllm, wrap_mllm
from throughline.mllm.pocket.geometry import (
    IMAGE_SIZE,
    internvl_config,
    make_config,
    make_processor,
    train_tokenizer,
)


@dataclass(frozen=True)
class Geometry:
    """A named shape: square images of `image_size` pixels, `vocabulary` rows of the embedding."""

    name: str
    image_size: int
    vocabulary: int
    config: Callable[[PreTrainedTokenizerFast, int], InternVLConfig]


def _bench_40m(tokenizer: PreTrainedTokenizerFast, vocabulary: int) -> InternVLConfig:
    """About 40 million parameters: ViT 6 x 256 on 448 pixels, 256 image tokens, Qwen2 decoder 12 x 512."""
    vision = {
        "hidden_size": 256,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,  # 64 wide, as the decoder's
        "intermediate_size": 1024,  # four times the width, as ViTs have it
        "use_mean_pooling": False,
    }
    decoder = {
        "hidden_size": 512,
        "intermediate_size": 1408,
        "num_hidden_layers": 12,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "vocab_size": vocabulary,
        "max_position_embeddings": 4096,
    }
    return internvl_config(tokenizer, vision, decoder, image_size=448, patch_size=14)


def _internvl3_8b(tokenizer: PreTrainedTokenizerFast, vocabulary: int) -> InternVLConfig:
    """OpenGVLab/InternVL3-8B-hf as its config gives it: InternViT-300M on 448 pixels, Qwen2.5-7B, apart from the ids of
    special tokens, which are this tokenizer's. 7.94 billion parameters."""
    vision = {
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
        "attention_bias": True,
        "layer_scale_init_value": 0.1,
    }
    decoder = {
        "hidden_size": 3584,
        "intermediate_size": 18_944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "vocab_size": vocabulary,
        "max_position_embeddings": 32_768,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e6},
    }
    return internvl_config(tokenizer, vision, decoder, image_size=448, patch_size=14, tied=False)


def shallow(geometry: Geometry, layers: int) -> Geometry:
    """The geometry with so many layers in each tower and all its widths: small enough to compare arithmetic on."""

    def config(tokenizer: PreTrainedTokenizerFast, vocabulary: int) -> InternVLConfig:
        whole = geometry.config(tokenizer, vocabulary).to_dict()
        for tower in ("vision_config", "text_config"):
            whole[tower]["num_hidden_layers"] = layers
            whole[tower].pop("layer_types", None)  # one entry a layer; the config writes its own
        cut: InternVLConfig = InternVLConfig.from_dict(whole)
        return cut

    return Geometry(f"{geometry.name}, {layers} layers", geometry.image_size, geometry.vocabulary, config)


GEOMETRIES: dict[str, Geometry] = {
    geometry.name: geometry
    for geometry in (
        Geometry("pocket", IMAGE_SIZE, 1_400, make_config),
        Geometry("bench-40m", 448, 8_192, _bench_40m),
        Geometry("bench-40m-151k", 448, 151_674, _bench_40m),
        Geometry("internvl3-8b", 448, 151_674, _internvl3_8b),
    )
}


def random_mllm(
    geometry: Geometry, texts: Iterable[str], seed: int = 0, *, device: str = "cpu", dtype: str = "float32"
) -> Mllm:
    """The geometry with weights drawn from `seed`, frozen, and a tokenizer trained on `texts`.

    Weights are drawn on `device` in `dtype`: eight billion parameters need no copy in the host's memory. Where the
    texts do not fill the vocabulary, its last rows are never used; they cost what they cost.
    """
    tokenizer = train_tokenizer(texts, geometry.vocabulary)
    config = geometry.config(tokenizer, geometry.vocabulary)
    forked = [device] if device.startswith("cuda") else []
    with torch.random.fork_rng(devices=forked), torch.device(device):
        torch.manual_seed(seed)
        model = AutoModelForImageTextToText.from_config(config, dtype=DTYPES[dtype], attn_implementation="sdpa")
    model.requires_grad_(False).eval()
    processor = make_processor(tokenizer, geometry.image_size, config.image_seq_length)
    return wrap_mllm(model, processor, geometry.name, f"random weights, seed {seed}")
