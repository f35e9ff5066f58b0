"""What a model makes of an image, point by point: vision tower, projector, every layer of the decoder.

For probes (is the class still there to be read?) and for choosing examples that look alike. One pass over an image
gives all points.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from throughline.mllm.chat import EncodedImage, EncodedPrompt
from throughline.mllm.load import Mllm
from throughline.mllm.lora import base_of
from throughline.mllm.tree import image_places

TOWER, PROJECTOR = "tower", "projector"


@torch.no_grad()
def image_features(mllm: Mllm, image: EncodedImage) -> dict[str, Tensor]:
    """What the vision tower gives, and what the decoder is given of it: float32 `(width,)` each, means over tiles and
    tokens."""
    with mllm.evaluating():
        return _means(_encoded(mllm, image))


@torch.no_grad()
def point_features(mllm: Mllm, prompt: EncodedPrompt) -> dict[str, Tensor]:
    """The last image of a prompt at every point: `image_features`; and for each layer of the decoder `layer 3, image`,
    the mean over the image's tokens, and `layer 3, last`, the prompt's last token. Float32 `(width,)` each.

    Layer 0 is what goes into the decoder, layer n what comes out of its n-th layer; the last one is normed.
    """
    path = prompt.path(mllm.chat)
    tokens = torch.from_numpy(path.tokens)[None].to(mllm.device)
    positions = torch.from_numpy(path.positions).to(mllm.device)
    with mllm.evaluating():
        encoded = _encoded(mllm, prompt.images[-1])
        others = [_encoded(mllm, image) for image in prompt.images[:-1]]
        output = base_of(mllm.model).model(
            input_ids=tokens,
            position_ids=positions if len(positions) == 1 else positions[:, None],
            mm_encoder_outputs={"image": _joined([*others, encoded])},
            output_hidden_states=True,
            use_cache=False,
        )
    features = _means(encoded)
    shown = torch.from_numpy(image_places(path, mllm.chat.image_token_id)[-1]).to(mllm.device)
    for layer, states in enumerate(output.hidden_states):
        features[f"layer {layer}, image"] = states[0, shown].float().mean(dim=0).cpu()
        features[f"layer {layer}, last"] = states[0, -1].float().cpu()
    return features


def _encoded(mllm: Mllm, image: EncodedImage) -> Any:
    inputs = {name: value.to(mllm.device) for name, value in image.inputs.items()}
    return base_of(mllm.model).get_image_features(**inputs, return_dict=True)


def _joined(encoded: list[Any]) -> Any:
    """The outputs for several images as one for all."""
    first, *others = encoded
    if others:
        pieces = [own.pooler_output for own in encoded]
        whole = isinstance(first.pooler_output, Tensor)
        first = type(first)(pooler_output=torch.cat(pieces) if whole else [row for own in pieces for row in own])
    return first


def _means(encoded: Any) -> dict[str, Tensor]:
    tower, given = encoded.last_hidden_state, encoded.pooler_output
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
