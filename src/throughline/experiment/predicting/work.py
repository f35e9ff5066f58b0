"""What a unit's phases compute: tokens, FLOPs, and what token-by-token decoding reads, from its counts and paths.

    training        a tree a sample: image and class list once, the answers behind them; forward and backward
    self-labelling  a prompt an image, then its chain token by token
    prompts         image and class list, once an image whatever is asked about it
    label           the rest of the label prompt, then the label token by token
    reasoning       the rest of the reasoning prompt, then a chain token by token
    likelihood      all class names as one trie behind the label prompt

No padding is counted, no sample is rejected, and chains that the model writes end where those it learnt from end.
A tree's attention is counted as its packed row computes it: the trunk with itself, the crown with the whole tree.
Adapters are folded into float32 weights for asking, beside others they are computed: where the decoder's weights are in
4 bits, beside all. Of these weights decoding reads the 4 bits; what widening them takes is not counted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from throughline.core.settings import LoraSettings
from throughline.experiment.config import RunConfig
from throughline.experiment.costs import Cost
from throughline.experiment.predicting.tokens import Paths
from throughline.mllm.decode_flops import appended_flops, cached_tokens_read, decoding_flops, prompt_flops
from throughline.mllm.flops import Row, Shape, step_flops
from throughline.mllm.sizes import cache_bytes, decoder_bytes
from throughline.training.methods import Method

TRAINING, SELF_LABELLING, ANSWERING = "training", "self-labelling", "answering"
VALUE_BYTES = {"float32": 4, "bfloat16": 2}


@dataclass(frozen=True)
class Phase:
    """`flops` are of passes over many tokens at once, `decoding_flops` of `steps` passes that write one token for each
    sequence of a batch; these read `bytes_read` of weights and caches. `tokens` are those of prompts and trees."""

    name: str
    tokens: int = 0
    new_tokens: int = 0
    flops: int = 0
    decoding_flops: int = 0
    steps: int = 0
    bytes_read: int = 0

    @property
    def all_flops(self) -> int:
        """Of both kinds."""
        return self.flops + self.decoding_flops

    @property
    def group(self) -> str:
        """Training, self-labelling, or answering in whatever way."""
        return self.name if self.name in {TRAINING, SELF_LABELLING} else ANSWERING


@dataclass(frozen=True)
class Answer:
    """A batch's prompts behind `context` cached tokens, then `tokens` written, the longest of a batch `longest`."""

    context: int
    prompt: int
    tokens: int
    longest: int


def phases_of(method: Method, cost: Cost, config: RunConfig, shape: Shape, paths: Paths) -> tuple[Phase, ...]:
    """The phases of a unit in their order; those that do nothing are left out."""
    rank = config.model.lora.rank if method.trains else 0
    folded = config.model.dtype == "float32" and config.model.quantization == "none"
    asking = _Asking(config, shape, paths, 0 if folded else rank)
    found = [
        _training(method, cost, config, shape, paths),
        asking.self_labelling(cost),
        *asking.answering(cost.images_measured, config.evaluation.answering.answers),
        *asking.answering(cost.images_validated, config.evaluation.answering.answers[:1]),
    ]
    return tuple(phase for phase in _joined(found) if phase.all_flops)


def tree_tokens(method: Method, paths: Paths) -> tuple[int, int]:
    """`(tokens, positions with logits)` of a training sample's tree."""
    label, chain = paths.label_prompt + paths.label, paths.reasoning_prompt + paths.chain
    if method.marked == ("label", "chain"):
        return label + chain - paths.shared, paths.label + paths.chain
    return (label, paths.label) if method.marked == ("label",) else (chain, paths.chain)


def crown_pairs(method: Method, paths: Paths) -> int:
    """Pairs of query and key between a tree's crown and the tree, which a mask is made for; a lone path has none."""
    if method.marked != ("label", "chain"):
        return 0
    tokens, _ = tree_tokens(method, paths)
    return (tokens - paths.shared) * tokens


def adapter_ranks(lora: LoraSettings) -> tuple[int, int]:
    """Rank in the vision tower and in the decoder; a tower of which some layers are adapted counts as if all were."""
    return (lora.rank if lora.vision else 0), (lora.rank if lora.decoder else 0)


def _training(method: Method, cost: Cost, config: RunConfig, shape: Shape, paths: Paths) -> Phase:
    if not method.trains:
        return Phase(TRAINING)
    tokens, marked = tree_tokens(method, paths)
    crown = crown_pairs(method, paths)
    trunk = paths.shared if crown else tokens
    step = step_flops(shape, [Row(tokens, paths.tiles, marked, trunk**2 + crown)], config.model.lora.rank)
    flops = step.total + (step.forward if config.training.stage.gradient_checkpointing else 0)
    return Phase(TRAINING, tokens=tokens * cost.training_samples, flops=flops * cost.training_samples)


@dataclass(frozen=True)
class _Asking:
    config: RunConfig
    shape: Shape
    paths: Paths
    rank: int

    def self_labelling(self, cost: Cost) -> Phase:
        settings, paths = self.config.training.self_labelling, self.paths
        most = settings.max_new_tokens
        # Every round begins a batch of its own.
        rounds = self.config.training.rounds
        batches = rounds * self._batches(math.ceil(cost.chains_sampled / rounds))
        answer = Answer(0, paths.reasoning_prompt, min(paths.chain, most), min(paths.longest_chain, most))
        image = prompt_flops(self.shape, paths.reasoning_prompt, paths.tiles, self.rank)
        phase = self._written(SELF_LABELLING, answer, cost.chains_sampled, batches)
        return replace(phase, flops=image * cost.chains_sampled)

    def answering(self, images: int, ways: tuple[str, ...]) -> tuple[Phase, ...]:
        """Each way behind the prefix that all share; the likelihood's trie stands where the label answer begins."""
        paths, settings, batches = self.paths, self.config.evaluation.answering, self._batches(images)
        most, chain = settings.label_tokens, settings.chain_tokens
        label_rest, reasoning_rest = paths.label_prompt - paths.shared, paths.reasoning_prompt - paths.shared
        label = Answer(paths.shared, label_rest, min(paths.label, most), min(paths.longest_label, most))
        reasoning = Answer(paths.shared, reasoning_rest, min(paths.chain, chain), min(paths.longest_chain, chain))
        trie = paths.trie + (0 if "label" in ways else label_rest)
        prompt = prompt_flops(self.shape, paths.shared, paths.tiles, self.rank)
        scored = appended_flops(self.shape, paths.label_prompt, trie, paths.trie_inner, self.rank)
        found = {
            "label": self._written("label", label, images, batches),
            "reasoning": self._written("reasoning", reasoning, images, batches),
            "likelihood": Phase("likelihood", tokens=trie * images, flops=scored * images),
        }
        return (
            Phase("prompts", tokens=paths.shared * images, flops=prompt * images),
            *(found[way] for way in ways),
        )

    def _written(self, name: str, answer: Answer, sequences: int, batches: int) -> Phase:
        """The prompt is behind `context` already where that is not 0; the first token comes of its logits, and the end
        of the turn is drawn and not run: as many steps as tokens, less one."""
        begun, steps = answer.context + answer.prompt, max(0, answer.tokens - 1)
        longest = max(0, answer.longest - 1)
        behind = appended_flops(self.shape, answer.context, answer.prompt, 1, self.rank) if answer.context else 0
        decoded = decoding_flops(self.shape, begun, steps, self.rank)
        value = VALUE_BYTES[self.config.model.dtype]
        weights = decoder_bytes(self.shape, value, self.config.model.quantization != "none")
        cache = cached_tokens_read(begun, steps) * cache_bytes(self.shape, value)
        return Phase(
            name,
            tokens=answer.prompt * sequences,
            new_tokens=answer.tokens * sequences,
            flops=behind * sequences,
            decoding_flops=decoded * sequences,
            steps=longest * batches,
            bytes_read=weights * longest * batches + cache * sequences,
        )

    def _batches(self, images: int) -> int:
        return math.ceil(images / self.config.evaluation.answering.batch)


def _joined(phases: list[Phase]) -> list[Phase]:
    """Phases of one name as one, in the order of the first."""
    found: dict[str, Phase] = {}
    for phase in phases:
        before = found.get(phase.name, Phase(phase.name))
        sums = {
            key: getattr(before, key) + getattr(phase, key)
            for key in ("tokens", "new_tokens", "flops", "decoding_flops", "steps", "bytes_read")
        }
        found[phase.name] = Phase(phase.name, **sums)
    return list(found.values())
