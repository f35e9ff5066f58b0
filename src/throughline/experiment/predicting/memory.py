"""The peak of memory that a unit needs, term by term. Estimates of ours, in bytes.

    weights      every parameter in the config's type; 4-bit: half a byte for each weight of the decoder's linear
                 layers, and for each block of 64 a scale of 8 bits and its own share of another (`NF4_BYTES`)
    adapter      parameters, gradients and AdamW's two moments, each in float32
    activations  of a micro-batch, `sizes.kept_bytes` for each token and layer; with gradient checkpointing each layer's
                 input, and one layer whole; and the mask
    logits       of the micro-batch's marked positions, at most LOGITS_AT_ONCE: as computed, and in float32
    cache        of a batch being answered or sampled, at its longest; its logits in float32 and twice in float64
    allowance    CUDA's context, or Python with torch; fragments

The peak is weights, adapter and allowance with the larger of what training and asking hold besides.
"""

from __future__ import annotations

from dataclasses import dataclass

from throughline.experiment.config import RunConfig
from throughline.experiment.predicting.tokens import Paths
from throughline.experiment.predicting.work import VALUE_BYTES, adapter_ranks, tree_tokens
from throughline.mllm.shapes import CheckpointShape
from throughline.mllm.sizes import (
    LOGITS_AT_ONCE,
    adapter_parameters,
    cache_bytes,
    kept_bytes,
    linear_parameters,
    parameters,
)
from throughline.training.methods import Method

ADAPTER_BYTES = 16
NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)  # bitsandbytes' double quantisation: 256 blocks share a float32
ALLOWANCE = 10**9


@dataclass(frozen=True)
class Memory:
    """Bytes, by what they hold."""

    weights: int
    adapter: int
    activations: int
    logits: int
    cache: int
    allowance: int = ALLOWANCE

    @property
    def total(self) -> int:
        """At the peak: training and asking come one after the other."""
        return self.weights + self.adapter + max(self.activations + self.logits, self.cache) + self.allowance


def peak_memory(method: Method, config: RunConfig, model: CheckpointShape, paths: Paths) -> Memory:
    """Of one unit in one process."""
    shape, value = model.shape, VALUE_BYTES[config.model.dtype]
    vision_rank, decoder_rank = adapter_ranks(config.model.lora) if method.trains else (0, 0)
    adapter = adapter_parameters(shape.vision, vision_rank) + adapter_parameters(shape.decoder, decoder_rank)
    tokens, marked = tree_tokens(method, paths) if method.trains else (0, 0)
    rows = min(config.training.stage.micro_batch, config.training.stage.batch) if method.trains else 0
    computed = 2 if config.training.stage.autocast else value
    return Memory(
        weights=_weights(config, model),
        adapter=adapter * ADAPTER_BYTES,
        activations=rows * _activations(config, model, tokens, paths.tiles, computed),
        logits=min(rows * marked * shape.vocabulary, LOGITS_AT_ONCE) * (computed + 4),
        cache=_asking(method, config, model, paths, value),
    )


def _weights(config: RunConfig, model: CheckpointShape) -> int:
    value, all_of_it = VALUE_BYTES[config.model.dtype], parameters(model.shape, model.tied)
    if config.model.quantization == "none":
        return all_of_it * value
    linear = linear_parameters(model.shape.decoder)
    return round(linear * NF4_BYTES) + (all_of_it - linear) * value


def _activations(config: RunConfig, model: CheckpointShape, tokens: int, tiles: int, value: int) -> int:
    """Of one sample."""
    shape, dropout = model.shape, config.model.lora.dropout > 0
    total = tokens * tokens * value  # the mask
    for tower, places in ((shape.vision, (shape.patches + 1) * tiles), (shape.decoder, tokens)):
        layer = places * kept_bytes(tower, value, dropout)
        if config.training.stage.gradient_checkpointing:
            total += tower.layers * places * tower.width * value + layer
        else:
            total += tower.layers * layer
    return total


def _asking(method: Method, config: RunConfig, model: CheckpointShape, paths: Paths, value: int) -> int:
    settings, batch = config.evaluation.answering, config.evaluation.answering.batch
    chain = min(paths.longest_chain, settings.chain_tokens) if "reasoning" in settings.answers else 0
    if method.self_labelled:
        chain = max(chain, min(paths.longest_chain, config.training.self_labelling.max_new_tokens))
    longest = max(paths.reasoning_prompt + chain if chain else 0, paths.label_prompt + paths.trie)
    return batch * (longest * cache_bytes(model.shape, value) + model.shape.vocabulary * (4 + 2 * 8))
