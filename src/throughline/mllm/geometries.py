"""Named shapes with random weights, for benchmarks and whoever needs a model of a known size and no knowledge.

All are InternVL's own classes with its special tokens and chat form, as the pocket checkpoint is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import AutoModelForImageTextToText, InternVLConfig, PreTrainedTokenizerFast

from throughline.mllm.load import DTYPES, Mllm, wrap_mllm
from throughline.mllm.pocket import geometry as pocket


@dataclass(frozen=True)
class Geometry:
    """A named shape: square images of `image_size` pixels in patches of `patch_size`, `vocabulary` rows of the
    embedding, which is the LM head too where they are `tied`; `vision` and `decoder` as transformers' configs."""

    name: str
    image_size: int
    patch_size: int
    vocabulary: int
    vision: Mapping[str, Any]
    decoder: Mapping[str, Any]
    tied: bool = True

    def config(self, tokenizer: PreTrainedTokenizerFast) -> InternVLConfig:
        """With the ids of a tokenizer's special tokens."""
        return pocket.internvl_config(
            tokenizer, self.vocabulary, self.vision, self.decoder, self.image_size, self.patch_size, self.tied
        )


BENCH_40M = Geometry(
    "bench-40m",  # about 40 million parameters, 256 image tokens
    image_size=448,
    patch_size=14,
    vocabulary=8_192,
    vision={
        "hidden_size": 256,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,  # 64 wide, as the decoder's
        "intermediate_size": 1024,  # four times the width, as ViTs have it
        "use_mean_pooling": False,
    },
    decoder={
        "hidden_size": 512,
        "intermediate_size": 1408,
        "num_hidden_layers": 12,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
    },
)

# OpenGVLab/InternVL3-8B-hf as its config gives it: InternViT-300M on 448 pixels, Qwen2.5-7B; 7.94 billion parameters.
INTERNVL3_8B = Geometry(
    "internvl3-8b",
    image_size=448,
    patch_size=14,
    vocabulary=151_674,
    vision={
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
        "attention_bias": True,
        "layer_scale_init_value": 0.1,
    },
    decoder={
        "hidden_size": 3584,
        "intermediate_size": 18_944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "max_position_embeddings": 32_768,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e6},
    },
    tied=False,
)

GEOMETRIES: dict[str, Geometry] = {
    geometry.name: geometry
    for geometry in (
        Geometry("pocket", pocket.IMAGE_SIZE, pocket.PATCH_SIZE, 1_400, pocket.VISION, pocket.DECODER),
        BENCH_40M,
        replace(BENCH_40M, name="bench-40m-151k", vocabulary=151_674),
        INTERNVL3_8B,
    )
}


def shallow(geometry: Geometry, layers: int) -> Geometry:
    """The geometry with so many layers in each tower and all its widths: small enough to compare arithmetic on."""
    fewer = {"num_hidden_layers": layers}
    vision, decoder = {**geometry.vision, **fewer}, {**geometry.decoder, **fewer}
    return replace(geometry, name=f"{geometry.name}, {layers} layers", vision=vision, decoder=decoder)


def random_mllm(
    geometry: Geometry, texts: Iterable[str], seed: int = 0, *, device: str = "cpu", dtype: str = "float32"
) -> Mllm:
    """The geometry with weights drawn from `seed`, frozen, and a tokenizer trained on `texts`.

    Weights are drawn on `device` in `dtype`: eight billion parameters need no copy in the host's memory. Where the
    texts do not fill the vocabulary, its last rows are never used; they cost what they cost.
    """
    tokenizer = pocket.train_tokenizer(texts, geometry.vocabulary)
    config = geometry.config(tokenizer)
    forked = [device] if device.startswith("cuda") else []
    with torch.random.fork_rng(devices=forked), torch.device(device):
        torch.manual_seed(seed)
        model = AutoModelForImageTextToText.from_config(config, dtype=DTYPES[dtype], attn_implementation="sdpa")
    model.requires_grad_(False).eval()
    processor = pocket.make_processor(tokenizer, geometry.image_size, config.image_seq_length)
    return wrap_mllm(model, processor, geometry.name, f"random weights, seed {seed}")
