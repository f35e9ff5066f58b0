"""The peak of memory that a unit needs, term by term. Estimates of ours, in bytes.

    weights      every parameter in the config's type; 4-bit: half a byte for each weight of the decoder's linear
                 layers, with their scales (`sizes.NF4_BYTES`)
    adapter      parameters, gradients and AdamW's two moments, each in float32
    activations  of a micro-batch, `sizes.kept_bytes` for each token and layer; with gradient checkpointing each layer's
                 input, and one layer whole; and the masks of the crowns, where trees have any: in float32, and again
                 in each layer that computes in another type
    logits       of the micro-batch's marked positions, at most LOGITS_AT_ONCE: as computed, and in float32
    asking       the adapted weights once more where adapters are folded into them (`lora.folded`: in float32); the
                 cache of a batch being answered or sampled, at its longest; beside it the larger of its logits, in
                 float32 and twice in float64, and of what all its prompts, or all its tiles, hold at the widest place
                 of one layer: they go through the model in a single row (`prefix.encode_prefix`)
    allowance    CUDA's context, or Python with torch; fragments

The peak is weights, adapter and allowance with the larger of what training and asking hold besides.
"""

from __future__ import annotations

from dataclasses import dataclass

from throughline.experiment.config import RunConfig
from throughline.experiment.predicting.tokens import Paths
from throughline.experiment.predicting.work import VALUE_BYTES, adapter_ranks, crown_pairs, tree_tokens
from throughline.mllm.shapes import CheckpointShape
from throughline.mllm.sizes import (
    LOGITS_AT_ONCE,
    NF4_BYTES,
    adapter_parameters,
    cache_bytes,
    kept_bytes,
    linear_parameters,
    parameters,
    passing_bytes,
)
from throughline.training.methods import Method

ADAPTER_BYTES = 16
ALLOWANCE = 10**9


@dataclass(frozen=True)
class Memory:
    """Bytes, by what they hold."""

    weights: int
    adapter: int
    activations: int
    logits: int
    asking: int
    allowance: int = ALLOWANCE

    @property
    def total(self) -> int:
        """At the peak: training and asking come one after the other."""
        return self.weights + self.adapter + max(self.activations + self.logits, self.asking) + self.allowance


def peak_memory(method: Method, config: RunConfig, model: CheckpointShape, paths: Paths) -> Memory:
    """Of one unit in one process."""
    shape, value = model.shape, VALUE_BYTES[config.model.dtype]
    vision_rank, decoder_rank = adapter_ranks(config.model.lora) if method.trains else (0, 0)
    adapter = adapter_parameters(shape.vision, vision_rank) + adapter_parameters(shape.decoder, decoder_rank)
    _, marked = tree_tokens(method, paths) if method.trains else (0, 0)
    rows = min(config.training.stage.micro_batch, config.training.stage.batch) if method.trains else 0
    computed = 2 if config.training.stage.autocast else value
    return Memory(
        weights=_weights(config, model),
        adapter=adapter * ADAPTER_BYTES,
        activations=rows * _activations(method, config, model, paths, computed),
        logits=min(rows * marked * shape.vocabulary, LOGITS_AT_ONCE) * (computed + 4),
        asking=_folded(method, config, model) + _batch_asked(method, config, model, paths, value),
    )


def _weights(config: RunConfig, model: CheckpointShape) -> int:
    value, all_of_it = VALUE_BYTES[config.model.dtype], parameters(model.shape, model.tied)
    if not _is_quantized(config):
        return all_of_it * value
    linear = linear_parameters(model.shape.decoder)
    return round(linear * NF4_BYTES) + (all_of_it - linear) * value


def _activations(method: Method, config: RunConfig, model: CheckpointShape, paths: Paths, value: int) -> int:
    """Of one sample."""
    if not method.trains:
        return 0
    shape, stage, dropout = model.shape, config.training.stage, config.model.lora.dropout > 0
    tokens, _ = tree_tokens(method, paths)
    total = 0
    if config.model.attention == "sdpa":
        copies = 0 if value == 4 else 1 if stage.gradient_checkpointing else shape.decoder.layers
        total += crown_pairs(method, paths) * (4 + copies * value)
    towers = ((shape.vision, (shape.patches + 1) * paths.tiles, False), (shape.decoder, tokens, _is_quantized(config)))
    for tower, places, quantized in towers:
        layer = places * kept_bytes(tower, value, dropout, _copy_bytes(config, quantized))
        if stage.gradient_checkpointing:
            total += tower.layers * places * tower.width * value + layer
        else:
            total += tower.layers * layer
    return total


def _copy_bytes(config: RunConfig, quantized: bool) -> int:
    """Of the copies of a layer's inputs that peft's own way keeps (see `kept_bytes`). Its factors are in float32, and
    so is what it hands them, unless autocast makes both narrower."""
    if config.training.stage.autocast:
        return 2
    copied = config.model.lora.dropout > 0 or config.model.dtype != "float32"
    return 4 if quantized and copied else 0


def _folded(method: Method, config: RunConfig, model: CheckpointShape) -> int:
    """The clones of the adapted weights that asking makes: of those in float32, and of none in 4 bits."""
    if not method.trains or config.model.dtype != "float32":
        return 0
    vision_rank, decoder_rank = adapter_ranks(config.model.lora)
    vision = linear_parameters(model.shape.vision) if vision_rank else 0
    decoder = linear_parameters(model.shape.decoder) if decoder_rank and not _is_quantized(config) else 0
    return (vision + decoder) * VALUE_BYTES["float32"]


def _batch_asked(method: Method, config: RunConfig, model: CheckpointShape, paths: Paths, value: int) -> int:
    settings, batch, shape = config.evaluation.answering, config.evaluation.answering.batch, model.shape
    chain = min(paths.longest_chain, settings.chain_tokens) if "reasoning" in settings.answers else 0
    prompt = paths.shared
    if method.self_labelled:
        chain = max(chain, min(paths.longest_chain, config.training.self_labelling.max_new_tokens))
        prompt = paths.reasoning_prompt
    longest = max(paths.reasoning_prompt + chain if chain else 0, paths.label_prompt + paths.trie)
    logits = shape.vocabulary * (4 + 2 * 8)
    decoder = prompt * passing_bytes(shape.decoder, value)
    vision = (shape.patches + 1) * paths.tiles * passing_bytes(shape.vision, value)
    return batch * (longest * cache_bytes(shape, value) + max(logits, decoder, vision))


def _is_quantized(config: RunConfig) -> bool:
    return config.model.quantization != "none"
