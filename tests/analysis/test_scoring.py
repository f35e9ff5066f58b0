"""Passages through a model against each sequence by itself, and tokens to disk and back."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from tests.training.small import PROMPTS, STILL, chain_of, settings, with_lora

from throughline.analysis import scoring
from throughline.analysis.passages import Passages
from throughline.analysis.scoring import Scorer
from throughline.analysis.tokens import COLUMNS, read_tokens, tokens_of, write_tokens
from throughline.core.errors import ThroughlineError
from throughline.domains.images import load_image
from throughline.domains.samples import ImageSet
from throughline.mllm.images import ImageReader
from throughline.mllm.load import Mllm
from throughline.training.methods import BOTH
from throughline.training.paths import Example, PathRenderer
from throughline.training.trainer import TreeDataset, train_stage


@pytest.fixture
def scorer(tiny_mllm: Mllm) -> Scorer:
    return Scorer(tiny_mllm, ImageReader(tiny_mllm.chat), PROMPTS)


def passages_of(images: ImageSet, count: int) -> list[Passages]:
    return [
        Passages(one, {"label": one.label, "teacher": chain_of(one.label, i), "self": chain_of("cup", i + 1)})
        for i, one in enumerate(images.samples[:count])
    ]


@torch.no_grad()
def alone(mllm: Mllm, passages: Passages, source: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Ids, NLL and entropy of one text about one image, through the processor's and the model's own calls."""
    question = PROMPTS.label if source == "label" else PROMPTS.reasoning
    user = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}
    processor = mllm.chat.processor
    prompt = processor.apply_chat_template([user], tokenize=False, add_generation_prompt=True)
    image = load_image(passages.sample.path)
    options = {"crop_to_patches": False, "return_tensors": "pt"}
    start = processor(images=[image], text=prompt, **options)["input_ids"].shape[1]
    whole = processor(images=[image], text=prompt + passages.texts[source] + "<|im_end|>", **options)
    logs = torch.log_softmax(mllm.model(**whole, use_cache=False).logits[0, start - 1 : -1].double(), dim=-1)
    ids = whole["input_ids"][0, start:]
    return ids, -logs[torch.arange(len(ids)), ids], -(logs.exp() * logs).sum(dim=-1)


def test_every_token_is_as_in_its_own_sequence(scorer: Scorer, tiny_images: ImageSet, tmp_path: Path) -> None:
    passages = passages_of(tiny_images, 3)
    write_tokens(tmp_path / "t.parquet", scorer.score(passages))
    table = read_tokens(tmp_path / "t.parquet")
    for one in passages:
        for source in one.texts:
            mine = table[(table.sample_id == one.sample.id) & (table.source == source)]
            ids, nll, entropy = alone(scorer.mllm, one, source)
            assert mine.token_id.tolist() == ids.tolist()
            assert np.allclose(mine.nll, nll, atol=1e-4) and np.allclose(mine.entropy, entropy, atol=1e-4)
            assert "".join(mine.text) == one.texts[source]
            assert [kind == "end" for kind in mine.kind] == [False] * (len(mine) - 1) + [True]
    assert set(tokens_of(table, "teacher", "class").stage) == {"CONCLUSION"}


def test_batches_change_no_more_than_rounding(scorer: Scorer, tiny_images: ImageSet, tmp_path, monkeypatch) -> None:
    passages = passages_of(tiny_images, 5)
    write_tokens(tmp_path / "all.parquet", scorer.score(passages))
    monkeypatch.setattr(scoring, "AT_ONCE", 2)
    write_tokens(tmp_path / "two.parquet", scorer.score(passages))
    first, second = read_tokens(tmp_path / "all.parquet"), read_tokens(tmp_path / "two.parquet")
    assert (first.token_id == second.token_id).all() and (first.sample_id == second.sample_id).all()
    assert np.allclose(first.nll, second.nll, atol=1e-4)


def test_what_is_torn_is_not_there(tmp_path: Path) -> None:
    def pieces():
        yield pd.DataFrame([], columns=COLUMNS.names)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_tokens(tmp_path / "t.parquet", pieces())
    assert not (tmp_path / "t.parquet").exists()


def test_a_file_that_is_no_table_is_named(tmp_path: Path) -> None:
    (tmp_path / "t.parquet").write_text("nothing")
    with pytest.raises(ThroughlineError, match="cannot be read"):
        read_tokens(tmp_path / "t.parquet")


def test_training_logs_the_same_class_probability(tiny_mllm: Mllm, tiny_images: ImageSet, tmp_path: Path) -> None:
    """A stage that moves nothing logs what the analysis finds in the same weights: mean over images of their tokens."""
    model = with_lora(tiny_mllm)
    reader = ImageReader(tiny_mllm.chat)
    passages = passages_of(tiny_images, 6)

    def tree(index: int):
        one = passages[index]
        example = Example((reader.encode(one.sample),), one.sample.label, one.texts["teacher"])
        return BOTH.tree(PathRenderer(tiny_mllm.chat, PROMPTS), example)

    stage = settings(epochs=1, batch=6, micro_batch=3, **STILL)
    _, (line,) = train_stage(
        model,
        TreeDataset(6, tree),
        tiny_mllm.collate,
        stage,
        objective=BOTH,
        seed=0,
        folder=tmp_path / "stage",
        log_steps=1,
    )
    scorer = Scorer(tiny_mllm, reader, PROMPTS)
    write_tokens(tmp_path / "t.parquet", scorer.score(passages))
    table = read_tokens(tmp_path / "t.parquet")
    for source, branch in (("label", "label"), ("teacher", "chain")):
        mine = tokens_of(table, source, "class")
        by_image = [mine.probability[mine.sample_id == one.sample.id].mean() for one in passages]
        assert line.class_probability[branch] == pytest.approx(np.mean(by_image), abs=1e-4)
