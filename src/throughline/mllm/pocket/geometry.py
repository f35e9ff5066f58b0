"""The pocket checkpoint's shape: InternVL's own classes, InternVL's special tokens, InternVL's chat form, made small.

Used by `make`, which trains it, and by tests and benchmarks that want the shape with random weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GotOcr2ImageProcessor,
    InternVLConfig,
    InternVLProcessor,
    InternVLVideoProcessor,
    PreTrainedTokenizerFast,
)

IMAGE_SIZE = 64  # pixels a side, as the drawn world is
PATCH_SIZE = 8
IMAGE_TOKENS = (IMAGE_SIZE // PATCH_SIZE) ** 2 // 4  # pixel shuffle joins 2 x 2 patches

# The usual 0.02 suits widths near 1,000; at 128 it leaves every layer's share of the residual stream tiny for long.
INITIAL_DEVIATION = 0.07

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


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer: any text can be written, the texts' words are single tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *SPECIAL_TOKENS.values()]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=special,
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


def make_processor(
    tokenizer: PreTrainedTokenizerFast, image_size: int = IMAGE_SIZE, image_tokens: int = IMAGE_TOKENS
) -> InternVLProcessor:
    """The processor around a tokenizer: one square tile, normalised as InternVL does (ImageNet statistics)."""
    size = {"height": image_size, "width": image_size}
    statistics = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
    return InternVLProcessor(
        image_processor=GotOcr2ImageProcessor(size=size, crop_to_patches=False, **statistics),
        tokenizer=tokenizer,
        video_processor=InternVLVideoProcessor(size=size, **statistics),
        image_seq_length=image_tokens,
        chat_template=CHAT_TEMPLATE,
    )


VISION: dict[str, Any] = {
    "hidden_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 512,
    "layer_scale_init_value": 1.0,  # 0.1, the default, learns far too slowly from scratch
    "use_mean_pooling": False,
    "initializer_range": INITIAL_DEVIATION,
}
DECODER: dict[str, Any] = {
    "hidden_size": 160,
    "intermediate_size": 448,
    "num_hidden_layers": 4,
    "num_attention_heads": 5,
    "num_key_value_heads": 5,
    "max_position_embeddings": 4096,
    "initializer_range": INITIAL_DEVIATION,
}


def make_config(tokenizer: PreTrainedTokenizerFast) -> InternVLConfig:
    """About 2.5 million parameters: a ViT 128 wide and a Qwen2 decoder 160 wide, four layers each."""
    return internvl_config(tokenizer, len(tokenizer), VISION, DECODER, IMAGE_SIZE, PATCH_SIZE)


def internvl_config(
    tokenizer: PreTrainedTokenizerFast,
    vocabulary: int,
    vision: Mapping[str, Any],
    decoder: Mapping[str, Any],
    image_size: int,
    patch_size: int,
    tied: bool = True,
) -> InternVLConfig:
    """InternVL's configuration with a Qwen2 decoder for square images of `image_size` pixels and this tokenizer's ids;
    `tied` says that embedding and LM head are one matrix."""
    special = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    return InternVLConfig(
        vision_config={"image_size": [image_size] * 2, "patch_size": [patch_size] * 2, **vision},
        text_config={
            "model_type": "qwen2",
            "vocab_size": vocabulary,
            "tie_word_embeddings": tied,
            **special,
            **decoder,
        },
        image_token_id=tokenizer.context_image_token_id,
        image_seq_length=(image_size // patch_size) ** 2 // 4,  # pixel shuffle joins 2 x 2 patches
        tie_word_embeddings=tied,
    )
