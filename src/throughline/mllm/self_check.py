"""Whether a checkpoint gives here what its own processor and its own model call give: tokens and NLLs.

`load` asks once a checkpoint. Compared are two images, one of odd sizes, with paths of up to 600 tokens: together in
one batch here, each alone there. So a family whose forward pass needs more than tokens, positions and images is found.
Where layers of the decoder attend to the last tokens only, this is repeated with a short window (`_short_window`).
"""

import contextlib
import copy
import inspect
import os
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import cross_entropy

from throughline.core.errors import ThroughlineError
from throughline.core.files import content_hash, file_sha256, write_atomically
from throughline.mllm.chat import Chat, Message, user_turn
from throughline.mllm.chat import Path as TokenPath
from throughline.mllm.forward import score_trees
from throughline.mllm.plan import Plan, sees_all
from throughline.mllm.tree import Leaf, merge_paths

TOKENS = 600
"""Longest path, unless an image alone has more."""
SIZES = ((61, 47), (40, 83))
"""Width and height of the two images, in pixels."""
SENTENCE = " The picture shows a cat, a dog or a boat."
ROUNDING = 2
"""How far a likelihood may be off in half precision, in steps of the type at the largest logit: both sides round their
logits, of which it is a difference."""
WINDOW = 16
"""Tokens that a layer with a window attends to, where that is checked."""
ANSWERS = ("boat", "A cat sits on a boat. It is a cat.")


def check_once(model: Any, chat: Chat, plan: Plan, identity: Mapping[str, Any]) -> None:
    """`check_family`, unless this checkpoint, known by its `identity`, has passed with this code before."""
    code = {file.name: file_sha256(file) for file in Path(__file__).parent.glob("*.py")}
    libraries = {name: version(name) for name in ("transformers", "torch", "tokenizers")}
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "throughline" / "checked"
    passed = cache / content_hash({**identity, "plan": vars(plan), "code": code, "libraries": libraries})
    if not passed.is_file():
        check_family(model, chat, plan)
        with contextlib.suppress(ThroughlineError, OSError):  # then it is done again
            write_atomically(passed, "")


@torch.no_grad()
def check_family(model: Any, chat: Chat, plan: Plan) -> None:
    """Raises a ThroughlineError for what differs."""
    bidirectional = getattr(model.config.get_text_config(), "use_bidirectional_attention", None)
    if bidirectional or "token_type_ids" in inspect.signature(model.forward).parameters:  # would say which tokens
        raise _differs("its decoder lets image or prompt tokens attend to later ones")
    _compare(model, chat, plan)
    if not sees_all(model.config.get_text_config()):
        with _short_window(model):
            _compare(model, chat, plan, f" in layers with a window of {WINDOW} tokens")


def _compare(model: Any, chat: Chat, plan: Plan, where: str = "") -> None:
    sentence_tokens = len(chat.tokenizer(SENTENCE, add_special_tokens=False)["input_ids"])
    trees, theirs = [], []
    for size in SIZES:
        pixels = np.random.default_rng(size).integers(0, 256, (5, 7, 3), dtype=np.uint8)
        image = Image.fromarray(pixels).resize(size)
        encoded, leaves = chat.encode_image(image, str(size)), []
        room = TOKENS - 80 - len(chat.prompt(user_turn(SENTENCE), [encoded]).tokens)
        turn = user_turn(SENTENCE * max(1, room // sentence_tokens))
        for answer in ANSWERS:
            path = chat.answered(turn, [encoded], answer)
            leaves.append(Leaf(path, answer))
            theirs.append(_own_nll(model, chat, turn, image, answer, path))
        trees.append(merge_paths(leaves, chat.image_token_id))
    scores = score_trees(model, plan.collate([trees], chat.pad_id).to(model.device))
    half = model.dtype != torch.float32
    for (own, largest), (_, _, ours) in zip(theirs, scores.per_branch(), strict=True):
        tolerance = ROUNDING * torch.finfo(model.dtype).eps * largest if half else 1e-3 * max(1.0, float(own.mean()))
        difference = float((own - ours).abs().mean())
        if not difference <= tolerance:
            raise _differs(f"likelihoods differ from its own by {difference:.3g} nats a token{where}")


@contextlib.contextmanager
def _short_window(model: Any) -> Iterator[None]:
    """Meanwhile the decoder is one of two random layers of the checkpoint's sizes, between its own embedding and head,
    with a window of `WINDOW` tokens: a plan that ignores a window of thousands shows in no path that is compared."""
    decoder = model.get_decoder()
    config = copy.deepcopy(decoder.config)
    kinds = sorted(set(getattr(config, "layer_types", None) or []), key=lambda kind: (kind == "full_attention", kind))
    if kinds:  # those with a window first
        config.layer_types = (kinds * 2)[:2]
    config.num_hidden_layers, config.sliding_window = 2, WINDOW
    config.initializer_range = config.hidden_size**-0.5  # else attention hardly moves a likelihood
    config.vocab_size, config.pad_token_id = 1, None
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        random = type(decoder)._from_config(config, dtype=model.dtype)
    random.set_input_embeddings(model.get_input_embeddings())
    model.set_decoder(random.to(model.device).eval())
    try:
        yield
    finally:
        model.set_decoder(decoder)


def _own_nll(
    model: Any, chat: Chat, turn: list[Message], image: Image.Image, answer: str, path: TokenPath
) -> tuple[Tensor, float]:
    """`(answer tokens,)` by the processor's and the model's own call, and its largest logit."""
    text, opens = chat.rendered(turn, answer)
    options = {"return_tensors": "pt", "add_special_tokens": opens, **chat.image_options}
    inputs = chat.processor(images=[image], text=[text], **options)
    if inputs["input_ids"][0].tolist() != path.tokens.tolist():
        raise _differs("its processor makes other tokens of a conversation")
    count = len(path.tokens) - path.answer_start
    logits = model(**inputs.to(model.device), use_cache=False, logits_to_keep=count + 1).logits[0, :-1].float()
    nll = cross_entropy(logits, inputs["input_ids"][0, -count:].to(logits.device), reduction="none")
    return nll, float(logits.abs().max())


def _differs(what: str) -> ThroughlineError:
    return ThroughlineError(f"checkpoints of this family do not run here: {what}", do="see docs/howto/family.md")
