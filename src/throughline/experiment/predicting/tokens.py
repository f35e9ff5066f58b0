"""How many tokens a run's paths have, counted with the checkpoint's own tokenizer and template on the real prompts.

Neither torch nor transformers: `tokenizer.json` is read by `tokenizers`, the template rendered by jinja2 as
transformers renders it. `mllm.chat.Chat` is what this foretells; a test holds the two against each other.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from throughline.chains.prompts import Prompts, class_name
from throughline.domains.samples import ImageSet
from throughline.mllm.shapes import CheckpointShape

TEMPLATES = ("chat_template.jinja", "chat_template.json", "processor_config.json", "tokenizer_config.json")


@dataclass(frozen=True)
class Paths:
    """Tokens of one image's paths, images included.

    `shared` is what both prompts begin with: image and class list. `label` and `chain` are answers with the end of the
    turn, means over samples; `trie` is what all class names together put behind the label prompt, `trie_inner` how many
    of its places (the prompt's last among them) have logits.
    """

    tiles: int
    shared: int
    label_prompt: int
    reasoning_prompt: int
    label: int
    longest_label: int
    trie: int
    trie_inner: int
    chain: int
    longest_chain: int


class PromptCounter:
    """Tokenizer and chat template of a checkpoint folder; raises OSError or ValueError where they cannot be read."""

    def __init__(self, folder: Path, model: CheckpointShape, tiles: int) -> None:
        if not (folder / "tokenizer.json").is_file():
            raise ValueError("no tokenizer.json")
        self._tokenizer = Tokenizer.from_str((folder / "tokenizer.json").read_text(encoding="utf-8"))
        self._settings = _read_json(folder / "tokenizer_config.json")
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
        environment.globals["raise_exception"] = _refuse
        self._template = environment.from_string(_template(folder))
        self._placeholder = self._tokenizer.id_to_token(model.image_token_id)
        # One tile is exact. More follow each image's aspect ratio: counted are the most, and the thumbnail with them.
        self.tiles = tiles + 1 if model.tiles and tiles > 1 else 1
        self.image = model.image_tokens * self.tiles + model.beside_image

    def prompt(self, question: str) -> list[str]:
        """The tokens of image and question up to where the model speaks, the image as often as it has tokens."""
        text = self._render(_question(question), add_generation_prompt=True)
        tokens: list[str] = []
        for token in self._encode(text):
            tokens += [token] * (self.image if token == self._placeholder else 1)
        return tokens

    def answers(self, texts: Sequence[str]) -> list[list[str]]:
        """The tokens of each answer with the end of the turn."""
        lead, end = self._ends
        found = self._tokenizer.encode_batch([lead + text + end for text in texts], add_special_tokens=False)
        return [encoded.tokens for encoded in found]

    @cached_property
    def _ends(self) -> tuple[str, str]:
        """What the template writes before and behind an assistant's words."""
        word, question = "throughline", _question("?")
        said = {"role": "assistant", "content": [{"type": "text", "text": word}]}
        before, _, after = self._render([*question, said], add_generation_prompt=False).rpartition(word)
        prompt = self._render(question, add_generation_prompt=True)
        lead = before[len(prompt) :] if before.startswith(prompt) else ""
        return lead if lead.isspace() else "", after.strip() or _token_text(self._settings.get("eos_token"))

    def _render(self, messages: list[dict[str, Any]], *, add_generation_prompt: bool) -> str:
        special = {key: _token_text(self._settings.get(key)) for key in ("bos_token", "eos_token", "pad_token")}
        return self._template.render(messages=messages, add_generation_prompt=add_generation_prompt, **special)

    def _encode(self, text: str) -> list[str]:
        opening = _token_text(self._settings.get("bos_token"))
        opened = bool(opening) and text.startswith(opening)
        tokens: list[str] = self._tokenizer.encode(text, add_special_tokens=not opened).tokens
        return tokens


def count_paths(counter: PromptCounter, prompts: Prompts, images: ImageSet, chains: Sequence[str] | int) -> Paths:
    """The paths of a run's samples; `chains` are texts to measure, or a number of tokens that is assumed."""
    label, reasoning = counter.prompt(prompts.label), counter.prompt(prompts.reasoning)
    classes = dict(zip(images.classes, counter.answers([class_name(name) for name in images.classes]), strict=True))
    frequency = Counter(label for sample in images.samples for label in sample.labels)
    total = sum(frequency.values()) or 1
    mean = sum(len(classes[name]) * count for name, count in frequency.items()) / total
    nodes = {tuple(answer[: i + 1]) for answer in classes.values() for i in range(len(answer))}
    inner = {node[:-1] for node in nodes}
    lengths = [chains] if isinstance(chains, int) else [len(tokens) for tokens in counter.answers(chains)]
    return Paths(
        tiles=counter.tiles,
        shared=_common_prefix(label, reasoning),
        label_prompt=len(label),
        reasoning_prompt=len(reasoning),
        label=max(1, round(mean)),
        longest_label=max(map(len, classes.values())),
        trie=len(nodes),
        trie_inner=len(inner),
        chain=round(sum(lengths) / len(lengths)),
        longest_chain=max(lengths),
    )


def _question(text: str) -> list[dict[str, Any]]:
    """One turn about one image, as `mllm.chat.user_turn` builds it."""
    return [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}]


def _template(folder: Path) -> str:
    for name in TEMPLATES:
        path = folder / name
        if path.is_file():
            text = path.read_text(encoding="utf-8")
            found = text if path.suffix == ".jinja" else json.loads(text).get("chat_template")
            if isinstance(found, str):
                return found
    raise ValueError("no chat template")


def _read_json(path: Path) -> dict[str, Any]:
    found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return found if isinstance(found, dict) else {}


def _token_text(token: Any) -> str:
    """A special token as its file writes it: a string, or an object with the string as `content`."""
    return str(token.get("content", "")) if isinstance(token, dict) else str(token or "")


def _refuse(message: str) -> None:
    raise ValueError(message)


def _common_prefix(first: Sequence[str], second: Sequence[str]) -> int:
    pairs = zip(first, second, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))
