"""DomainBed's defaults and random draws, with its formulas written down once more."""

import hashlib

import numpy as np
import pytest

from throughline.baselines.draws import domainbed_draw
from throughline.baselines.settings import BaselineSettings
from throughline.core.errors import ThroughlineError
from throughline.experiment.config import RunConfig


def random_state(hparams_seed: int, trial_seed: int, name: str) -> np.random.RandomState:
    """domainbed/scripts/train.py hashes both seeds, domainbed/hparams_registry.py that hash with the name."""

    def hashed(*values: object) -> int:
        return int(hashlib.md5(str(values).encode("utf-8")).hexdigest(), 16) % (2**31)

    return np.random.RandomState(hashed(hashed(hparams_seed, trial_seed), name))


@pytest.mark.parametrize(("number", "trial"), [(1, 0), (2, 0), (19, 2)])
def test_the_same_seeds_give_domainbeds_draws(number, trial):
    drawn = {key.removeprefix("baselines."): value for key, value in domainbed_draw(number, trial).items()}
    of = lambda name: random_state(number, trial, name)
    assert drawn == {
        "lr": 10 ** of("lr").uniform(-5, -3.5),
        "weight_decay": 10 ** of("weight_decay").uniform(-6, -2),
        "batch_per_domain": int(2 ** of("batch_size").uniform(3, 5.5)),
        "dropout": of("resnet_dropout").choice([0.0, 0.1, 0.5]),
        "irm.weight": 10 ** of("irm_lambda").uniform(-1, 5),
        "irm.anneal_steps": int(10 ** of("irm_penalty_anneal_iters").uniform(0, 4)),
        "coral.weight": 10 ** of("mmd_gamma").uniform(-1, 1),
        "mldg.beta": 10 ** of("mldg_beta").uniform(-1, 1),
        "mldg.meta_test": of("n_meta_test").choice([1, 2]),
    }


def test_defaults_are_those_that_its_table_was_published_with():
    settings = BaselineSettings()
    assert (settings.steps, settings.checkpoint_every, settings.image_size) == (5001, 300, 224)
    assert (settings.lr, settings.batch_per_domain, settings.weight_decay, settings.dropout) == (5e-5, 32, 0, 0)
    assert (settings.irm.weight, settings.irm.anneal_steps, settings.coral.weight) == (100, 500, 1)
    assert (settings.mldg.beta, settings.mldg.meta_test) == (1, 2)
    assert (settings.backbone, settings.freeze_batch_norm) == ("resnet50.tv_in1k", True)


def config(**changes: object) -> RunConfig:
    values = {"name": "trial", "data": {"images": "x", "trial_seed": 1}, "methods": ["erm"]}
    return RunConfig.model_validate(values | changes)


def test_a_search_has_the_draws_behind_the_config_as_it_is_written():
    levels = config(search={"over": "domainbed", "draws": 2}).factors["draw"]
    assert levels == {"0": {}, "1": domainbed_draw(1, 1), "2": domainbed_draw(2, 1)}


def test_without_a_number_of_draws_there_is_no_search():
    with pytest.raises(ValueError, match="set draws"):
        config(search={"over": "domainbed"})


def test_a_method_has_its_own_group_alone_among_its_inputs():
    settings = BaselineSettings(weights="random")
    changed = settings.model_copy(update={"coral": settings.coral.model_copy(update={"weight": 2.0})})
    assert settings.inputs("erm") == changed.inputs("erm") and "coral" not in settings.inputs("erm")
    assert settings.inputs("coral") != changed.inputs("coral")


def test_the_content_of_a_file_of_weights_is_an_input_and_not_its_place(tmp_path):
    hashes = []
    for name, content in (("a", b"1"), ("b", b"1"), ("a", b"2")):
        (tmp_path / name).write_bytes(content)
        hashes.append(BaselineSettings(weights=str(tmp_path / name)).inputs("erm")["weights"])
    assert hashes[0] == hashes[1] != hashes[2]


@pytest.mark.parametrize("method", ["mixstyle", "smos"])
def test_what_acts_inside_the_backbone_is_refused_where_that_is_frozen(method):
    with pytest.raises(ThroughlineError, match=f"{method} changes how the backbone is trained"):
        BaselineSettings(weights="random", frozen=True).inputs(method)
