"""CLIP-LoRA (arXiv 2405.18541): low-rank changes of queries, keys and values in all layers of both encoders."""

from typing import Any

from peft import LoraConfig, inject_adapter_in_model

from throughline.baselines.settings import ClipLoraSettings


def add_factors(model: Any, settings: ClipLoraSettings) -> None:
    """Changes a CLIP or SigLIP model in place; what is trained from then on is the factors alone. The change is scaled
    by alpha over the root of the rank, as MaxZanella/CLIP-LoRA has it."""
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=["q_proj", "k_proj", "v_proj"],
        use_rslora=True,
    )
    inject_adapter_in_model(config, model)
