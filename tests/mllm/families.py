"""Tiny random checkpoints of further families, beside the three of `tiny` that every test of this room runs on."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from tests.mllm.tiny import (
    _DECODER,
    _VISION,
    CHATML,
    VICUNA,
    _draw_weights,
    _internvl,
    _tokenizer,
    _told_of_ends,
    qwen_vl,
)
from transformers import (
    CLIPVisionConfig,
    GemmaConfig,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3ImageProcessor,
    Idefics3Processor,
    InternVLConfig,
    InternVLForConditionalGeneration,
    LlamaConfig,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessor,
    LlavaNextProcessor,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    MistralConfig,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    PaliGemmaProcessor,
    PixtralImageProcessor,
    PixtralProcessor,
    PixtralVisionConfig,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
    SiglipImageProcessor,
    SiglipVisionConfig,
)

PINPOINTS = [[24, 24], [24, 48], [48, 24], [48, 48]]
INSTRUCT = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[INST]{% for p in m['content'] %}"
    "{% if p['type'] == 'image' %}[IMG]{% else %}{{ p['text'] }}{% endif %}{% endfor %}[/INST]"
    "{% else %}{% for p in m['content'] %}{{ p['text'] }}{% endfor %}{{ eos_token }}{% endif %}{% endfor %}"
)
UTTERANCES = (
    "<|im_start|>{% for m in messages %}{{ m['role'] }}:{% for p in m['content'] %}"
    "{% if p['type'] == 'image' %}<image>{% else %}{{ p['text'] }}{% endif %}{% endfor %}<end_of_utterance>\n"
    "{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
)
PREFIXED = (
    "{% for m in messages %}{% for p in m['content'] %}{% if p['type'] == 'image' %}<image>{% endif %}{% endfor %}"
    "{{ bos_token }}{% for p in m['content'] %}{% if p['type'] == 'text' %}{{ p['text'] }}{% endif %}{% endfor %}"
    "{{ '\n' }}{% endfor %}"
)


def write_family(family: str, folder: Path) -> Path:
    """Model, processor, tokenizer and chat template of one family in `folder`."""
    model, processor = MAKERS[family]()
    _draw_weights(model, seed=0)
    model.save_pretrained(str(folder))
    processor.save_pretrained(str(folder))
    return folder


def internvl(text_config: Any) -> tuple[Any, Any]:
    """InternVL's tower and processor before another decoder."""
    model, processor = _internvl()
    config = model.config.to_dict() | {"text_config": {**text_config.to_dict(), "vocab_size": len(processor.tokenizer)}}
    return _told_of_ends(
        InternVLForConditionalGeneration(InternVLConfig.from_dict(config)), processor.tokenizer
    ), processor


def _internvl35() -> tuple[Any, Any]:
    return internvl(Qwen3Config(head_dim=16, **_DECODER))


def _internvl35_moe() -> tuple[Any, Any]:
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
    return internvl(Qwen3MoeConfig(head_dim=16, **experts, **_DECODER))


def _windowed(tokens: int = 48, full_layers: int = 0) -> tuple[Any, Any]:
    """Every layer, but the first `full_layers`, attends to the last `tokens` only."""
    window = {"use_sliding_window": True, "sliding_window": tokens, "max_window_layers": full_layers}
    return internvl(Qwen2Config(**window, **_DECODER))


def _qwen3() -> tuple[Any, Any]:
    return qwen_vl(
        (Qwen3VLConfig, Qwen3VLForConditionalGeneration, Qwen3VLProcessor, Qwen3VLVideoProcessor),
        vision={"num_position_embeddings": 64, "deepstack_visual_indexes": [0]},
        rope={"mrope_interleaved": True},
        head_dim=16,
    )


def _llava_next() -> tuple[Any, Any]:
    tokenizer = _tokenizer(["<image>"], bos="<s>", eos="</s>", pad="<pad>")
    processor = LlavaNextProcessor(
        LlavaNextImageProcessor(
            size={"shortest_edge": 24}, crop_size={"height": 24, "width": 24}, image_grid_pinpoints=PINPOINTS
        ),
        tokenizer,
        patch_size=6,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=VICUNA,
    )
    config = LlavaNextConfig(
        vision_config=CLIPVisionConfig(image_size=24, patch_size=6, **_VISION).to_dict(),
        text_config=LlamaConfig(vocab_size=len(tokenizer), **_DECODER).to_dict(),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=PINPOINTS,
        image_seq_length=16,
    )
    return _told_of_ends(LlavaNextForConditionalGeneration(config), tokenizer), processor


def _llava_onevision() -> tuple[Any, Any]:
    tokenizer = _tokenizer(["<|im_start|>", "<image>", "<video>"], eos="<|im_end|>", pad="<|endoftext|>")
    size = {"height": 24, "width": 24}
    processor = LlavaOnevisionProcessor(
        LlavaOnevisionImageProcessor(size=size, image_grid_pinpoints=PINPOINTS),
        tokenizer,
        LlavaOnevisionVideoProcessor(size=size),
        num_image_tokens=36,
        vision_feature_select_strategy="full",
        chat_template=CHATML.replace("IMAGE", "<image>\n"),
    )
    config = LlavaOnevisionConfig(
        vision_config=SiglipVisionConfig(image_size=24, patch_size=4, vision_use_head=False, **_VISION).to_dict(),
        text_config=Qwen2Config(vocab_size=len(tokenizer), **_DECODER).to_dict(),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        vision_feature_select_strategy="full",
        image_grid_pinpoints=PINPOINTS,
    )
    return _told_of_ends(LlavaOnevisionForConditionalGeneration(config), tokenizer), processor


def _mistral3() -> tuple[Any, Any]:
    special = ["[INST]", "[/INST]", "[IMG]", "[IMG_BREAK]", "[IMG_END]"]
    tokenizer = _tokenizer(special, bos="<s>", eos="</s>", pad="<pad>")
    processor = PixtralProcessor(
        PixtralImageProcessor(size={"longest_edge": 48}, patch_size={"height": 4, "width": 4}),
        tokenizer,
        patch_size=4,
        spatial_merge_size=2,
        chat_template=INSTRUCT,
    )
    config = Mistral3Config(
        vision_config=PixtralVisionConfig(image_size=64, patch_size=4, head_dim=16, **_VISION).to_dict(),
        text_config=MistralConfig(vocab_size=len(tokenizer), head_dim=16, sliding_window=None, **_DECODER).to_dict(),
        image_token_index=tokenizer.convert_tokens_to_ids("[IMG]"),
        spatial_merge_size=2,
    )
    return _told_of_ends(Mistral3ForConditionalGeneration(config), tokenizer), processor


def _idefics3() -> tuple[Any, Any]:
    special = ["<|im_start|>", "<fake_token_around_image>", "<image>", "<global-img>", "<end_of_utterance>"]
    tokenizer = _tokenizer(special, eos="<end_of_utterance>", pad="<|endoftext|>")
    processor = Idefics3Processor(
        Idefics3ImageProcessor(size={"longest_edge": 48}, max_image_size={"longest_edge": 24}),
        tokenizer,
        image_seq_len=9,
        chat_template=UTTERANCES,
    )
    config = Idefics3Config(
        vision_config={"image_size": 24, "patch_size": 4, **_VISION},
        text_config=LlamaConfig(vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, **_DECODER).to_dict(),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
    )
    return _told_of_ends(Idefics3ForConditionalGeneration(config), tokenizer), processor


def _paligemma() -> tuple[Any, Any]:
    tokenizer = _tokenizer(["<image>"], bos="<bos>", eos="<eos>", pad="<pad>", image_token="<image>")
    images = SiglipImageProcessor(size={"height": 24, "width": 24})
    images.image_seq_length = 36
    processor = PaliGemmaProcessor(images, tokenizer, chat_template=PREFIXED)
    config = PaliGemmaConfig(
        vision_config=SiglipVisionConfig(
            image_size=24, patch_size=4, vision_use_head=False, projection_dim=32, **_VISION
        ).to_dict(),
        text_config=GemmaConfig(vocab_size=len(tokenizer), head_dim=16, **_DECODER).to_dict(),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        projection_dim=32,
        hidden_size=32,
    )
    return _told_of_ends(PaliGemmaForConditionalGeneration(config), tokenizer), processor


MAKERS: dict[str, Callable[[], tuple[Any, Any]]] = {
    "internvl35": _internvl35,
    "qwen3": _qwen3,
    "llava_next": _llava_next,
    "llava_onevision": _llava_onevision,
    "mistral3": _mistral3,
    "idefics3": _idefics3,
    "internvl35_moe": _internvl35_moe,
    "windowed": _windowed,
    "widely_windowed": partial(_windowed, 4096, full_layers=1),
    "paligemma": _paligemma,
}
