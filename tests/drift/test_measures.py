"""Measures along a chain against the plain model, one whole sequence for every number."""

import math
import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from PIL import Image
from tests.training.small import PROMPTS, chain_of, with_lora
from torch import Tensor

from throughline.chains.formats import FIVE_STAGE, FORMATS
from throughline.chains.parsing import parse_chain
from throughline.core.errors import ThroughlineError
from throughline.domains.images import load_image
from throughline.domains.samples import ImageSet
from throughline.drift.measures import Chain, Meter
from throughline.drift.places import closing, places_of, read_at
from throughline.mllm.divergences import entropy, js_divergence, kl_divergence
from throughline.mllm.likelihood import AT_ONCE
from throughline.mllm.load import Mllm
from throughline.mllm.plan import Plan

CLASSES = ("cat", "cup", "dog")
END = "<|im_end|>"


def logs(*probabilities: float) -> Tensor:
    return torch.tensor(probabilities, dtype=torch.float64).log()


def test_divergences_are_exact_where_probabilities_are_zero() -> None:
    p, q = logs(0.5, 0.5, 0, 0), logs(0.25, 0.25, 0.5, 0)
    assert float(entropy(p)) == pytest.approx(math.log(2), abs=1e-15)
    assert float(kl_divergence(p, q)) == pytest.approx(math.log(2), abs=1e-15)
    assert float(kl_divergence(q, p)) == math.inf
    assert float(js_divergence(logs(1, 0), logs(0, 1))) == pytest.approx(math.log(2), abs=1e-15)
    assert float(js_divergence(p, p)) == float(kl_divergence(p, p)) == float(entropy(logs(0, 1))) == 0


def test_divergences_hold_where_probabilities_cannot_be_told_from_zero() -> None:
    p, q = (torch.log_softmax(torch.tensor(values, dtype=torch.float64), 0) for values in ([0, 900.0], [0, -900.0]))
    assert float(kl_divergence(p, q)) == pytest.approx(900) and float(js_divergence(p, q)) == pytest.approx(math.log(2))
    assert float(entropy(p)) == 0


@torch.no_grad()
def alone(mllm: Mllm, image: Image.Image, behind: str, ids: list[int] | None = None) -> tuple[Tensor, Tensor]:
    """Log-probabilities `(tokens, vocabulary)` that predict each token of an answer, and its ids, by the model's and
    the processor's own calls; `ids` take the place of the answer's own."""
    user = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": PROMPTS.reasoning}]}
    processor = mllm.chat.processor
    prompt = processor.apply_chat_template([user], tokenize=False, add_generation_prompt=True)
    whole = dict(processor(images=[image], text=prompt + behind + END, crop_to_patches=False, return_tensors="pt"))
    start = processor(images=[image], text=prompt, crop_to_patches=False, return_tensors="pt")["input_ids"].shape[1]
    if ids is not None:
        whole["input_ids"] = torch.cat([whole["input_ids"][:, :start], torch.tensor([ids])], dim=1)
        whole["attention_mask"] = torch.ones_like(whole["input_ids"])
    scores = mllm.model(**whole, use_cache=False).logits[0, start - 1 : -1].double()
    return torch.log_softmax(scores, dim=-1), whole["input_ids"][0, start:]


def closed(before: str) -> str:
    """What closes a five-stage chain cut off there, up to the class."""
    if not before or before.endswith("\n"):
        return "<CONCLUSION> "
    slash, stage = re.findall("<(/?)([A-Z]+)>", before)[-1]
    return "\n<CONCLUSION> " if slash else " " if stage == "CONCLUSION" else f" </{stage}>\n<CONCLUSION> "


def rows_of(mllm: Mllm, images: ImageSet, **settings: Any) -> tuple[str, Any, Any, list[dict[str, Any]]]:
    sample, other = images.samples[0], images.samples[7]
    text = chain_of(sample.label)
    encode = mllm.chat.encode_image
    shown, beside = load_image(sample.path), load_image(other.path)
    chain = Chain(sample, "a", text)
    table = Meter(mllm, PROMPTS, **settings).measure(chain, encode(shown, "own"), encode(beside, "other"))
    return text, shown, beside, table.to_pylist()


def test_every_measure_is_what_separate_passes_say(tiny_mllm: Mllm, tiny_images: ImageSet) -> None:
    text, shown, beside, rows = rows_of(tiny_mllm, tiny_images)
    (log_p, ids), (log_q, _) = alone(tiny_mllm, shown, text), alone(tiny_mllm, beside, text)
    p = log_p.exp()
    assert [row["token_id"] for row in rows] == ids.tolist() and "".join(row["text"] for row in rows) == text
    for j, row in enumerate(rows):
        expected = {"nll": -log_p[j, ids[j]], "entropy": -(p[j] * log_p[j]).sum()}
        expected["image_kl"] = (p[j] * (log_p[j] - log_q[j])).sum()
        m = (p[j] + p[max(0, j - 1)]) / 2
        expected["jsd"] = sum((own * (own / m).log()).sum() / 2 for own in (p[j], p[max(0, j - 1)]))
        for name, value in expected.items():
            assert row[name] == pytest.approx(float(value), abs=1e-5), (j, name)
    assert max(row["image_kl"] for row in rows) > 0.01


def test_answers_behind_all_beginnings_are_those_of_a_loop(tiny_mllm: Mllm, tiny_images: ImageSet) -> None:
    _, shown, _, rows = rows_of(tiny_mllm, tiny_images, every=7)
    ids = [row["token_id"] for row in rows]
    read = [(j, row) for j, row in enumerate(rows) if row["answers"]]
    assert 15 < len(read) < len(rows) / 4
    before = None
    for j, row in read:
        so_far = "".join(own["text"] for own in rows[:j])
        sums = []
        for name in CLASSES:
            rest = f"{closed(so_far)}{name} </CONCLUSION>{END}"
            added = tiny_mllm.chat.tokenizer(rest, add_special_tokens=False)["input_ids"]
            found, whole = alone(tiny_mllm, shown, "", ids[:j] + added)
            scored = torch.arange(j, len(whole))
            sums.append(found[scored, whole[scored]].sum())
        z = torch.softmax(torch.stack(sums), dim=0)
        assert row["answers"] == pytest.approx(z.tolist(), abs=1e-5), so_far
        if before is None:
            assert row["answer_jsd"] is None
        else:
            m = (z + before) / 2
            moved = sum((own * (own / m).log()).sum() / 2 for own in (z, before))
            assert row["answer_jsd"] == pytest.approx(float(moved), abs=1e-5)
        before = z
    ended = [row["ended"] for row in rows if row["ended"]]
    assert ended == list(FIVE_STAGE.stages[:-1])


def test_an_adapter_is_measured_with_its_base(tiny_mllm: Mllm, tiny_images: ImageSet) -> None:
    *_, before = rows_of(tiny_mllm, tiny_images, every=0)
    with_lora(tiny_mllm)
    text, shown, _, rows = rows_of(tiny_mllm, tiny_images, every=0)
    log_p, ids = alone(tiny_mllm, shown, text)
    assert [row["nll"] for row in rows] == pytest.approx((-log_p[torch.arange(len(ids)), ids]).tolist(), abs=1e-4)
    assert max(abs(row["nll"] - own["nll"]) for row, own in zip(rows, before, strict=True)) > 0.01


def test_many_places_in_turns_are_the_same(tiny_mllm: Mllm, tiny_images: ImageSet, monkeypatch: Any) -> None:
    *_, whole = rows_of(tiny_mllm, tiny_images)
    monkeypatch.setattr("throughline.mllm.likelihood.AT_ONCE", AT_ONCE // 64)
    *_, turns = rows_of(tiny_mllm, tiny_images)
    for one, other in zip(whole, turns, strict=True):
        assert (one["answers"] is None) == (other["answers"] is None)
        if one["answers"]:
            assert one["answers"] == pytest.approx(other["answers"], abs=1e-5)


@pytest.mark.parametrize("form", FORMATS.values(), ids=FORMATS)
def test_a_chain_cut_off_anywhere_and_closed_is_well_formed_but_for_what_it_lacks(form: Any) -> None:
    stages = dict.fromkeys(form.stages[:-1], "It has a handle.")
    text = "\n".join(f"<{name}> {said} </{name}>" for name, said in stages.items())
    text += "\ncup" if form.answer_is_tail else f"\n<{form.answer_stage}> cup </{form.answer_stage}>"
    spans = [(place, place + 1) for place in range(len(text))]  # a token for each character
    places = places_of(text, spans, form)
    assert [place.ended for place in places if place.ended] == list(stages)
    for place in places:
        whole = text[: place.token] + closing(form, place, "cup")
        assert not re.search(r"<[^>]*<", whole)
        parsed = parse_chain(whole, form, CLASSES)
        assert parsed.label == "cup" or parsed.outcome in ("missing_stage", "wrong_order", "empty_stage"), whole
    assert parse_chain(text[: places[-1].token] + closing(form, places[-1], "dog"), form, CLASSES).label == "dog"
    ends = read_at(places, 0)
    assert [place.ended for place in ends[1 : 1 + len(stages)]] == list(stages)
    assert len(ends) <= len(stages) + 2


def test_a_text_that_is_no_chain_is_read_to_its_end(tiny_mllm: Mllm, tiny_images: ImageSet) -> None:
    image = tiny_mllm.chat.encode_image(load_image(tiny_images.samples[0].path), "own")
    meter = Meter(tiny_mllm, PROMPTS)
    table = meter.measure(Chain(tiny_images.samples[0], "a", "The picture has a handle."), image, None)
    assert table["concluded"].null_count == table["image_kl"].null_count == len(table)
    assert table["answers"].null_count == 0
    assert len(meter.measure(Chain(tiny_images.samples[0], "b", ""), image, None)) == 1


def test_a_model_without_shared_prefixes_is_refused(tiny_mllm: Mllm) -> None:
    with pytest.raises(ThroughlineError, match="cannot share a prefix"):
        Meter(replace(tiny_mllm, plan=Plan("paths")), PROMPTS)
