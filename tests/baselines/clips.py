"""Tiny random CLIP and SigLIP checkpoints: 32 px images, texts of up to 40 tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
)

SIDE, POSITIONS = 32, 40
TOWER = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


def write_clip(family: str, folder: Path) -> Path:
    """A checkpoint of the family in the folder, which is returned; weights are the same each time."""
    torch.manual_seed(0)
    starts = family == "clip"  # SigLIP's texts end in a token and begin with none
    tokenizer = _tokenizer(starts)
    ids = {"bos_token_id": 1, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    text = {**TOWER, "vocab_size": len(tokenizer), "max_position_embeddings": POSITIONS, **ids}
    vision = {**TOWER, "image_size": SIDE, "patch_size": 16}
    model: Any
    size = {"height": SIDE, "width": SIDE}
    if starts:
        model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=12))
        image_processor: Any = CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size=size)
    else:
        model = SiglipModel(SiglipConfig(text_config=text, vision_config=vision))
        image_processor = SiglipImageProcessor(size=size)
    for weight in model.parameters():  # larger than in training, so that prompts and images differ
        if weight.dim() > 1:
            torch.nn.init.normal_(weight, std=0.3)
    model.logit_scale.data.fill_(3.0)
    for part in (model, tokenizer, image_processor):
        part.save_pretrained(str(folder))
    return folder


def _tokenizer(starts: bool) -> PreTrainedTokenizerFast:
    """One token a byte, as what is tested hangs on no words."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["<pad>", "<start>", "<unused>", "<end>"]  # an end of 2 means something else to CLIP
    vocabulary = {word: number for number, word in enumerate([*special, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>" if starts else "$A <end>",
        special_tokens=[(word, vocabulary[word]) for word in ("<start>", "<end>")],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        **({"bos_token": "<start>"} if starts else {}),
        eos_token="<end>",
        pad_token="<pad>",
        model_max_length=POSITIONS,
        model_input_names=["input_ids", "attention_mask"] if starts else ["input_ids"],
    )
