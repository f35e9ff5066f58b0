"""Makes the pocket CLIP: `python bench/pocket_clip.py --out DIR` (about 15 minutes on one slow core; resumes).

A small `CLIPModel` that puts drawn scenes and captions into one space, made for tests and the drawn world. Its vision
tower begins as that of the pocket checkpoint, which saw the same three auxiliary styles; its text tower is new. Several
captions of a batch may be true of an image, and the contrastive loss has all of them as targets. What is decided about
the recipe is decided on scenes it has not seen and on the style mosaic, never on a style that is a domain: `--check
DIR` prints both. The same seed gives the same data and, on the same machine, the same weights.
"""

import argparse
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor
from transformers import (
    AutoTokenizer,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    PreTrainedTokenizerFast,
    get_cosine_schedule_with_warmup,
)

from pocket_sight import POCKET, jitter
from throughline.core.files import write_atomically, write_json
from throughline.core.seeding import generator
from throughline.drawn.concepts import CLASSES, PARTS, family_of
from throughline.drawn.scenes import MAIN_COLOURS, Scene, sample_scene
from throughline.drawn.styles import render
from throughline.drawn.words import listed, named
from throughline.mllm.geometries import WORDS
from throughline.mllm.load import load_mllm

KINDS = ("photo", "picture", "drawing", "painting", "sketch", "image")
TEMPLATES = (*(f"a {kind} of {{}}." for kind in KINDS), "{}.", "this is {}.", "{} in a picture.")
MEAN, DEVIATION = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]  # the pocket's
POSITIONS = 40
STATE = "state.pt"


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the checkpoint; written into its folder."""

    version: int = 1
    seed: int = 0
    styles: tuple[str, ...] = ("blueprint", "cutpaper", "neon")
    scenes: int = 6_000
    steps: int = 500
    batch: int = 64
    lr: float = 1e-3
    tower_lr: float = 5e-4
    vocabulary: int = 500
    width: int = 96
    text_layers: int = 2
    joint: int = 64


@dataclass(frozen=True)
class Caption:
    """A text with what it says of a scene: nothing of its style."""

    text: str
    cls: str | None = None
    colour: str | None = None
    there: tuple[str, ...] = ()
    absent: str | None = None

    def holds(self, scene: Scene) -> bool:
        """Whether all that it says is true of the scene."""
        return (
            self.cls in {None, scene.cls}
            and self.colour in {None, scene.colours.main}
            and set(self.there) <= set(scene.parts)
            and self.absent not in scene.parts
        )


def caption_of(scene: Scene, draw: np.random.Generator) -> Caption:
    """Half of the captions name the class, some of these a colour or parts, too; the others name parts alone."""
    template = TEMPLATES[draw.integers(len(TEMPLATES))]
    parts = [str(part) for part in draw.permutation(list(scene.parts))]
    names_class, with_parts = draw.random() < 0.65, draw.random() < 0.35
    if names_class and not with_parts:
        colour = scene.colours.main if draw.random() < 0.2 else None
        return Caption(template.format(named(f"{colour} {scene.cls}" if colour else scene.cls)), scene.cls, colour)
    shown, deciding = tuple(parts[: draw.integers(1, 4)]), family_of(scene.cls).deciding
    absent = deciding if deciding not in scene.parts and draw.random() < 0.7 else None
    told = listed([named(part) for part in shown]) + (f" and no {absent}" if absent else "")
    thing = named(scene.cls) if names_class else "something"
    return Caption(template.format(f"{thing} with {told}"), scene.cls if names_class else None, None, shown, absent)


def drawn(recipe: Recipe, part: str, styles: Sequence[str], count: int) -> tuple[list[Scene], NDArray[np.uint8]]:
    """Scenes of styles and classes in turn, and their pixels `(scenes, 64, 64, 3)`."""
    scenes, pixels = [], np.empty((count, POCKET.image_size, POCKET.image_size, 3), dtype=np.uint8)
    for index in range(count):
        style, cls = styles[index % len(styles)], CLASSES[index // len(styles) % len(CLASSES)]
        scenes.append(sample_scene(recipe.seed, f"pocket clip {part} {style}", cls, index))
        pixels[index] = np.asarray(render(scenes[-1], style, POCKET.image_size))
    return scenes, pixels


def normalised(pixels: NDArray[np.uint8]) -> Tensor:
    """`(images, 3, 64, 64)` as the image processor gives them."""
    return ((torch.from_numpy(pixels).float() / 255 - torch.tensor(MEAN)) / torch.tensor(DEVIATION)).permute(0, 3, 1, 2)


def tokenizer_for(recipe: Recipe) -> PreTrainedTokenizerFast:
    """Byte-level BPE over captions, with CLIP's two special tokens around a text."""
    draw, texts = generator(recipe.seed, "pocket clip words"), []
    for number in range(4_000):
        texts.append(caption_of(sample_scene(recipe.seed, "words", CLASSES[number % len(CLASSES)], number), draw).text)
    texts += [f" {word}" for word in (*CLASSES, *PARTS, *MAIN_COLOURS, *KINDS)]
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(WORDS), "isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|startoftext|>", "<|endoftext|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=recipe.vocabulary,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{special[0]} $A {special[1]}", special_tokens=[(word, special.index(word)) for word in special]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=special[0],
        eos_token=special[1],
        pad_token=special[1],
        model_max_length=POSITIONS,
    )


def new_model(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> Any:
    """The pocket's tower with a new class token and projection, and a new text tower."""
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    model = CLIPModel(
        CLIPConfig(
            text_config={
                "vocab_size": len(tokenizer),
                "hidden_size": recipe.width,
                "intermediate_size": 4 * recipe.width,
                "num_hidden_layers": recipe.text_layers,
                "num_attention_heads": 4,
                "max_position_embeddings": POSITIONS,
                "pad_token_id": tokenizer.pad_token_id,
                **ids,
            },
            vision_config={
                "hidden_size": POCKET.vision["hidden_size"],
                "intermediate_size": POCKET.vision["intermediate_size"],
                "num_hidden_layers": POCKET.vision["num_hidden_layers"],
                "num_attention_heads": POCKET.vision["num_attention_heads"],
                "image_size": POCKET.image_size,
                "patch_size": POCKET.patch_size,
                "hidden_act": "gelu",
                "layer_norm_eps": 1e-6,
            },
            projection_dim=recipe.joint,
        )
    )
    for name, weight in model.named_parameters():  # its own start suits widths near 1,000, as geometries.yaml says
        if weight.dim() == 2 and name.startswith("text_model"):
            torch.nn.init.normal_(weight, std=0.07)
    with torch.no_grad():
        _take_tower(model.vision_model, load_mllm("pocket").model.model.vision_tower)
    return model


def _take_tower(ours: Any, theirs: Any) -> None:
    """InternVL's tower in CLIP's words: the bias of patches goes into their positions, scales of layers into weights.
    CLIP normalises embeddings before the first layer; one scale for all channels gives them their size back."""
    embeddings, projection = theirs.embeddings, theirs.embeddings.patch_embeddings.projection
    ours.embeddings.class_embedding.copy_(embeddings.cls_token.flatten())
    ours.embeddings.patch_embedding.weight.copy_(projection.weight)
    positions = embeddings.position_embeddings[0].clone()
    positions[1:] += projection.bias
    ours.embeddings.position_embedding.weight.copy_(positions)
    ours.pre_layrnorm.weight.fill_(float(positions[1:].std(1).mean()))
    for own, other in zip(ours.encoder.layers, theirs.encoder.layer, strict=True):
        for name in ("q_proj", "k_proj", "v_proj"):
            getattr(own.self_attn, name).weight.copy_(getattr(other.attention, name).weight)
            getattr(own.self_attn, name).bias.zero_()
        layer, scale = other.attention.projection_layer, other.lambda_1
        own.self_attn.out_proj.weight.copy_(scale[:, None] * layer.weight)
        own.self_attn.out_proj.bias.copy_(scale * layer.bias)
        own.mlp.fc1.load_state_dict(other.mlp.fc1.state_dict())
        own.mlp.fc2.weight.copy_(other.lambda_2[:, None] * other.mlp.fc2.weight)
        own.mlp.fc2.bias.copy_(other.lambda_2 * other.mlp.fc2.bias)
        own.layer_norm1.load_state_dict(other.layernorm_before.state_dict())
        own.layer_norm2.load_state_dict(other.layernorm_after.state_dict())


def contrastive_loss(logits: Tensor, true: Tensor) -> Tensor:
    """Of `(images, captions)`: in both directions the cross-entropy to equal shares of all that is true."""
    both = ((logits, true), (logits.T, true.T))
    return torch.stack([F.cross_entropy(rows, holds / holds.sum(1, keepdim=True)) for rows, holds in both]).sum()


def make(recipe: Recipe, out: Path) -> None:
    """Trains, or goes on from `state.pt`, and saves weights (float16), tokenizer, image processor and `recipe.json`."""
    torch.manual_seed(recipe.seed)
    scenes, pixels = drawn(recipe, "train", recipe.styles, recipe.scenes)
    print(f"{len(scenes)} scenes drawn", flush=True)
    tokenizer = tokenizer_for(recipe)
    model = new_model(recipe, tokenizer)
    tower = list(model.vision_model.parameters())
    rest = [weight for name, weight in model.named_parameters() if not name.startswith("vision_model")]
    groups: list[dict[str, Any]] = [{"params": rest}, {"params": tower, "lr": recipe.tower_lr}]
    optimiser = torch.optim.AdamW(groups, lr=recipe.lr, weight_decay=0.05)
    schedule = get_cosine_schedule_with_warmup(optimiser, recipe.steps // 20, recipe.steps)
    parts, done, state = {"model": model, "optimiser": optimiser, "schedule": schedule}, 0, out / STATE
    if state.is_file():
        kept = torch.load(state, weights_only=True)
        done = kept.pop("done")
        for name, value in kept.items():
            parts[name].load_state_dict(value)
    per_pass = recipe.scenes // recipe.batch
    model.train()
    for step in range(done, recipe.steps):
        draw = generator(recipe.seed, "pocket clip step", step)
        order = generator(recipe.seed, "pocket clip pass", step // per_pass).permutation(recipe.scenes)
        index = order[step % per_pass * recipe.batch :][: recipe.batch]
        captions = [caption_of(scenes[number], draw) for number in index]
        true = torch.tensor([[caption.holds(scenes[number]) for caption in captions] for number in index]).float()
        said = tokenizer([caption.text for caption in captions], padding=True, return_tensors="pt")
        logits = model(**said, pixel_values=jitter(normalised(pixels[index]), draw)).logits_per_image
        loss = contrastive_loss(logits, true)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        with torch.no_grad():
            model.logit_scale.clamp_(max=np.log(100))
        if (step + 1) % 50 == 0:
            print(f"step {step + 1}/{recipe.steps} loss {loss.item():.3f}", flush=True)
            buffer = io.BytesIO()
            torch.save({"done": step + 1, **{name: part.state_dict() for name, part in parts.items()}}, buffer)
            write_atomically(state, buffer.getvalue())
    model.half().save_pretrained(str(out))
    tokenizer.save_pretrained(str(out))
    side = {"height": POCKET.image_size, "width": POCKET.image_size}
    CLIPImageProcessor(size=side, do_center_crop=False, image_mean=MEAN, image_std=DEVIATION).save_pretrained(str(out))
    write_json(out / "recipe.json", asdict(recipe))
    state.unlink(missing_ok=True)
    check(recipe, out)


@torch.inference_mode()
def check(recipe: Recipe, folder: Path) -> None:
    """Zero-shot accuracy on new scenes of the styles it saw and of mosaic, which it did not."""
    model: Any = CLIPModel.from_pretrained(str(folder), dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = [template.format(named(name)) for name in CLASSES for template in TEMPLATES]
    words = model.get_text_features(**tokenizer(texts, padding=True, return_tensors="pt")).pooler_output
    centres = F.normalize(F.normalize(words, dim=-1).view(len(CLASSES), len(TEMPLATES), -1).mean(1), dim=-1)
    for styles in (recipe.styles, ("mosaic",)):
        scenes, pixels = drawn(recipe, "check", styles, 360)
        seen = model.get_image_features(pixel_values=normalised(pixels)).pooler_output
        right = (seen @ centres.T).argmax(1) == torch.tensor([CLASSES.index(scene.cls) for scene in scenes])
        print(f"{', '.join(styles)}: {right.float().mean():.3f} of {len(scenes)} right, chance {1 / len(CLASSES):.3f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="make the pocket CLIP")
    parser.add_argument("--out", type=Path, help="folder to write")
    parser.add_argument("--check", type=Path, help="a folder that it was written to: how it does on auxiliary styles")
    arguments = parser.parse_args()
    if arguments.check is not None:
        check(Recipe(), arguments.check)
    elif arguments.out is not None:
        arguments.out.mkdir(parents=True, exist_ok=True)
        make(Recipe(), arguments.out)
    else:
        parser.error("name --out or --check")
