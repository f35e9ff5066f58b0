"""What a run's units compute and hold: tokens, FLOPs and the peak of memory, from a checkpoint without its weights.

    training        a tree a sample: image and class list once, the answers behind them; forward and backward
    self-labelling  a prompt an image, then its chain token by token
    prompts         image and class list, once an image whatever is asked about it; before them labelled examples,
                    once a batch where all images have the same
    label           the rest of the label prompt, then the label token by token
    reasoning       the rest of the reasoning prompt, then a chain token by token
    likelihood      all class names as one trie behind the label prompt

Trees and prompts are real ones, of an image of typical size with a label and a chain of typical length. No padding is
counted, no sample is rejected, and chains that the model writes end where those it learnt from end. Adapters are folded
into float32 weights for asking, beside others they are computed. `forecast` turns this into time.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from throughline.experiment.config import RunConfig
from throughline.experiment.costs import Cost
from throughline.experiment.plan import FOLD
from throughline.mllm.chat import Chat, EncodedImage, user_turn
from throughline.mllm.flops import Row, appended, decoded, row_flops, row_of
from throughline.mllm.head import LOGITS_AT_ONCE
from throughline.mllm.shapes import Shape, Tower, tiles_of
from throughline.mllm.tree import Leaf, Tree, common_path, merge_paths
from throughline.questions.prompt import Prompt
from throughline.questions.question_set import LIKELIHOODS, QuestionSet
from throughline.questions.wording import class_name
from throughline.runs.unit import EVALUATE, FEW_SHOT, PROBE
from throughline.training.paths import Example

TRAINING, SELF_LABELLING, ANSWERING = GROUPS = "training", "self-labelling", "answering"
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
    of its places (the prompt's last among them) have logits. `begun`, with its tiles, are labelled examples that all
    prompts of a batch begin with.
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
    begun: int = 0
    begun_tiles: int = 0

    def behind_examples(self, chat: Chat, asked: Prompt, plain: Prompt, image: EncodedImage, alike: bool) -> Paths:
        """Those of a prompt with labelled examples; `plain` is the same without, and `alike` says whether all images
        are asked about behind the same ones."""
        example, another = replace(image, key="example"), replace(image, key="another")
        shown = len(asked.images) - 1
        own, other = (chat.prompt(asked.messages, [*[example] * shown, last]) for last in (image, another))
        begun = common_path([own, other], chat.image_token_id)
        more = len(own.tokens) - len(chat.prompt(plain.messages, [image]).tokens)
        grown = {name: getattr(self, name) + more for name in ("shared", "label_prompt", "reasoning_prompt")}
        if alike and begun.images:
            grown |= {"begun": len(begun.tokens), "begun_tiles": len(begun.images) * self.tiles}
        return replace(self, **grown, tiles=self.tiles * len(asked.images))


def count_paths(
    chat: Chat, prompts: QuestionSet, image: EncodedImage, labels: Iterable[str], chains: Sequence[str]
) -> tuple[Paths, Example]:
    """The paths of an image, and its typical answers; `labels` are those of all samples, as often as they occur."""
    turn, frequency = user_turn(prompts.label), Counter(class_name(label, prompts.names) for label in labels)
    label, reasoning = (chat.prompt(question, [image]) for question in (turn, user_turn(prompts.reasoning)))
    answers = {name: chat.answered(turn, [image], name) for name in frequency}
    trie = merge_paths([Leaf(path, name) for name, path in answers.items()], chat.image_token_id)
    ends = chat.tokenizer([text + chat.end_of_turn for text in chains], add_special_tokens=False)["input_ids"]
    label_tokens = {name: len(path.tokens) - path.answer_start for name, path in answers.items()}
    chain_tokens = dict(zip(chains, map(len, ends), strict=True))
    label_mean, chain_mean = fmean(label_tokens.values(), frequency.values()), fmean(chain_tokens.values())
    paths = Paths(
        tiles=tiles_of(image),
        shared=len(common_path([label, reasoning], chat.image_token_id).tokens),
        label_prompt=len(label.tokens),
        reasoning_prompt=len(reasoning.tokens),
        label=round(label_mean),
        longest_label=max(label_tokens.values()),
        trie=len(trie) - len(label.tokens),
        trie_inner=row_of(trie).marked,
        chain=round(chain_mean),
        longest_chain=max(chain_tokens.values()),
    )
    return paths, Example((image,), _nearest(label_tokens, label_mean), _nearest(chain_tokens, chain_mean))


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

    @property
    def all_flops(self) -> int:
        """Of both kinds."""
        return self.flops + self.decoding_flops

    @property
    def group(self) -> str:
        """Training, self-labelling, or answering in whatever way."""
        return self.name if self.name in GROUPS else ANSWERING


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
    """A run's checkpoint and texts: the shape without adapters and with them, the tokens of its paths, in training and
    as they are asked about the target, and for every method that trains the tree of a typical sample. `notes` says what
    these rest on."""

    config: RunConfig
    plain: Shape
    adapted: Shape
    paths: Paths
    asked: Paths
    trees: Mapping[str, Tree]
    notes: tuple[str, ...] = ()

    @property
    def layers(self) -> int:
        """Of the decoder."""
        return self.plain.decoder.layers

    def phases(self, method: str, cost: Cost, kind: str = FOLD) -> tuple[Phase, ...]:
        """The phases of a unit in their order; those that do nothing are left out."""
        if kind == PROBE:  # every prompt goes through the model once, and nothing is answered
            row, images = Row(self.paths.label_prompt, self.paths.tiles, 0), cost.images_measured
            return (Phase("prompts", row.tokens * images, flops=row_flops(self.plain, row).forward * images),)
        folded, tree = self.config.model.dtype == "float32" and not self._quantized, self._adapting(method, kind)
        shape = self.plain if folded or tree is None else self.adapted
        training = [self._training(tree, cost)] if tree is not None else []
        phases = (*training, self._self_labelling(shape, cost), *self._answering(shape, cost))
        return tuple(phase for phase in phases if phase.all_flops)

    def _adapting(self, method: str, kind: str) -> Tree | None:
        """The tree by which a unit's adapter is trained, here or in a unit that it needs; None where it has none."""
        return self.trees.get("cls" if kind == FEW_SHOT else method)

    def _training(self, tree: Tree, cost: Cost) -> Phase:
        step = row_flops(self.adapted, row_of(tree))
        flops = step.total + (step.forward if self.config.training.stage.gradient_checkpointing else 0)
        return Phase(TRAINING, tokens=len(tree) * cost.training_samples, flops=flops * cost.training_samples)

    def _self_labelling(self, shape: Shape, cost: Cost) -> Phase:
        paths, rounds = self.paths, self.config.training.rounds
        batches = rounds * self._batches(math.ceil(cost.chains_sampled / rounds))  # every round begins its own
        prompt = Row(paths.reasoning_prompt, paths.tiles, 1)
        return self._written(SELF_LABELLING, shape, 0, prompt, cost.chains_sampled, batches)

    def _answering(self, shape: Shape, cost: Cost) -> list[Phase]:
        """Each way behind the prefix that all share; the likelihood's trie stands where the label answer begins.
        Validation asks in the first way only, without examples."""
        paths, settings = self.asked, self.config.evaluation.answering
        images_asked = cost.images_measured + cost.images_validated
        rows = [
            (Row(paths.begun, paths.begun_tiles, 0), self._batches(cost.images_measured)),
            (_behind(paths), cost.images_measured),
            (_behind(self.paths), cost.images_validated),
        ]
        tokens = sum(row.tokens * times for row, times in rows)
        flops = sum(row_flops(shape, row).forward * times for row, times in rows)
        phases = [Phase("prompts", tokens=tokens, flops=flops)]
        for way in settings.answers:
            images = images_asked if way == settings.answers[0] else cost.images_measured
            batches = self._batches(cost.images_measured) + self._batches(images - cost.images_measured)
            if way in LIKELIHOODS:
                if any(other in LIKELIHOODS for other in settings.answers[: settings.answers.index(way)]):
                    continue  # counts the same numbers differently
                trie = paths.trie + (0 if "label" in settings.answers else paths.label_prompt - paths.shared)
                flops = row_flops(shape, appended(paths.label_prompt, trie, paths.trie_inner)).forward
                phases.append(Phase(way, tokens=trie * images, flops=flops * images))
            else:
                prompt = paths.label_prompt if way == "label" else paths.reasoning_prompt
                rest = appended(paths.shared, prompt - paths.shared)
                phases.append(self._written(way, shape, paths.shared, rest, images, batches))
        return phases

    def _written(self, name: str, shape: Shape, cached: int, rest: Row, sequences: int, batches: int) -> Phase:
        """Answers of typical length in steps up to the longest, behind a prompt: its cached tokens, and its rest.

        The first token comes of the prompt's logits, and the end of the turn is drawn and not run: as many steps as
        tokens, less one.
        """
        paths, answering = self.paths, self.config.evaluation.answering
        most = {
            "label": answering.label_tokens,
            "reasoning": answering.chain_tokens,
            SELF_LABELLING: self.config.training.self_labelling.max_new_tokens,
        }[name]
        lengths = (paths.label, paths.longest_label) if name == "label" else (paths.chain, paths.longest_chain)
        typical, longest = (min(length, most) for length in lengths)
        answer, steps = decoded(cached + rest.tokens, typical - 1), (longest - 1) * batches
        cache = (answer.pairs or 0) * shape.decoder.cached_values * self._value
        weights = self._weights(shape.decoder.linears.weights + shape.head.weights)
        return Phase(
            name,
            tokens=rest.tokens * sequences,
            new_tokens=typical * sequences,
            flops=row_flops(shape, rest).forward * sequences,
            decoding_flops=row_flops(shape, answer).forward * sequences,
            steps=steps,
            bytes_read=weights * steps + cache * sequences,
        )

    def _batches(self, images: int) -> int:
        return math.ceil(images / self.config.evaluation.answering.batch)

    # memory -------------------------------------------------------------------------------------------------------

    def memory(self, method: str, kind: str = FOLD) -> Memory:
        """The peak of one unit."""
        stage, tree, asked = self.config.training.stage, self._adapting(method, kind), self._batch_asked()
        weights = self._weights(self.plain.parameters)
        if tree is None:
            return Memory(weights, adapter=0, activations=0, logits=0, asking=asked)
        rows, computed = min(stage.micro_batch, stage.batch), 2 if stage.autocast else self._value
        logits = min(rows * row_of(tree).marked * self.plain.vocabulary, LOGITS_AT_ONCE)
        # Of weights in float32 that are not in 4 bits, asking makes clones to fold the adapters into.
        clones = (self.adapted.vision.linears + self.adapted.connector).adapted_weights
        clones += 0 if self._quantized else self.adapted.decoder.linears.adapted_weights
        asking = (clones * 4 if self._value == 4 else 0) + asked
        if kind == EVALUATE:
            return Memory(weights, adapter=self.adapted.adapter * 4, activations=0, logits=0, asking=asking)
        return Memory(
            weights,
            adapter=self.adapted.adapter * ADAPTER_BYTES,
            activations=rows * self._activations(tree, computed),
            logits=logits * (computed + 4),
            asking=asking,
        )

    @property
    def _value(self) -> int:
        return VALUE_BYTES[self.config.model.dtype]

    @property
    def _quantized(self) -> bool:
        return self.config.model.quantization != "none"

    def _weights(self, parameters: int) -> int:
        """Bytes of so many parameters, the decoder's linear layers among them."""
        linear = self.plain.decoder.linears.weights if self._quantized else 0
        return round(linear * NF4_BYTES) + (parameters - linear) * self._value

    def _activations(self, tree: Tree, value: int) -> int:
        """Of one sample, in a type of `value` bytes; with the mask of its crown in float32, and again in each layer
        that computes in another type.

        Adapters keep their inputs. Dropout keeps a byte for each of their values; so does peft's own way with a copy,
        in bfloat16 under autocast, in float32 beside weights in 4 bits.
        """
        stage, shape, tokens = self.config.training.stage, self.plain, len(tree)
        copies = 0 if value == 4 else 1 if stage.gradient_checkpointing else shape.decoder.layers
        total = int((tree.node > 0).sum()) * tokens * (4 + copies * value)
        beside = (self.config.model.lora.dropout > 0) + 2 * stage.autocast
        for tower, places, copied in (
            (shape.vision, shape.sequence * self.paths.tiles, 0),
            (shape.decoder, tokens, 4 * (self._quantized and not stage.autocast)),
        ):
            kept = tower.layers * kept_values(tower) * value + (beside + copied) * tower.linears.inside
            if stage.gradient_checkpointing:
                kept = kept // tower.layers + tower.layers * tower.width * value
            total += places * kept
        return total

    def _batch_asked(self) -> int:
        paths, shape, value, batch = self.asked, self.plain, self._value, self.config.evaluation.answering.batch
        longest = max(paths.reasoning_prompt + paths.longest_chain, paths.label_prompt + paths.trie)
        tokens = max(batch * (paths.reasoning_prompt - paths.begun), paths.begun)
        tiles = max(batch * (paths.tiles - paths.begun_tiles), paths.begun_tiles)
        widest = max(
            batch * shape.vocabulary * (4 + 2 * 8),
            tokens * passing_values(shape.decoder) * value,
            tiles * shape.sequence * passing_values(shape.vision) * value,
        )
        return batch * longest * shape.decoder.cached_values * value + widest


def _behind(paths: Paths) -> Row:
    """What each image adds to the prompts' shared beginning."""
    tokens = paths.shared - paths.begun
    return Row(tokens, paths.tiles - paths.begun_tiles, 1, tokens * paths.shared)


def kept_values(tower: Tower) -> int:
    """What one token leaves in one layer for the backward pass, adapters on every linear layer, base frozen.

    The residual stream before both norms; the inputs of the linear layers (adapters need them), queries, keys, values
    and their outcome; around the activation three values where the MLP is gated, one where it is not.
    """
    inputs = 2 * tower.width + tower.query_width + tower.mlp_width
    attention = tower.query_width + 2 * tower.key_width
    return 2 * tower.width + inputs + attention + (3 if tower.gates == 2 else 1) * tower.mlp_width


def passing_values(tower: Tower) -> int:
    """What one token holds at the widest place of a layer when nothing is kept for a backward pass: the residual stream
    and its norm; in the MLP what goes into the activation or beside it, and what comes out."""
    return 2 * tower.width + (tower.gates + 1) * tower.mlp_width
