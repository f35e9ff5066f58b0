"""What is at each point of a model, against a plain call of the family with hooks of torch's own."""

from typing import Any

import torch
from tests.mllm.reference import Spoken, picture, processed
from tests.mllm.tiny import image_of

from throughline.mllm.chat import EncodedImage, EncodedPrompt, user_turn
from throughline.mllm.features import PROJECTOR, TOWER, batch_key, image_features, point_features
from throughline.mllm.load import Mllm

QUESTION = user_turn("What type of object is in this photo?")


def prompt_of(mllm: Mllm, seed: int) -> EncodedPrompt:
    return EncodedPrompt(QUESTION, (mllm.chat.encode_image(image_of(seed), f"picture {seed}"),))


@torch.no_grad()
def test_every_point_is_what_a_plain_pass_has_there(mllm: Mllm, family: str) -> None:
    model, spoken = mllm.model, Spoken(QUESTION, [picture(3)], "")
    inputs = processed(mllm.chat.processor, family, spoken, answered=False)
    held: dict[str, Any] = {}
    hook = model.get_decoder().layers[0].register_forward_hook(lambda module, args, output: held.update(first=output))
    output = model(**inputs, output_hidden_states=True)
    hook.remove()
    (features,) = point_features(mllm, [prompt_of(mllm, 3)])
    layers = len(model.get_decoder().layers)
    assert list(features) == [
        TOWER,
        PROJECTOR,
        *(f"layer {layer}, {where}" for layer in range(layers + 1) for where in ("image", "last")),
    ]
    shown = inputs["input_ids"][0] == mllm.chat.image_token_id
    for layer in range(layers + 1):
        states = output.hidden_states[layer][0]
        torch.testing.assert_close(features[f"layer {layer}, last"], states[-1], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(features[f"layer {layer}, image"], states[shown].mean(0), rtol=1e-4, atol=1e-5)
    first = held["first"] if isinstance(held["first"], torch.Tensor) else held["first"][0]
    torch.testing.assert_close(features["layer 1, last"], first[0, -1], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(features[PROJECTOR], output.hidden_states[0][0][shown].mean(0), rtol=1e-4, atol=1e-5)


def test_an_image_alone_has_the_same_features(mllm: Mllm) -> None:
    prompt = prompt_of(mllm, 1)
    alone, (within,) = image_features(mllm, prompt.images[0]), point_features(mllm, [prompt])
    assert list(alone) == [TOWER, PROJECTOR]
    for name, value in alone.items():
        assert value.dtype == torch.float32 and torch.equal(value, within[name])


def test_of_several_images_the_last_one_counts(mllm: Mllm) -> None:
    first, last = prompt_of(mllm, 1).images[0], prompt_of(mllm, 2).images[0]
    both = behind(first, last)
    (found,), (alone,) = point_features(mllm, [both]), point_features(mllm, [prompt_of(mllm, 2)])
    for name in (TOWER, PROJECTOR):
        torch.testing.assert_close(found[name], alone[name])
    torch.testing.assert_close(found["layer 0, image"], alone["layer 0, image"], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found["layer 1, image"], alone["layer 1, image"], atol=1e-5)


def behind(*images: EncodedImage) -> EncodedPrompt:
    """A question about the last of two images, behind the first one with its label."""
    said = {"role": "assistant", "content": [{"type": "text", "text": "cat"}]}
    return EncodedPrompt([*QUESTION, said, *QUESTION], images)


def test_prompts_of_one_shape_go_together_and_have_what_each_has_alone(mllm: Mllm) -> None:
    images = [prompt_of(mllm, seed).images[0] for seed in range(4)]
    for prompts in ([prompt_of(mllm, seed) for seed in range(3)], [behind(images[n], images[n + 1]) for n in range(3)]):
        assert len({str(batch_key(mllm, prompt)) for prompt in prompts}) == 1
        together = point_features(mllm, prompts)
        for prompt, found in zip(prompts, together, strict=True):
            (alone,) = point_features(mllm, [prompt])
            assert alone.keys() == found.keys()
            for name, value in alone.items():
                torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)
    assert batch_key(mllm, prompts[0]) != batch_key(mllm, prompt_of(mllm, 0))
