"""Classes read behind tampered chains against the plain model, one whole sequence for every class."""

import pytest
import torch
from tests.training.small import PROMPTS, chain_of

from throughline.analysis import conclusions
from throughline.analysis.conclusions import BLANK, ConclusionReader, chained, tampered_answers
from throughline.analysis.faithfulness import WHOLE, Read, variants
from throughline.analysis.records import State
from throughline.chains.formats import FIVE_STAGE, FORMATS
from throughline.chains.parsing import parse_chain
from throughline.domains.images import load_image
from throughline.domains.samples import ImageSet
from throughline.mllm.images import ImageReader
from throughline.mllm.load import Mllm
from throughline.questions.question_set import make_question_set

CLASSES = ("cat", "cup", "dog")
BEFORE = FIVE_STAGE.stages[:-1]


@pytest.fixture
def reader(tiny_mllm: Mllm) -> ConclusionReader:
    return ConclusionReader(tiny_mllm, ImageReader(tiny_mllm.chat), PROMPTS)


def two(images: ImageSet):
    """Two images of different classes with chains of different length."""
    first, second = images.samples[0], next(s for s in images.samples if s.label != images.samples[0].label)
    texts = {first.id: chain_of(first.label, 0), second.id: chain_of(second.label, 2)}
    return chained([first, second], texts, PROMPTS)


@torch.no_grad()
def by_hand(mllm: Mllm, image, chain_before: str, classes=CLASSES) -> torch.Tensor:
    """p(class) from the whole log-likelihood of `chain_before` + class, each sequence by itself."""
    user = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": PROMPTS.reasoning}]}
    processor = mllm.chat.processor
    prompt = processor.apply_chat_template([user], tokenize=False, add_generation_prompt=True)
    options = {"crop_to_patches": False, "return_tensors": "pt"}
    start = processor(images=[image], text=prompt, **options)["input_ids"].shape[1]
    sums = []
    for label in classes:
        text = f"{prompt}{chain_before}<CONCLUSION> {label} </CONCLUSION><|im_end|>"
        whole = processor(images=[image], text=text, **options)
        logs = torch.log_softmax(mllm.model(**whole, use_cache=False).logits[0, start - 1 : -1].double(), dim=-1)
        ids = whole["input_ids"][0, start:]
        sums.append(logs[torch.arange(len(ids)), ids].sum())
    return torch.softmax(torch.stack(sums), dim=0)


def tags(stages) -> str:
    return "".join(f"<{name}> {text} </{name}>\n" for name, text in stages.items())


def test_every_variant_is_what_the_plain_model_says(reader: ConclusionReader, tiny_images: ImageSet) -> None:
    from PIL import Image

    one, other = two(tiny_images)
    reads = {read.variant: read for read in reader.read([one, other], seed=0) if read.sample_id == one.sample.id}
    own = {name: one.stages[name] for name in BEFORE}
    theirs = {name: other.stages[name] for name in BEFORE}
    picture, another = load_image(one.sample.path), load_image(other.sample.path)
    expected = {
        WHOLE: (picture, own),
        **{f"without {name}": (picture, {n: t for n, t in own.items() if n != name}) for name in BEFORE},
        **{f"{name} of another": (picture, own | {name: theirs[name]}) for name in BEFORE},
        "no stage": (picture, {}),
        "another image's chain": (picture, theirs),
        "image blanked": (Image.new("RGB", picture.size, (BLANK,) * 3), own),
        "another image": (another, own),
    }
    assert set(reads) == set(expected)
    for name, (image, stages) in expected.items():
        p = by_hand(reader.mllm, image, tags(stages))
        place = CLASSES.index(one.sample.label)
        assert reads[name].probability == pytest.approx(float(p[place]), abs=1e-4), name
        assert reads[name].correct == (int(p.argmax()) == place)
    assert len({round(read.probability, 6) for read in reads.values()}) > 6  # tampering shows


def test_many_classes_go_in_turns_with_the_same_numbers(reader, tiny_images: ImageSet, monkeypatch) -> None:
    pair = two(tiny_images)
    whole = list(reader.read(pair, seed=0))
    monkeypatch.setattr(conclusions, "AT_ONCE", 400)
    assert len(reader._in_turns([("", {}, "chain")] * 5)) == 3
    turns = list(reader.read(pair, seed=0))
    assert [one.variant for one in turns] == [one.variant for one in whole]
    assert [one.probability for one in turns] == pytest.approx([one.probability for one in whole], abs=1e-4)


def test_only_well_formed_chains_take_part(tiny_images: ImageSet) -> None:
    first, second, third = tiny_images.samples[:3]
    texts = {first.id: chain_of("dog"), second.id: "<SUMMARY> cut off", third.id: chain_of("no such class")}
    assert [one.sample.id for one in chained(tiny_images.samples, texts, PROMPTS)] == [first.id]


def test_an_image_without_one_of_another_class_is_left_out(reader: ConclusionReader, tiny_images: ImageSet) -> None:
    first, second = [one for one in tiny_images.samples if one.label == "cat"][:2]
    same = chained([first, second], {first.id: chain_of("cat"), second.id: chain_of("cat")}, PROMPTS)
    assert list(reader.read(same, seed=0)) == []


def test_lines_are_means_over_images():
    reads = [Read("a", WHOLE, "whole", 0.9, True), Read("a", "no stage", "chain", 0.2, False)]
    reads += [Read("b", WHOLE, "whole", 0.5, False), Read("b", "no stage", "chain", 0.4, False)]
    whole, none = variants(reads, State(method=None, unit=None, round=None))
    assert (whole.name, whole.images, whole.accuracy.mean, whole.probability.mean) == (WHOLE, 2, 0.5, 0.7)
    assert (none.accuracy.mean, none.accuracy.high) == (0, 0)
    assert whole.lost is None and none.lost is not None
    assert (none.lost.mean, none.lost.low, none.lost.high) == (50, 0, 100)


@pytest.mark.parametrize("format", FORMATS.values(), ids=FORMATS)
def test_a_chain_with_all_its_stages_is_well_formed_whatever_class_ends_it(format) -> None:
    questions = make_question_set(("hot_dog", "cat"), format)
    stages = dict.fromkeys(format.stages, "It has a handle.")
    parsed = [parse_chain(text, format, questions.classes) for text in tampered_answers(questions, stages)]
    assert [chain.label for chain in parsed] == ["hot_dog", "cat"]
    (first, _) = tampered_answers(questions, {})
    assert "handle" not in first and "hot dog" in first
