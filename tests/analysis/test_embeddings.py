"""Vectors of images and chains against direct calls of the model, and CLIP from a folder."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tests.mllm.tiny import FAMILIES, write_checkpoint

from throughline.analysis.embeddings import ClipTowers, OwnTowers, rows_of
from throughline.analysis.passages import CLASS, TEXT, Word
from throughline.core.errors import ThroughlineError
from throughline.domains.images import load_image
from throughline.domains.samples import ImageSet
from throughline.mllm.images import ImageReader
from throughline.mllm.load import load_mllm

TEXTSAID = "the handle of a cat"


@pytest.fixture(params=FAMILIES)
def towers(request, tmp_path: Path) -> OwnTowers:
    mllm = load_mllm(str(write_checkpoint(request.param, tmp_path)))
    return OwnTowers(mllm, ImageReader(mllm.chat))


def test_an_image_is_the_mean_of_what_the_decoder_is_given(towers: OwnTowers, tiny_images: ImageSet) -> None:
    samples = tiny_images.samples[:3]
    rows = rows_of(map(towers.image, samples))
    assert rows.shape[0] == 3 and not np.allclose(rows[0], rows[1])
    processor, model = towers.mllm.chat.processor, towers.mllm.model
    prompt = processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "image"}]}], tokenize=False, add_generation_prompt=True
    )
    seen = {}
    hook = model.model.language_model.register_forward_pre_hook(
        lambda module, args, options: seen.update(options), with_kwargs=True
    )
    options = towers.mllm.chat.image_options
    whole = processor(images=[load_image(samples[0].path)], text=prompt, return_tensors="pt", **options)
    with torch.no_grad():
        model(**whole)
    hook.remove()
    placeholders = whole["input_ids"][0] == towers.mllm.chat.image_token_id
    expected = seen["inputs_embeds"][0, placeholders].mean(dim=0)
    assert np.allclose(rows[0], expected, atol=1e-4)


def test_a_chain_is_the_mean_of_its_own_states(towers: OwnTowers) -> None:
    tokenizer = towers.mllm.chat.tokenizer
    ids = tokenizer(TEXTSAID, add_special_tokens=False)["input_ids"]
    words = [Word(str(i), "", CLASS if i % 2 else TEXT) for i in ids]
    whole = towers.chain(TEXTSAID, words, lambda word: True)
    some = towers.chain(TEXTSAID, words, lambda word: word.kind == CLASS)
    with torch.no_grad():
        states = towers.mllm.model.model.language_model(input_ids=torch.tensor([ids])).last_hidden_state[0]
    odd = [place for place, i in enumerate(ids) if i % 2]
    assert np.allclose(whole, states.mean(dim=0), atol=1e-4)
    assert np.allclose(some, states[odd].mean(dim=0), atol=1e-4)
    assert not towers.chain(TEXTSAID, words, lambda word: False).any()


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor

    folder = tmp_path_factory.mktemp("clip")
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    tokenizer = load_mllm(str(write_checkpoint("qwen", folder / "t"))).chat.tokenizer
    text = {**small, "vocab_size": len(tokenizer), "max_position_embeddings": 77, "eos_token_id": 2}
    vision = {**small, "image_size": 32, "patch_size": 16}
    torch.manual_seed(0)
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).save_pretrained(folder / "clip")
    size = {"height": 32, "width": 32}
    images = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=size)
    tokenizer.model_max_length = 77
    CLIPProcessor(images, tokenizer).save_pretrained(folder / "clip")
    return folder / "clip"


def test_clip_gives_its_own_embeddings(clip: Path, tiny_images: ImageSet) -> None:
    towers = ClipTowers(str(clip))
    rows = rows_of(map(towers.image, tiny_images.samples[:2]))
    inputs = towers.clip.processor(images=load_image(tiny_images.samples[1].path), return_tensors="pt")
    with torch.no_grad():
        seen = towers.clip.model.vision_model(pixel_values=inputs["pixel_values"]).pooler_output
        expected = towers.clip.model.visual_projection(seen)[0]
    assert rows.shape == (2, 8) and np.allclose(rows[1], expected, atol=1e-5)
    words = [[Word("A cat. ", "", TEXT), Word("A dog.", "", CLASS)], [Word("A cat.", "", TEXT)], []]
    chains = rows_of(towers.chain("", said, lambda word: True) for said in words)
    apart = rows_of(towers.chain("", [word], lambda word: True) for word in words[0])
    assert np.allclose(chains[0], apart.mean(axis=0), atol=1e-5)  # the mean over its sentences
    assert np.allclose(chains[1], apart[0], atol=1e-5) and not chains[2].any()
    assert towers.name == "CLIP (clip)"


def test_no_clip_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ThroughlineError, match=r"^cannot load the checkpoint[^\n]*nothing[^\n]*$"):
        ClipTowers(str(tmp_path / "nothing"))
