"""The second half of the laboratory's certificate: can reasoning matter to this base? Called by `certificate.py`.

All of it is about the base as it ships, before any training, on the certificate's test images of the domain styles.
`forced_chains.py` measures the first three conditions again without this package's model code.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from scipy.stats import bootstrap

from parts_question import parts_question
from terse import SURE, description, in_words
from throughline.analysis.conclusions import tampered_answers
from throughline.chains.formats import FIVE_STAGE
from throughline.chains.parsing import parse_chain
from throughline.core.seeding import generator
from throughline.core.settings import AnswerSettings, SamplingSettings
from throughline.domains.samples import ImageSet, Sample
from throughline.drawn.concepts import CLASSES, PARTS
from throughline.drawn.describer import describe
from throughline.drawn.scenes import Scene
from throughline.evaluation.answers import answer_samples
from throughline.metrics.intervals import clustered_interval
from throughline.mllm.chat import EncodedPrompt, user_turn
from throughline.mllm.images import ImageReader
from throughline.mllm.likelihood import label_log_likelihood
from throughline.mllm.load import Mllm
from throughline.mllm.sampling import sample
from throughline.questions.in_context import WithExamples, with_descriptions
from throughline.questions.probing import class_from_words
from throughline.questions.prompt import ImageThenText, Prompt
from throughline.questions.question import Likelihood, Question
from throughline.questions.question_set import make_question_set


@dataclass(frozen=True)
class ReasoningBars:
    """Fixed before any method is run on the base."""

    chain_gain: float = 0.30
    """Mean probability of the class behind a true chain of the teacher, above that of the label question."""
    followed: float = 0.80
    """Share of images on which another scene's chain is followed to its class."""
    otherwise: float = 0.60
    """Share of images on which the model concludes otherwise behind its own chain about another image."""
    accepted: tuple[float, float] = (0.25, 0.75)
    """Own chains accepted on the source images of every fold."""
    # Also: parts named on held-out styles better than chance and worse than on auxiliary ones; labelled examples
    # better than the same with shuffled labels. Both with intervals that do not reach 0.


@dataclass(frozen=True)
class Base:
    """The checkpoint with the images it is asked about: those of domain styles, and those of auxiliary ones."""

    mllm: Mllm
    images: ImageSet
    samples: tuple[Sample, ...]
    scenes: dict[str, Scene]
    auxiliary: tuple[Sample, ...]
    auxiliary_scenes: dict[str, Scene]

    @cached_property
    def reader(self) -> ImageReader:
        """One for all questions."""
        return ImageReader(self.mllm.chat)

    @cached_property
    def questions(self) -> Any:
        """The usual questions about all classes."""
        return make_question_set(self.images.classes, FIVE_STAGE)

    def ask(self, samples: Sequence[Sample], *questions: Question) -> list[Any]:
        """Predictions, in the order of samples and questions."""
        return answer_samples(self.mllm, samples, questions, batch=50, reader=self.reader)

    def probabilities(self, prompts: Sequence[EncodedPrompt], answers: Sequence[Sequence[str]]) -> np.ndarray:
        """`(prompts, classes)`: of each prompt's answers, one a class, among themselves."""
        rows = [
            torch.softmax(label_log_likelihood(self.mllm, [prompt], own)[0].double(), dim=0).numpy()
            for prompt, own in zip(prompts, answers, strict=True)
        ]
        return np.stack(rows)

    def behind_chains(self, samples: Sequence[Sample], chains: Sequence[str]) -> np.ndarray:
        """`(samples, classes)`: the conclusion's probabilities behind the stages of a chain each. The chains' own
        conclusions are left out."""
        prompts = [
            EncodedPrompt(user_turn(self.questions.reasoning), [self.reader.encode(sample)]) for sample in samples
        ]
        return self.probabilities(prompts, [tampered_answers(self.questions, stages_of(text)) for text in chains])


def stages_of(text: str) -> dict[str, str]:
    """The stages of a five-stage chain without its conclusion; as far as it goes where it is broken off."""
    chain = parse_chain(text, FIVE_STAGE, CLASSES).chain
    if chain is None:
        return {}
    return {name: chain.stage(name) for name in FIVE_STAGE.stages if name != FIVE_STAGE.answer_stage}


def measure(base: Base, seed: int = 0) -> dict[str, Any]:
    """Every measure by name."""
    return {
        "chains": chains(base, seed),
        "own_chains": own_chains(base, seed),
        "parts": parts(base, seed),
        "examples": examples(base, seed),
        "words": words(base, seed),
    }


def checks(found: dict[str, Any], bars: ReasoningBars) -> dict[str, bool]:
    """Every condition by name."""
    low, high = bars.accepted
    return {
        "true_chain_helps": found["chains"]["behind_true"] - found["chains"]["without"] >= bars.chain_gain,
        "another_chain_is_followed": found["chains"]["followed"] >= bars.followed,
        "own_chain_decides": found["own_chains"]["otherwise"] >= bars.otherwise,
        "own_chains_need_rejection": all(low <= share <= high for share in found["own_chains"]["by_fold"].values()),
        "parts_better_than_chance": found["parts"]["above_chance"][1] > 0,
        "parts_worse_than_auxiliary": found["parts"]["auxiliary_above_held_out"][1] > 0,
        "examples_are_used": found["examples"]["gain"][1] > 0,
    }


def another(samples: Sequence[Sample], own: Sample, seed: int, purpose: str) -> Sample:
    """A sample of another class in the same style."""
    others = [other for other in samples if other.domain == own.domain and other.label != own.label]
    return others[int(generator(seed, purpose, own.id).integers(len(others)))]


def chains(base: Base, seed: int) -> dict[str, float]:
    """The teacher's chains behind the reasoning question: a true one, and one about another scene."""
    classes = base.images.classes
    true = [describe(base.scenes[own.id], seed=seed, sample_id=own.id, settings=SURE) for own in base.samples]
    others = [another(base.samples, own, seed, "another scene") for own in base.samples]
    false = [describe(base.scenes[other.id], seed=seed, sample_id=other.id, settings=SURE) for other in others]
    plain = base.ask(base.samples, *base.questions.build(AnswerSettings(answers=("likelihood",))))
    place = np.array([classes.index(own.label) for own in base.samples])
    theirs = np.array([classes.index(other.label) for other in others])
    behind, swapped = base.behind_chains(base.samples, true), base.behind_chains(base.samples, false)
    at = np.arange(len(place))
    return {
        "images": len(place),
        "without": float(np.mean([row.probabilities[k] for row, k in zip(plain, place, strict=True)])),
        "behind_true": float(behind[at, place].mean()),
        "behind_true_accuracy": float((behind.argmax(1) == place).mean()),
        "followed": float((swapped.argmax(1) == theirs).mean()),
    }


def own_chains(base: Base, seed: int) -> dict[str, Any]:
    """Chains of the base's own: sampled as in self-labelling for acceptance, greedy for what they decide."""
    classes, chat = base.images.classes, base.mllm.chat
    prompts = [chat.prompt(user_turn(base.questions.reasoning), [base.reader.encode(own)]) for own in base.samples]

    def written(temperature: float) -> list[str]:
        settings = SamplingSettings(temperature=temperature, max_new_tokens=160)
        texts: list[str] = []
        for start in range(0, len(prompts), 50):
            draws = [[generator(seed, "own", own.id)] for own in base.samples[start : start + 50]]
            texts += [row[0].text for row in sample(base.mllm, prompts[start : start + 50], settings, draws)]
        return texts

    read = partial(parse_chain, format=FIVE_STAGE, classes=classes)
    right = [read(text).label == own.label for text, own in zip(written(0.7), base.samples, strict=True)]
    by_style = {
        style: float(np.mean([ok for ok, own in zip(right, base.samples, strict=True) if own.domain == style]))
        for style in base.images.domains
    }
    by_fold = {
        target: float(np.mean([share for style, share in by_style.items() if style != target])) for target in by_style
    }
    greedy = dict(zip((own.id for own in base.samples), written(0.0), strict=True))
    whole = [own for own in base.samples if stages_of(greedy[own.id])]
    others = [another(whole, own, seed, "another image") for own in whole]
    own_class = base.behind_chains(whole, [greedy[own.id] for own in whole]).argmax(1)
    other_class = base.behind_chains(whole, [greedy[other.id] for other in others]).argmax(1)
    return {
        "by_style": by_style,
        "by_fold": by_fold,
        "well_formed": len(whole) / len(base.samples),
        "greedy_accuracy": float(np.mean([read(greedy[own.id]).label == own.label for own in base.samples])),
        "otherwise": float((own_class != other_class).mean()),
    }


def parts(base: Base, seed: int) -> dict[str, Any]:
    """Parts named, as F1 of an image's named parts against its true ones; chance is the same answers against the parts
    of all other images."""
    question = parts_question(PARTS)

    def scores(samples: Sequence[Sample], scenes: dict[str, Scene]) -> tuple[np.ndarray, np.ndarray]:
        named_parts = [frozenset(row.predicted or ()) for row in base.ask(samples, question)]
        true = [frozenset(scenes[own.id].parts) for own in samples]
        table = np.array([[f1(answer, parts) for parts in true] for answer in named_parts])
        own = np.diag(table)
        return own, (table.sum(1) - own) / (len(own) - 1)

    held_out, chance = scores(base.samples, base.scenes)
    auxiliary, _ = scores(base.auxiliary, base.auxiliary_scenes)
    return {
        "held_out": float(held_out.mean()),
        "chance": float(chance.mean()),
        "auxiliary": float(auxiliary.mean()),
        "above_chance": interval(held_out - chance, seed),
        "auxiliary_above_held_out": difference(auxiliary, held_out, seed),
    }


def f1(named_parts: frozenset[str], true: frozenset[str]) -> float:
    """F1 of two sets."""
    return 2 * len(named_parts & true) / (len(named_parts) + len(true)) if named_parts or true else 1.0


def examples(base: Base, seed: int, shots: int = 4) -> dict[str, Any]:
    """Four labelled examples of as many classes, the query's among them, all in the query's style; against the same
    examples with their labels shuffled so that none keeps its own."""
    classes = base.images.classes
    answer = Likelihood(base.questions.class_names, classes)
    by_style_class: dict[tuple[str, str], list[Sample]] = {}
    for own in base.samples:
        by_style_class.setdefault((own.domain, own.label), []).append(own)
    right: dict[str, list[bool]] = {"true": [], "shuffled": [], "none": []}
    for own in base.samples:
        draw = generator(seed, "examples", own.id)
        shown = [own.label, *draw.permutation([name for name in classes if name != own.label])[: shots - 1]]
        chosen = []
        for name in draw.permutation(shown):
            pool = [other for other in by_style_class[own.domain, str(name)] if other.id != own.id]
            chosen.append(pool[int(draw.integers(len(pool)))])
        labels = [other.label for other in chosen]
        shift = int(draw.integers(1, shots))
        shuffled = [*labels[shift:], *labels[:shift]]
        asked: dict[str, Callable[[Sample], Prompt]] = {
            "true": WithExamples(tuple(zip(chosen, labels, strict=True)), base.questions.label),
            "shuffled": WithExamples(tuple(zip(chosen, shuffled, strict=True)), base.questions.label),
            "none": ImageThenText(base.questions.label),
        }
        rows = base.ask([own], *(Question(name, prompt, answer) for name, prompt in asked.items()))
        for row in rows:
            right[row.answer].append(row.correct)
    paired = np.array(right["true"], dtype=float) - np.array(right["shuffled"], dtype=float)
    return {**{name: float(np.mean(values)) for name, values in right.items()}, "gain": interval(paired, seed)}


def words(base: Base, seed: int) -> dict[str, float]:
    """No condition: the class from its parts in words alone, by class, and an image with a description of each of four
    classes whose names are exchanged."""
    classes = base.images.classes
    told = [in_words(name) for name in classes]
    prompts = [EncodedPrompt(user_turn(class_from_words(text, base.questions.label), images=0), []) for text in told]
    knows = base.probabilities(prompts, [classes] * len(prompts)).argmax(1) == np.arange(len(classes))
    right = []
    for own in base.samples:
        draw = generator(seed, "descriptions", own.id)
        offered = [own.label, *draw.permutation([name for name in classes if name != own.label])[:3]]
        offered = [str(name) for name in draw.permutation(offered)]
        called = dict(zip(offered, (str(name) for name in draw.permutation(classes)), strict=False))
        described = {called[name]: description(name) for name in offered}
        names = list(described)
        question = with_descriptions(make_question_set(names).label, described)
        prompt = chat_prompt(question, base.reader, own)
        right.append(names[int(base.probabilities([prompt], [names])[0].argmax())] == called[own.label])
    return {"class_from_words": float(knows.mean()), "descriptions_followed": float(np.mean(right)), "chance": 0.25}


def chat_prompt(question: str, reader: ImageReader, own: Sample) -> EncodedPrompt:
    """An image and a question."""
    return EncodedPrompt(user_turn(question), [reader.encode(own)])


def interval(values: np.ndarray, seed: int) -> tuple[float, float, float]:
    """Mean and 95 % interval over images."""
    found = clustered_interval(values, np.ones(len(values)), np.random.default_rng(seed))
    return found.mean, found.low, found.high


def difference(first: np.ndarray, second: np.ndarray, seed: int) -> tuple[float, float, float]:
    """Difference of the means over two sets of images and its 95 % interval."""

    def gap(a: np.ndarray, b: np.ndarray, axis: int) -> np.ndarray:
        return np.asarray(np.mean(a, axis=axis) - np.mean(b, axis=axis))

    # percentiles, as every interval here; the default has none where all images score alike
    result = bootstrap((first, second), gap, method="percentile", random_state=seed)
    low, high = result.confidence_interval
    return float(first.mean() - second.mean()), float(low), float(high)
