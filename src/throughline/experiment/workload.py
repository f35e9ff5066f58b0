"""What a run's units compute and hold: tokens, FLOPs and the peak of memory, from a checkpoint's outline.

    training        a tree a sample: image and class list once, the answers behind them; forward and backward
    self-labelling  a prompt an image, then its chain token by token
    prompts         image and class list, once an image whatever is asked about it
    label           the rest of the label prompt, then the label token by token
    reasoning       the rest of the reasoning prompt, then a chain token by token
    likelihood      all class names as one trie behind the label prompt

Trees and prompts are real ones, of an image of typical size with a label and a chain of typical length. No padding is
counted, no sample is rejected, and chains that the model writes end where those it learnt from end. Adapters are folded
into float32 weights for asking, beside others they are computed. `forecast` multiplies this by how often it happens.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean

import numpy as np

from throughline.experiment.config import RunConfig
from throughline.experiment.costs import Cost
from throughline.mllm.chat import Chat, EncodedImage, user_turn
from throughline.mllm.flops import appended_flops, cached_tokens_read, decoding_flops, prompt_flops, row_flops, row_of
from throughline.mllm.head import LOGITS_AT_ONCE
from throughline.mllm.shapes import Shape, Tower, tiles_of
from throughline.mllm.tree import Leaf, Tree, merge_paths
from throughline.questions.question_set import QuestionSet
from throughline.questions.wording import class_name
from throughline.training.methods import Method
from throughline.training.objectives import Example

TRAINING, SELF_LABELLING, ANSWERING = "training", "self-labelling", "answering"
VALUE_BYTES = {"float32": 4, "bfloat16": 2}
ADAPTER_BYTES = 16
"""Of one adapter parameter: itself, its gradient and AdamW's two moments, each in float32."""
NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
"""Of one weight in 4 bits: a block of 64 shares a scale of one byte (bitsandbytes' double quantisation), and 256 blocks
a float32."""
ALLOWANCE = 10**9
"""Bytes for CUDA's context, or Python with torch, and for fragments."""


@dataclass(frozen=True)
class Paths:
    """Tokens of one image's paths, images included.

    `shared` is what both prompts begin with: image and class list. `label` and `chain` are answers with the end of the
    turn, means over samples; `trie` is what all class names together put behind the label prompt, `trie_inner` how many
    of its places (the prompt's last among them) have logits.
    """

    tiles: int
    shared: int
    label_prompt: int
    reasoning_prompt: int
    label: int
    longest_label: int
    trie: int
    trie_inner: int
    chain: int
    longest_chain: int


def count_paths(
    chat: Chat, prompts: QuestionSet, image: EncodedImage, labels: Iterable[str], chains: Sequence[str]
) -> tuple[Paths, Example]:
    """The paths of an image, and its typical answers; `labels` are those of all samples, as often as they occur."""
    label_turn, reasoning_turn = user_turn(prompts.label), user_turn(prompts.reasoning)
    label, reasoning = (chat.prompt(turn, [image]) for turn in (label_turn, reasoning_turn))
    frequency = Counter(map(class_name, labels))
    answers = {name: chat.answered(label_turn, [image], name) for name in frequency}
    label_lengths = {name: len(path.tokens) - path.answer_start for name, path in answers.items()}
    trie = merge_paths([Leaf(path, name) for name, path in answers.items()], chat.image_token_id)
    ends = chat.tokenizer([text + chat.end_of_turn for text in chains], add_special_tokens=False)["input_ids"]
    chain_lengths = dict(zip(chains, map(len, ends), strict=True))
    label_mean = fmean(label_lengths.values(), frequency.values())
    chain_mean = fmean(chain_lengths.values())
    paths = Paths(
        tiles=tiles_of(image),
        shared=int((label.tokens != reasoning.tokens[: len(label.tokens)]).argmax()) or len(label.tokens),
        label_prompt=len(label.tokens),
        reasoning_prompt=len(reasoning.tokens),
        label=round(label_mean),
        longest_label=max(label_lengths.values()),
        trie=len(trie) - len(label.tokens),
        trie_inner=len(np.unique(np.concatenate([branch.predictors for branch in trie.branches]))),
        chain=round(chain_mean),
        longest_chain=max(chain_lengths.values()),
    )
    return paths, Example(_nearest(label_lengths, label_mean), _nearest(chain_lengths, chain_mean))


def _nearest(lengths: Mapping[str, int], mean: float) -> str:
    return min(lengths, key=lambda text: abs(lengths[text] - mean))


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

    def __add__(self, other: Phase) -> Phase:
        sums = {key: value + getattr(other, key) for key, value in asdict(self).items() if key != "name"}
        return Phase(self.name, **sums)

    @property
    def all_flops(self) -> int:
        """Of both kinds."""
        return self.flops + self.decoding_flops

    @property
    def group(self) -> str:
        """Training, self-labelling, or answering in whatever way."""
        return self.name if self.name in {TRAINING, SELF_LABELLING} else ANSWERING


@dataclass(frozen=True)
class Memory:
    """Bytes that a unit holds in one process, estimated.

    `weights` is every parameter in the config's type, the decoder's linear layers in 4 bits where they are quantised.
    `activations` and `logits` are a micro-batch's; gradient checkpointing keeps a layer's input, and one layer whole.
    `asking` is the adapted weights once more where adapters are folded into them, and a batch of answers: its cache at
    its longest, and the larger of its logits (in float32 and twice in float64) and of what all its prompts, or all its
    tiles, hold at the widest place of one layer.
    """

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


@dataclass(frozen=True, eq=False)
class Workload:
    """A run's checkpoint and texts: the shape without adapters and with them, the tokens of its paths, and for every
    method that trains the tree of a typical sample. `notes` says what these rest on."""

    config: RunConfig
    plain: Shape
    adapted: Shape
    paths: Paths
    trees: Mapping[str, Tree]
    notes: tuple[str, ...] = ()

    def phases(self, method: Method, cost: Cost) -> tuple[Phase, ...]:
        """The phases of a unit in their order; those that do nothing are left out."""
        answers = self.config.evaluation.answering.answers
        joined: dict[str, Phase] = {}
        for phase in (
            self._training(method, cost),
            self._self_labelling(cost),
            *self._answering(method, cost.images_measured, answers),
            *self._answering(method, cost.images_validated, answers[:1]),
        ):
            joined[phase.name] = joined[phase.name] + phase if phase.name in joined else phase
        return tuple(phase for phase in joined.values() if phase.all_flops)

    def memory(self, method: Method) -> Memory:
        """The peak of one unit."""
        stage = self.config.training.stage
        tree = self.trees.get(method.name)
        rows = min(stage.micro_batch, stage.batch) if tree is not None else 0
        marked = row_of(tree).marked if tree is not None else 0
        computed = 2 if stage.autocast else self._value
        return Memory(
            weights=self._weights(self.plain.parameters),
            adapter=self.adapted.adapter * ADAPTER_BYTES if tree is not None else 0,
            activations=rows * self._activations(tree, computed) if tree is not None else 0,
            logits=min(rows * marked * self.plain.head.outside, LOGITS_AT_ONCE) * (computed + 4),
            asking=(self._folded_bytes() if tree is not None else 0) + self._batch_asked(method),
        )

    # tokens and FLOPs ---------------------------------------------------------------------------------------------

    def _training(self, method: Method, cost: Cost) -> Phase:
        tree = self.trees.get(method.name)
        if tree is None:
            return Phase(TRAINING)
        row = row_of(tree)
        step = row_flops(self.adapted, row)
        flops = step.total + (step.forward if self.config.training.stage.gradient_checkpointing else 0)
        return Phase(TRAINING, tokens=row.tokens * cost.training_samples, flops=flops * cost.training_samples)

    def _self_labelling(self, cost: Cost) -> Phase:
        paths, shape = self.paths, self._asked_shape
        most, rounds = self.config.training.self_labelling.max_new_tokens, self.config.training.rounds
        batches = rounds * self._batches(math.ceil(cost.chains_sampled / rounds))  # every round begins its own
        lengths = min(paths.chain, most), min(paths.longest_chain, most)
        written = self._written(
            SELF_LABELLING, shape, (0, paths.reasoning_prompt), lengths, cost.chains_sampled, batches
        )
        image = prompt_flops(shape, paths.reasoning_prompt, paths.tiles)
        return written + Phase(SELF_LABELLING, flops=image * cost.chains_sampled)

    def _answering(self, method: Method, images: int, ways: tuple[str, ...]) -> tuple[Phase, ...]:
        """Each way behind the prefix that all share; the likelihood's trie stands where the label answer begins."""
        paths, settings, batches = self.paths, self.config.evaluation.answering, self._batches(images)
        shape = self._asked_shape if method.trains else self.plain
        label_rest, reasoning_rest = paths.label_prompt - paths.shared, paths.reasoning_prompt - paths.shared
        labels = tuple(min(length, settings.label_tokens) for length in (paths.label, paths.longest_label))
        chains = tuple(min(length, settings.chain_tokens) for length in (paths.chain, paths.longest_chain))
        trie = paths.trie + (0 if "label" in ways else label_rest)
        prompt = prompt_flops(shape, paths.shared, paths.tiles)
        scored = appended_flops(shape, paths.label_prompt, trie, paths.trie_inner)
        phases = {
            "label": self._written("label", shape, (paths.shared, label_rest), labels, images, batches),
            "reasoning": self._written("reasoning", shape, (paths.shared, reasoning_rest), chains, images, batches),
            "likelihood": Phase("likelihood", tokens=trie * images, flops=scored * images),
        }
        prompts = Phase("prompts", tokens=paths.shared * images, flops=prompt * images)
        return (prompts, *(phases[way] for way in ways))

    def _written(
        self, name: str, shape: Shape, prompt: tuple[int, int], lengths: tuple[int, ...], sequences: int, batches: int
    ) -> Phase:
        """Answers of typical and longest `lengths` behind prompts of (cached, further) tokens.

        The first token comes of the prompt's logits, and the end of the turn is drawn and not run: as many steps as
        tokens, less one. Without cached tokens the prompt is not counted.
        """
        (cached, further), (typical, longest) = prompt, lengths
        steps, longest_steps = max(0, typical - 1), max(0, longest - 1)
        behind = appended_flops(shape, cached, further, 1) if cached else 0
        cache = cached_tokens_read(cached + further, steps) * shape.decoder.cached_values * self._value
        return Phase(
            name,
            tokens=further * sequences,
            new_tokens=typical * sequences,
            flops=behind * sequences,
            decoding_flops=decoding_flops(shape, cached + further, steps) * sequences,
            steps=longest_steps * batches,
            bytes_read=self._weights(shape.decoder.weights + shape.head.weights) * longest_steps * batches
            + cache * sequences,
        )

    def _batches(self, images: int) -> int:
        return math.ceil(images / self.config.evaluation.answering.batch)

    @property
    def _asked_shape(self) -> Shape:
        """Of a trained model that is asked: without adapters where they are folded into the weights."""
        folded = self.config.model.dtype == "float32" and not self._quantized
        return self.plain if folded else self.adapted

    # memory -------------------------------------------------------------------------------------------------------

    @property
    def _value(self) -> int:
        return VALUE_BYTES[self.config.model.dtype]

    @property
    def _quantized(self) -> bool:
        return self.config.model.quantization != "none"

    def _weights(self, parameters: int) -> int:
        """Bytes of so many parameters, the decoder's linear layers among them."""
        linear = self.plain.decoder.weights if self._quantized else 0
        return round(linear * NF4_BYTES) + (parameters - linear) * self._value

    def _activations(self, tree: Tree, value: int) -> int:
        """Of one sample, in a type of `value` bytes; with the mask of its crown in float32, and again in each layer
        that computes in another type."""
        stage, shape, tokens = self.config.training.stage, self.plain, len(tree)
        copies = 0 if value == 4 else 1 if stage.gradient_checkpointing else shape.decoder.layers
        total = int((tree.node > 0).sum()) * tokens * (4 + copies * value)
        for tower, places, quantized in (
            (shape.vision, shape.sequence * self.paths.tiles, False),
            (shape.decoder, tokens, self._quantized),
        ):
            layer = places * kept_bytes(tower, value, self._kept_beside(quantized))
            inputs = tower.layers * places * tower.width * value
            total += inputs + layer if stage.gradient_checkpointing else tower.layers * layer
        return total

    def _kept_beside(self, quantized: bool) -> int:
        """Bytes for every value of a linear layer's input that its adapter keeps besides.

        Dropout keeps a byte. `lora_linear` keeps no more; peft's own way keeps a copy: its factors are in float32, and
        so is what it hands them, unless autocast makes both narrower.
        """
        dropout = self.config.model.lora.dropout > 0
        copied = quantized and (dropout or self.config.model.dtype != "float32")
        return (2 if self.config.training.stage.autocast else 4 if copied else 0) + dropout

    def _folded_bytes(self) -> int:
        """The clones of the adapted weights that asking makes: of those in float32, and of none in 4 bits."""
        if self.config.model.dtype != "float32":
            return 0
        linears = (*self.adapted.vision.linears, *self.adapted.connector)
        linears += () if self._quantized else self.adapted.decoder.linears
        return sum(linear.weights for linear in linears if linear.rank) * VALUE_BYTES["float32"]

    def _batch_asked(self, method: Method) -> int:
        settings, paths, shape = self.config.evaluation.answering, self.paths, self.plain
        chain = min(paths.longest_chain, settings.chain_tokens) if "reasoning" in settings.answers else 0
        prompt = paths.shared
        if method.self_labelled:
            chain = max(chain, min(paths.longest_chain, self.config.training.self_labelling.max_new_tokens))
            prompt = paths.reasoning_prompt
        longest = max(paths.reasoning_prompt + chain if chain else 0, paths.label_prompt + paths.trie)
        widest = max(
            shape.head.outside * (4 + 2 * 8),
            prompt * passing_bytes(shape.decoder, self._value),
            shape.sequence * paths.tiles * passing_bytes(shape.vision, self._value),
        )
        return settings.batch * (longest * shape.decoder.cached_values * self._value + widest)


def kept_bytes(tower: Tower, value: int, beside: int) -> int:
    """What one token leaves in one layer for the backward pass, adapters on every linear layer, base frozen.

    The inputs of the linear layers (adapters need them), queries, keys, values and their outcome; around the activation
    three values where the MLP is gated, one where it is not; the residual stream before both norms; and `beside` bytes
    for each value of each linear layer's input.
    """
    mlp, gates = _mlp(tower)
    inputs = 2 * tower.width + tower.query_width + mlp
    attention = tower.query_width + 2 * tower.key_width
    activation = (3 if gates == 2 else 1) * mlp
    values = 2 * tower.width + inputs + attention + activation
    return values * value + beside * sum(linear.inside for linear in tower.layer)


def passing_bytes(tower: Tower, value: int) -> int:
    """What one token holds at the widest place of a layer when nothing is kept for a backward pass: the residual stream
    and its norm; in the MLP what goes into the activation or beside it, and what comes out."""
    mlp, gates = _mlp(tower)
    return (2 * tower.width + (gates + 1) * mlp) * value


def _mlp(tower: Tower) -> tuple[int, int]:
    """Its width, and how many linear layers lead into it: two where it is gated."""
    width = max(linear.inside for linear in tower.layer)
    return width, sum(linear.outside == width for linear in tower.layer)
