"""Tiny random checkpoints of three families, saved as a hub download would lie on disk.

Weights are drawn large enough that attention, positions and images move every logit: with the usual initialisation a
wrong mask would hide below the tolerance.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    GotOcr2ImageProcessor,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    InternVLVideoProcessor,
    InternVLVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2Config,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

FAMILIES = ("internvl", "qwen", "llava")

WORDS = (
    "cat cat tower caterpillar dog dog house house boat horse clock coin cup bowl raft alarm bell chair kettle lamp "
    "What is shown? Choose from: Answer with one word. Think step by step. The picture has a handle, no sail, and two "
    "wheels; it stands on grass. <CONCLUSION> </CONCLUSION> user assistant\n\n\ncat"
)

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}IMAGE{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
VICUNA = (
    "{% for message in messages %}{% if message['role'] == 'user' %}USER: {% else %}ASSISTANT: {% endif %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>\n{% endif %}{% endfor %}"
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }} {% endif %}{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


def image_of(seed: int, width: int = 40, height: int = 32) -> Image.Image:
    """A picture that differs from every other in large patches (a resize must not wash it out)."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.NEAREST)


def write_checkpoint(family: str, folder: Path) -> Path:
    """Model, processor, tokenizer and chat template of one family in `folder`."""
    model, processor = {"internvl": _internvl, "qwen": _qwen, "llava": _llava}[family]()
    _draw_weights(model, seed=FAMILIES.index(family))
    model.save_pretrained(str(folder))
    processor.save_pretrained(str(folder))
    return folder


def write_text_checkpoint(folder: Path) -> Path:
    """A language model without eyes: a whole checkpoint of the wrong kind."""
    from transformers import Qwen2ForCausalLM

    Qwen2ForCausalLM(Qwen2Config(vocab_size=64, **_DECODER)).save_pretrained(str(folder))
    return folder


_DECODER: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 1024,
}
_VISION: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}


def _tokenizer(special: list[str], *, bos: str | None = None, eos: str, pad: str, **named: str) -> Any:
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    every = [pad, eos, *([bos] if bos else []), *special]
    trainer = trainers.BpeTrainer(
        vocab_size=256 + len(every) + 90,
        special_tokens=every,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator([WORDS] * 4, trainer)
    if bos:  # as Llama's tokenizer: the text itself does not show the token that opens every sequence
        core.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, core.token_to_id(bos))]
        )
    unnamed = [token for token in special if token not in named.values()]
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=bos,
        eos_token=eos,
        pad_token=pad,
        extra_special_tokens=unnamed,
        model_specific_special_tokens=named,
    )


def _internvl() -> tuple[Any, Any]:
    tokenizer = _tokenizer(
        ["<|im_start|>", "<img>", "</img>", "<IMG_CONTEXT>", "<video>"],
        eos="<|im_end|>",
        pad="<|endoftext|>",
        start_image_token="<img>",
        end_image_token="</img>",
        context_image_token="<IMG_CONTEXT>",
        video_token="<video>",
    )
    processor = InternVLProcessor(
        GotOcr2ImageProcessor(size={"height": 24, "width": 24}),
        tokenizer,
        InternVLVideoProcessor(size={"height": 24, "width": 24}),
        image_seq_length=9,
        chat_template=CHATML.replace("IMAGE", "<IMG_CONTEXT>\n"),
    )
    config = InternVLConfig(
        vision_config=InternVLVisionConfig(image_size=24, patch_size=4, **_VISION).to_dict(),
        text_config=Qwen2Config(vocab_size=len(tokenizer), **_DECODER).to_dict(),
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=9,
        tie_word_embeddings=False,
    )
    return _told_of_ends(InternVLForConditionalGeneration(config), tokenizer), processor


def _qwen() -> tuple[Any, Any]:
    return qwen_vl(
        (Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor, Qwen2VLVideoProcessor),
        vision={"window_size": 16, "fullatt_block_indexes": [1]},
    )


def qwen_vl(
    classes: tuple[Any, Any, Any, Any], vision: dict[str, Any], rope: dict[str, Any] | None = None, **decoder: Any
) -> tuple[Any, Any]:
    """A Qwen-VL of these classes (config, model, processor, video processor), with what its generation adds to vision
    config, rotary positions and decoder."""
    config_class, model_class, processor_class, video_class = classes
    tokenizer = _tokenizer(
        ["<|im_start|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"],
        eos="<|im_end|>",
        pad="<|endoftext|>",
    )
    sizes = {"patch_size": 4, "merge_size": 2, "size": {"shortest_edge": 64, "longest_edge": 4096}}
    processor = processor_class(
        Qwen2VLImageProcessor(**sizes),
        tokenizer,
        video_class(**sizes),
        chat_template=CHATML.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>"),
    )
    token = tokenizer.convert_tokens_to_ids
    config = config_class(
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_heads": 2,
            "patch_size": 4,
            "out_hidden_size": 32,
            **vision,
        },
        text_config={
            "vocab_size": len(tokenizer),
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [2, 3, 3],
                **(rope or {}),
            },
            "bos_token_id": None,
            "eos_token_id": tokenizer.eos_token_id,
            **_DECODER,
            **decoder,
        },
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
    )
    return _told_of_ends(model_class(config), tokenizer), processor


def _llava() -> tuple[Any, Any]:
    tokenizer = _tokenizer(["<image>"], bos="<s>", eos="</s>", pad="<pad>")
    processor = LlavaProcessor(
        CLIPImageProcessor(size={"shortest_edge": 24}, crop_size={"height": 24, "width": 24}),
        tokenizer,
        patch_size=6,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=VICUNA,
    )
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(image_size=24, patch_size=6, **_VISION).to_dict(),
        text_config=LlamaConfig(vocab_size=len(tokenizer), **_DECODER).to_dict(),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=16,
    )
    return _told_of_ends(LlavaForConditionalGeneration(config), tokenizer), processor


def _told_of_ends(model: Any, tokenizer: Any) -> Any:
    model.generation_config.bos_token_id = tokenizer.bos_token_id
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model


@torch.no_grad()
def _draw_weights(model: torch.nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        drawn = torch.randn(weight.shape, generator=generator)
        if "embed" in name or "lambda" in name:
            weight.copy_(drawn * 0.7)
        elif weight.ndim > 1:
            weight.copy_(drawn * 1.5 / weight[0].numel() ** 0.5)
        elif "norm" in name and name.endswith("weight"):
            weight.copy_(1 + 0.2 * drawn)
        else:
            weight.copy_(0.2 * drawn)
