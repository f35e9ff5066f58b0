"""Constrained chains: whatever is drawn parses, what was well formed anyway stays as it is, no format needs a model's
help, and the mask says what the grammar says."""

import re
import sys
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.mllm.tiny import image_of

from throughline.chains.formats import FIVE_STAGE, FORMATS, Chain, ChainFormat, render_chain
from throughline.chains.outcomes import Outcome
from throughline.chains.parsing import parse_chain
from throughline.core.errors import ThroughlineError
from throughline.core.settings import SamplingSettings
from throughline.drawn.concepts import CLASSES
from throughline.mllm.chat import user_turn
from throughline.mllm.constraints import StageConstraint, constraint_of, format_regex
from throughline.mllm.load import Mllm, load_mllm
from throughline.mllm.sampling import Continuation, sample
from throughline.questions.question_set import make_question_set

NAMES = tuple(sorted(CLASSES))
ANY_FORMAT = pytest.mark.parametrize("chain_format", FORMATS.values(), ids=list(FORMATS))


@pytest.fixture(scope="module")
def pocket() -> Mllm:
    return load_mllm("pocket")


def said(
    mllm: Mllm, chain_format: ChainFormat, settings: SamplingSettings, draws: int = 1, images: int = 6
) -> list[Continuation]:
    """`draws` chains on each of so many pictures."""
    question = user_turn(make_question_set(NAMES, chain_format).reasoning)
    prompts = [mllm.chat.prompt(question, [mllm.chat.encode_image(image_of(i, 64, 64), str(i))]) for i in range(images)]
    generators = [[np.random.default_rng([i, k]) for k in range(draws)] for i in range(images)]
    constraint = constraint_of(settings, mllm.chat, chain_format)
    return [one for row in sample(mllm, prompts, settings, generators, constraint=constraint) for one in row]


def faults(chains: list[Continuation], chain_format: ChainFormat) -> Counter[Outcome]:
    """What is wrong with the form of those that are no chain; one that was cut off has no form yet."""
    read = [parse_chain(one.text, chain_format, NAMES, one.finish_reason) for one in chains]
    return Counter(one.outcome for one in read if one.chain is None and one.outcome != Outcome.TRUNCATED)


# what is drawn ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_hot_draws_break_the_format_and_constrained_ones_never_do(pocket: Mllm) -> None:
    hot = SamplingSettings(temperature=2.0, max_new_tokens=200)
    assert faults(said(pocket, FIVE_STAGE, hot, draws=4), FIVE_STAGE).total() >= 6
    assert not faults(said(pocket, FIVE_STAGE, hot.model_copy(update={"constrained": True}), draws=4), FIVE_STAGE)
    bound = said(pocket, FIVE_STAGE, hot.model_copy(update={"constrained": True, "temperature": 1.5}), draws=4)
    assert not faults(bound, FIVE_STAGE)
    assert sum(one.finish_reason == "stop" for one in bound) >= 12


@ANY_FORMAT
def test_every_format_is_kept_by_a_model_that_never_saw_it(pocket: Mllm, chain_format: ChainFormat) -> None:
    """The pocket speaks five stages; of the others it would not write a single well-formed chain."""
    chains = said(pocket, chain_format, SamplingSettings(temperature=1.0, max_new_tokens=250, constrained=True))
    assert not faults(chains, chain_format)
    assert any(one.finish_reason == "stop" for one in chains)


@pytest.mark.slow
def test_greedy_chains_that_were_well_formed_stay_as_they_were(pocket: Mllm) -> None:
    loose = said(pocket, FIVE_STAGE, SamplingSettings(max_new_tokens=200))
    bound = said(pocket, FIVE_STAGE, SamplingSettings(max_new_tokens=200, constrained=True))
    whole = [parse_chain(one.text, FIVE_STAGE, NAMES, one.finish_reason).chain is not None for one in loose]
    assert sum(whole) >= 4
    assert all(a == b for a, b, was_whole in zip(loose, bound, whole, strict=True) if was_whole)


@ANY_FORMAT
def test_random_weights_of_every_family_cannot_leave_the_format(mllm: Mllm, chain_format: ChainFormat) -> None:
    """Noise seldom ends a stage, so most chains are cut off; what there is must be the beginning of a chain."""
    chains = said(mllm, chain_format, SamplingSettings(temperature=1.0, max_new_tokens=60, constrained=True), images=4)
    first = f"<{chain_format.stages[0]}>"
    assert all(one.text.startswith(first) for one in chains)
    assert not faults(chains, chain_format)


# the grammar --------------------------------------------------------------------------------------------------------


stage_texts = st.text(alphabet=st.characters(exclude_characters="<", exclude_categories=("Cs",)), min_size=1)


@ANY_FORMAT
@given(texts=st.lists(stage_texts, min_size=5, max_size=5))
def test_rendered_chains_are_in_the_grammar_and_what_is_in_it_parses(
    chain_format: ChainFormat, texts: list[str]
) -> None:
    """Checked with Python's own regular expressions; the tests above check llguidance's."""
    chain = Chain(chain_format, tuple(texts[: len(chain_format.stages)]))
    grammar = re.compile(format_regex(chain_format))
    if all(chain.stages):
        assert grammar.fullmatch(render_chain(chain))
    text = "\n ".join(f"<{name}>{one}</{name}>" for name, one in zip(chain_format.tagged_stages, texts, strict=False))
    text += texts[-1] if chain_format.answer_is_tail else " \n"
    if grammar.fullmatch(text):
        assert parse_chain(text, chain_format, NAMES).chain is not None


@pytest.fixture(scope="module")
def constraint(pocket: Mllm) -> StageConstraint:
    return StageConstraint(pocket.chat, FIVE_STAGE)


CHAIN = render_chain(Chain(FIVE_STAGE, ("a", "a cup on a table", "it has a handle", "no doubt", "cup")))


def step_through(pocket: Mllm, constraint: StageConstraint, text: str) -> Callable[[], torch.Tensor]:
    """Feeds a text; gives which tokens may follow."""
    matchers = constraint.start(1)
    for token in pocket.chat.tokenizer(text, add_special_tokens=False)["input_ids"]:
        matchers.accept(0, token)

    def allowed() -> torch.Tensor:
        logits = torch.zeros(1, constraint.tokens + 7)
        matchers.mask(logits, [0])
        return logits[0] == 0

    return allowed


def test_the_turn_may_end_where_the_chain_does_and_nowhere_before(pocket: Mllm, constraint: StageConstraint) -> None:
    end = pocket.chat.end_of_turn_id
    assert step_through(pocket, constraint, CHAIN)()[end]
    for cut in (0, 5, 30, len(CHAIN) - len("</CONCLUSION>"), len(CHAIN) - 1):
        assert not step_through(pocket, constraint, CHAIN[:cut])()[end]


def test_special_tokens_and_what_no_text_stands_for_are_forbidden(pocket: Mllm, constraint: StageConstraint) -> None:
    allowed = step_through(pocket, constraint, "<SUMMARY> a")()
    assert allowed.sum() > 0.8 * constraint.tokens, "text is free"
    assert not allowed[pocket.chat.image_token_id]
    assert not allowed[constraint.tokens :].any()


def test_each_sequence_has_a_place_of_its_own_and_the_finished_are_left_out(
    pocket: Mllm, constraint: StageConstraint
) -> None:
    matchers = constraint.start(3)
    for token in pocket.chat.tokenizer(CHAIN, add_special_tokens=False)["input_ids"]:
        matchers.accept(2, token)
    logits = torch.randn(2, constraint.tokens, generator=torch.Generator().manual_seed(0))
    before = logits.clone()
    matchers.mask(logits, [2, 0])
    end = pocket.chat.end_of_turn_id
    assert torch.isfinite(logits[:, end]).tolist() == [True, False]
    kept = torch.isfinite(logits)
    assert torch.equal(logits[kept], before[kept])
    assert not torch.equal(kept[0], kept[1])


def test_a_token_that_was_forbidden_is_a_bug(pocket: Mllm, constraint: StageConstraint) -> None:
    with pytest.raises(RuntimeError, match="llguidance"):
        constraint.start(1).accept(0, pocket.chat.end_of_turn_id)


# doors --------------------------------------------------------------------------------------------------------------


def test_without_llguidance_the_extra_is_named(pocket: Mllm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(ThroughlineError, match=re.escape("pip install '.[constrained]'")) as raised:
        StageConstraint(pocket.chat, FIVE_STAGE)
    assert "\n" not in str(raised.value)
    assert constraint_of(SamplingSettings(), pocket.chat, FIVE_STAGE) is None


def test_the_choice_is_written_and_read_back() -> None:
    """Candidates' keys and units' hashes are made of what is written."""
    assert SamplingSettings().model_dump(mode="json")["constrained"] is False
    on = SamplingSettings(constrained=True)
    assert on.model_dump(mode="json")["constrained"] is True
    assert SamplingSettings.model_validate(on.model_dump(mode="json")) == on
