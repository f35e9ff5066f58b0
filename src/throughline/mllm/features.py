"""What a model makes of an image, point by point: vision tower, projector, every layer of the decoder.

For probes (is the class still there to be read?) and for choosing examples that look alike. One pass over an image
gives all points, and images of one shape share it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from throughline.mllm.chat import EncodedImage, EncodedPrompt, join_inputs
from throughline.mllm.load import Mllm
from throughline.mllm.lora import base_of
from throughline.mllm.tree import image_places

TOWER, PROJECTOR = "tower", "projector"


@torch.no_grad()
def image_features(mllm: Mllm, image: EncodedImage) -> dict[str, Tensor]:
    """What the vision tower gives, and what the decoder is given of it: float32 `(width,)` each, means over tiles and
    tokens."""
    with mllm.evaluating():
        return _means(_encoded(mllm, [image]), 1)[0]


def batch_key(mllm: Mllm, prompt: EncodedPrompt) -> tuple[int, object]:
    """The number of tokens, and the shapes of the images: prompts alike in both may go through the model together."""
    images = [{name: tuple(value.shape) for name, value in image.inputs.items()} for image in prompt.images]
    return len(prompt.path(mllm.chat).tokens), images


@torch.no_grad()
def point_features(mllm: Mllm, prompts: Sequence[EncodedPrompt]) -> list[dict[str, Tensor]]:
    """The last image of each prompt at every point: `image_features`; and for each layer of the decoder `layer 3,
    image`, the mean over the image's tokens, and `layer 3, last`, the prompt's last token. Float32 `(width,)` each. The
    prompts have one shape.

    Layer 0 is what goes into the decoder, layer n what comes out of its n-th layer; the last one is normed.
    """
    paths = [prompt.path(mllm.chat) for prompt in prompts]
    tokens = torch.from_numpy(np.stack([path.tokens for path in paths])).to(mllm.device)
    positions = torch.from_numpy(np.stack([path.positions for path in paths], axis=1)).to(mllm.device)
    with mllm.evaluating():
        encoded = [_encoded(mllm, images) for images in zip(*(prompt.images for prompt in prompts), strict=True)]
        output = base_of(mllm.model).model(
            input_ids=tokens,
            position_ids=positions[0] if len(positions) == 1 else positions,
            mm_encoder_outputs={"image": _joined(encoded, len(prompts))},
            output_hidden_states=True,
            use_cache=False,
        )
    features = _means(encoded[-1], len(prompts))
    shown = [torch.from_numpy(image_places(path, mllm.chat.image_token_id)[-1]).to(mllm.device) for path in paths]
    for layer, states in enumerate(output.hidden_states):
        for own, row, places in zip(features, states.float(), shown, strict=True):
            own[f"layer {layer}, image"] = row[places].mean(dim=0).cpu()
            own[f"layer {layer}, last"] = row[-1].cpu()
    return features


def _encoded(mllm: Mllm, images: Sequence[EncodedImage]) -> Any:
    """Images of one shape through tower and projector."""
    inputs = {name: value.to(mllm.device) for name, value in join_inputs(images).items()}
    return base_of(mllm.model).get_image_features(**inputs, return_dict=True)


def _joined(encoded: Sequence[Any], prompts: int) -> Any:
    """The outputs for the images at each place of the prompts as one for all, prompt by prompt."""
    first, *others = encoded
    if others:
        of_places = zip(*(_parts(own.pooler_output, prompts) for own in encoded), strict=True)
        pieces = [piece for of_prompt in of_places for piece in of_prompt]
        whole = isinstance(first.pooler_output, Tensor)
        first = type(first)(pooler_output=torch.cat(pieces) if whole else [row for own in pieces for row in own])
    return first


def _parts(values: Any, count: int) -> list[Any]:
    """A tensor, or a list of tensors, in so many equal parts."""
    each = len(values) // count
    return [values[place * each : (place + 1) * each] for place in range(count)]


def _means(encoded: Any, images: int) -> list[dict[str, Tensor]]:
    towers, given = (_parts(values, images) for values in (encoded.last_hidden_state, encoded.pooler_output))
    return [_mean(*own) for own in zip(towers, given, strict=True)]


def _mean(tower: Tensor, given: Any) -> dict[str, Tensor]:
    if tower.ndim == 4:  # a map of a convolution tower: (tiles, width, rows, columns)
        tower = tower.flatten(2).transpose(1, 2)
    pieces: Mapping[str, list[Tensor]] = {
        TOWER: [tower],
        PROJECTOR: [given] if isinstance(given, Tensor) else list(given),
    }
    return {
        name: torch.cat([piece.flatten(0, -2) for piece in own]).float().mean(dim=0).cpu()
        for name, own in pieces.items()
    }
