"""The loss of counterfactual preference is that of a direct computation, and on one image that of TRL's DPOTrainer."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.mllm.reference import Spoken, nll_alone, picture
from tests.mllm.tiny import image_of
from tests.training.small import PROMPTS, chain_of, with_lora
from torch import Tensor
from torch.nn.functional import logsigmoid

from throughline.core.settings import PreferenceSettings
from throughline.domains.samples import ImageSet
from throughline.mllm.chat import user_turn
from throughline.mllm.forward import score_trees
from throughline.mllm.images import ImageReader
from throughline.mllm.load import Mllm
from throughline.training.objectives import Preference
from throughline.training.paths import Example, PathRenderer

BETA, STEEP = 0.03, 5.0
"""Of sums over tokens and of means; sums of two images are differences of large numbers in float32."""
Side = tuple[int, str]
"""The number of an image, and a chain about it."""
THINKING: list[tuple[Side, Side]] = [
    ((0, chain_of("cat")), (0, chain_of("dog", 2))),
    ((1, chain_of("cup", 1)), (1, chain_of("cat"))),
    ((2, chain_of("dog")), (2, chain_of("cup", 1))),
]
PERCEPTION: list[tuple[Side, Side]] = [
    ((0, chain_of("cat")), (3, chain_of("dog", 1))),
    ((1, chain_of("cup", 2)), (4, chain_of("cat"))),
]


def pairs_of(mllm: Mllm, images: ImageSet, pairs: Sequence[tuple[Side, Side]], weight: float = 1.0) -> list[Example]:
    reader = ImageReader(mllm.chat)

    def side(place: int, chain: str, **more: Any) -> Example:
        return Example((reader.encode(images.samples[place]),), "cat", chain, **more)

    return [side(*chosen, rejected=side(*rejected), weight=weight) for chosen, rejected in pairs]


def loss_of(mllm: Mllm, model: Any, objective: Preference, pairs: Sequence[Example]) -> Tensor:
    """The objective's loss, with the base below the adapter as its reference."""
    trees = [objective.tree(PathRenderer(mllm.chat, PROMPTS), pair) for pair in pairs]
    with torch.no_grad(), model.disable_adapter():
        references = [tuple(score_trees(model, mllm.collate([[tree]])).branch_nll().tolist()) for tree in trees]
    rows = [[tree.with_references(values)] for tree, values in zip(trees, references, strict=True)]
    return objective.loss(score_trees(model, mllm.collate(rows)))


@torch.no_grad()
def gain(mllm: Mllm, model: Any, place: int, chain: str, *, mean: bool) -> Tensor:
    """How much more likely a chain about an image is than under the base, by plain passes."""
    spoken = Spoken(user_turn(PROMPTS.reasoning), [picture(place)], chain)

    def reduced() -> Tensor:
        nll = nll_alone(model, mllm.chat.processor, "internvl", spoken)
        return nll.mean() if mean else nll.sum()

    now = reduced()
    with model.disable_adapter():
        return reduced() - now


@pytest.mark.parametrize("reduce", ["sum", "mean"])
def test_pairs_of_one_image_give_the_loss_of_a_direct_computation(
    tiny_mllm: Mllm, tiny_images: ImageSet, reduce: str
) -> None:
    model = with_lora(tiny_mllm)
    settings = PreferenceSettings(beta=BETA, label_smoothing=0.1, reduce=reduce, anchor=0.5)
    loss = loss_of(tiny_mllm, model, Preference(settings), pairs_of(tiny_mllm, tiny_images, THINKING))
    expected = torch.zeros(())
    for chosen, rejected in THINKING:
        first, second = (gain(tiny_mllm, model, *side, mean=reduce == "mean") for side in (chosen, rejected))
        h = BETA * (first - second)
        expected = expected - 0.9 * logsigmoid(h) - 0.1 * logsigmoid(-h) - 0.5 * logsigmoid(BETA * first)
    assert float(loss.detach()) == pytest.approx(float(expected), rel=1e-5)
    assert abs(float(loss.detach()) - 3 * 1.5 * 0.6931) > 0.002, "the adapter has to matter"


def test_pairs_of_two_images_compare_one_chain_with_either(tiny_mllm: Mllm, tiny_images: ImageSet) -> None:
    model = with_lora(tiny_mllm)
    objective = Preference(PreferenceSettings(beta=STEEP, reduce="mean"))
    loss = loss_of(tiny_mllm, model, objective, pairs_of(tiny_mllm, tiny_images, PERCEPTION))
    expected = torch.zeros(())
    for (own, chain), (other, _) in PERCEPTION:
        first, second = (gain(tiny_mllm, model, image, chain, mean=True) for image in (own, other))
        expected = expected - logsigmoid(STEEP * (first - second))
    assert float(loss.detach()) == pytest.approx(float(expected), rel=1e-5)


def test_the_symmetric_form_prefers_for_either_image_its_own_chain(tiny_mllm: Mllm, tiny_images: ImageSet) -> None:
    model = with_lora(tiny_mllm)
    objective = Preference(PreferenceSettings(beta=STEEP, reduce="mean", symmetric=True))
    loss = loss_of(tiny_mllm, model, objective, pairs_of(tiny_mllm, tiny_images, PERCEPTION))
    expected = torch.zeros(())
    for (own, chain), (other, its_chain) in PERCEPTION:
        for image, good, bad in ((own, chain, its_chain), (other, its_chain, chain)):
            first, second = (gain(tiny_mllm, model, image, text, mean=True) for text in (good, bad))
            expected = expected - logsigmoid(STEEP * (first - second))
    assert float(loss.detach()) == pytest.approx(float(expected), rel=1e-5)


def test_a_weight_acts_on_a_batch_of_one(tiny_mllm: Mllm, tiny_images: ImageSet) -> None:
    model = with_lora(tiny_mllm)
    losses = [
        float(loss_of(tiny_mllm, model, Preference(), pairs_of(tiny_mllm, tiny_images, THINKING[:1], weight)))
        for weight in (0.0, 1.0, 2.0)
    ]
    assert losses[0] == 0
    assert losses[2] == pytest.approx(2 * losses[1])


def test_the_chosen_chain_is_learnt_beside_the_preference(tiny_mllm: Mllm, tiny_images: ImageSet) -> None:
    model, pairs = with_lora(tiny_mllm), pairs_of(tiny_mllm, tiny_images, THINKING)
    with_nll, without = (
        float(loss_of(tiny_mllm, model, Preference(PreferenceSettings(nll=nll)), pairs)) for nll in (0.2, 0.0)
    )
    with torch.no_grad():
        nll = [
            nll_alone(
                model, tiny_mllm.chat.processor, "internvl", Spoken(user_turn(PROMPTS.reasoning), [picture(p)], c)
            )
            for (p, c), _ in THINKING
        ]
    assert with_nll - without == pytest.approx(0.2 * sum(float(values.mean()) for values in nll), rel=1e-4)


def test_what_is_no_pair_is_refused(tiny_mllm: Mllm, tiny_images: ImageSet) -> None:
    renderer = PathRenderer(tiny_mllm.chat, PROMPTS)
    (pair,) = pairs_of(tiny_mllm, tiny_images, PERCEPTION[:1])
    alone = Example(pair.images, "cat", pair.chain)
    with pytest.raises(ValueError, match="no rejected side"):
        Preference().tree(renderer, alone)
    assert pair.rejected is not None
    silent = Example(pair.images, "cat", pair.chain, rejected=Example(pair.rejected.images, "dog"))
    with pytest.raises(ValueError, match="has no chain"):
        Preference(PreferenceSettings(symmetric=True)).tree(renderer, silent)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning")  # of peft and TRL about each other's coming versions
def test_loss_and_gradients_are_those_of_trls_dpo_trainer(
    tiny_mllm: Mllm, tiny_checkpoint: Path, tiny_images: ImageSet, tmp_path: Path
) -> None:
    datasets, trl = pytest.importorskip("datasets"), pytest.importorskip("trl")
    from peft import LoraConfig, get_peft_model_state_dict, set_peft_model_state_dict

    from throughline.mllm.load import load_mllm

    model, chat = with_lora(tiny_mllm), tiny_mllm.chat
    loss = loss_of(
        tiny_mllm, model, Preference(PreferenceSettings(beta=BETA)), pairs_of(tiny_mllm, tiny_images, THINKING)
    )
    (loss / len(THINKING)).backward()

    prompt = chat.processor.apply_chat_template(
        user_turn(PROMPTS.reasoning), tokenize=False, add_generation_prompt=True
    )
    rows = [
        {
            "prompt": prompt,
            "chosen": chosen[1] + chat.end_of_turn,
            "rejected": rejected[1] + chat.end_of_turn,
            "images": [image_of(chosen[0])],
        }
        for chosen, rejected in THINKING
    ]
    processor = copy.copy(chat.processor)
    processor.images_kwargs = {"crop_to_patches": False}  # an image is one tile here, too
    config = trl.DPOConfig(
        output_dir=str(tmp_path),
        beta=BETA,
        per_device_train_batch_size=len(THINKING),
        max_length=None,
        bf16=False,
        use_cpu=True,
        gradient_checkpointing=False,
        report_to="none",
    )
    trainer = trl.DPOTrainer(
        model=load_mllm(str(tiny_checkpoint)).model,
        args=config,
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=processor,
        peft_config=LoraConfig(r=2, lora_alpha=16, lora_dropout=0.0, target_modules=list(model.targeted_module_names)),
    )
    set_peft_model_state_dict(trainer.model, get_peft_model_state_dict(model))
    batch = next(iter(trainer.get_train_dataloader()))
    theirs = trainer.compute_loss(trainer.model, batch)
    theirs.backward()
    assert float(loss.detach()) / len(THINKING) == pytest.approx(float(theirs.detach()), rel=1e-5)
    ours = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    gradients = {name: weight.grad for name, weight in trainer.model.named_parameters() if weight.grad is not None}
    assert ours.keys() == gradients.keys()
    for name, gradient in gradients.items():
        assert float((ours[name] - gradient).norm() / gradient.norm()) < 1e-4, name
    whole = [torch.cat([side[name].flatten() for name in sorted(ours)]) for side in (ours, gradients)]
    assert float((whole[0] - whole[1]).norm() / whole[1].norm()) < 1e-5
