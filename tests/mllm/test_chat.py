"""A `Path` is what the checkpoint's own processor makes of the whole conversation, cut where the answer begins."""

from pathlib import Path

import pytest
from tests.mllm.reference import ENDS, Spoken, picture, processed
from tests.mllm.tiny import image_of

from throughline.core.errors import ThroughlineError
from throughline.mllm.chat import Chat, user_turn
from throughline.mllm.load import Mllm, load_mllm

QUESTION = "What is shown? Choose from: cat, cat tower, dog."
ANSWERS = ["cat", "cat tower", "The picture has a handle, no sail .  Two wheels!\n\n<CONCLUSION> dog </CONCLUSION>"]


def encoded(chat: Chat, spoken: Spoken) -> list:
    return [chat.encode_image(image_of(*drawn), str(drawn)) for drawn in spoken.pictures]


@pytest.mark.parametrize("images", [0, 1, 2])
@pytest.mark.parametrize("answer", ANSWERS)
def test_tokens_and_images_are_the_processors_own(mllm: Mllm, family: str, images: int, answer: str) -> None:
    spoken = Spoken(user_turn(QUESTION, images), [picture(i, 40 + 24 * i) for i in range(images)], answer)
    path = mllm.chat.answered(spoken.messages, encoded(mllm.chat, spoken), answer)
    whole = processed(mllm.chat.processor, family, spoken, answered=True)
    prompt = processed(mllm.chat.processor, family, spoken, answered=False)
    assert path.tokens.tolist() == whole["input_ids"][0].tolist()
    assert path.answer_start == prompt["input_ids"].shape[1]
    alone = mllm.chat.prompt(spoken.messages, encoded(mllm.chat, spoken))
    assert alone.tokens.tolist() == prompt["input_ids"][0].tolist()
    assert alone.answer_start == len(alone.tokens)
    for index, image in enumerate(path.images):
        for name, value in image.inputs.items():
            start = sum(len(i.inputs[name]) for i in path.images[:index])
            assert value.equal(whole[name][start : start + len(value)])


def test_one_axis_counts_tokens_and_three_axes_are_the_models_rope(mllms: dict[str, Mllm], family: str) -> None:
    mllm = mllms[family]
    spoken = Spoken(user_turn(QUESTION, 2), [picture(0), picture(1, 64)], "cat")
    path = mllm.chat.answered(spoken.messages, encoded(mllm.chat, spoken), "cat")
    if family != "qwen":
        assert path.positions.tolist() == [list(range(len(path.tokens)))]
        return
    whole = processed(mllm.chat.processor, family, spoken, answered=True)
    names = ("input_ids", "mm_token_type_ids", "image_grid_thw")
    expected, _ = mllm.model.model.get_rope_index(**{name: whole[name] for name in names})
    assert path.positions.tolist() == expected[:, 0].tolist()


def test_a_merge_across_the_boundary_falls_as_in_the_whole_rendering(mllms: dict[str, Mllm]) -> None:
    """ChatML's prompt ends in a line break; an answer that starts with empty lines merges with it."""
    chat = mllms["internvl"].chat
    spoken = Spoken(user_turn(QUESTION), [picture(0)], "\n\ncat")
    path = chat.answered(spoken.messages, encoded(chat, spoken), spoken.answer)
    whole = processed(chat.processor, "internvl", spoken, answered=True)["input_ids"][0].tolist()
    prompt = processed(chat.processor, "internvl", spoken, answered=False)["input_ids"][0].tolist()
    assert whole[: len(prompt)] != prompt, "the test's tokenizer knows no double line break"
    assert path.tokens.tolist() == whole
    assert path.answer_start == len(prompt) - 1


@pytest.mark.parametrize("answer", ANSWERS)
def test_decoding_an_answers_tokens_gives_its_text(mllm: Mllm, answer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mllm.chat.tokenizer, "clean_up_tokenization_spaces", True)  # as some checkpoints ask for
    path = mllm.chat.answered(user_turn(QUESTION, 0), [], answer)
    assert mllm.chat.decode(path.tokens[path.answer_start :].tolist()) == answer


def test_the_end_of_the_turn_is_read_from_the_template(mllm: Mllm, family: str) -> None:
    assert mllm.chat.end_of_turn == ENDS[family]
    assert mllm.chat.end_of_turn_id == mllm.chat.tokenizer.convert_tokens_to_ids(ENDS[family])


def test_the_number_of_images_must_match_the_messages(mllm: Mllm) -> None:
    image = mllm.chat.encode_image(image_of(0), "0")
    with pytest.raises(ThroughlineError, match=r"names 1 images, 2 are given"):
        mllm.chat.prompt(user_turn(QUESTION), [image, image])
    with pytest.raises(ThroughlineError, match=r"names 2 images, 1 are given"):
        mllm.chat.prompt(user_turn(QUESTION + mllm.chat.processor.image_token), [image])


def test_one_tile_unless_more_are_asked_for(checkpoints: dict[str, Path]) -> None:
    wide = image_of(0, 96, 32)
    single = load_mllm(str(checkpoints["internvl"])).chat.encode_image(wide, "0")
    several = load_mllm(str(checkpoints["internvl"]), tiles=4).chat.encode_image(wide, "0")
    assert [len(i.inputs["pixel_values"]) for i in (single, several)] == [1, 4]
    assert several.placeholder_tokens == 4 * single.placeholder_tokens
