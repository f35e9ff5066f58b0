"""Levels of the factors of an evaluation: what they set in a config, and what is read from their names."""

from pathlib import Path

import pytest

from throughline.chains.answers import parse_answer
from throughline.core.errors import ThroughlineError
from throughline.domains.corruptions import CORRUPTIONS
from throughline.experiment.config_files import load_config
from throughline.ood.factors import (
    CONTROLS,
    PAPER,
    example_kinds,
    example_levels,
    examples_of_level,
    prompt_levels,
    view_levels,
)
from throughline.questions.wording import with_options


def test_views_are_named_by_kind_and_severity() -> None:
    levels = view_levels(["fog"], [1, 5], seed=7)
    assert levels == {
        "clean": {},
        "fog-1": {"evaluation.view": {"kind": "fog", "severity": 1, "seed": 7}},
        "fog-5": {"evaluation.view": {"kind": "fog", "severity": 5, "seed": 7}},
    }
    assert len(view_levels(["all"], [1, 3, 5], 0)) == 1 + 3 * len(CORRUPTIONS)
    assert [*view_levels(["occlusion_grey"], [0.25], 0)] == ["clean", "occlusion_grey-0.25"]


def test_no_shots_are_one_level_and_what_is_not_drawn_has_one_draw() -> None:
    levels = example_levels([0, 2], example_kinds(["target", "nearest"]), draws=3)
    assert {name: examples_of_level(name) for name in levels if name != "0"} == {
        **{f"2 target {draw}": ("target", draw) for draw in range(3)},
        "2 nearest 0": ("nearest", 0),
    }
    assert levels["0"] == {} and all(levels[name]["evaluation.examples"]["shots"] == 2 for name in [*levels][1:])
    assert examples_of_level("few") == ("few", 0), "of another's making"
    with pytest.raises(ThroughlineError, match="no examples of kind nearst"):
        example_kinds(["nearst"])


def test_orders_are_further_draws_of_what_is_shown() -> None:
    levels = example_levels([4], example_kinds(["target", "knn", "nearest", "lora"]), draws=2, orders=3)
    keys = {
        name: (own["evaluation.examples"]["seed"], own["evaluation.examples"]["order"]) for name, own in levels.items()
    }
    assert keys == {
        **{f"4 target {number}": (number // 3, number % 3) for number in range(6)},
        **{f"4 {kind} {draw}": (draw, 0) for kind in ("knn", "lora") for draw in range(2)},
        **{f"4 nearest {order}": (0, order) for order in range(3)},
    }


def test_shares_and_strengths_are_kinds_of_their_own() -> None:
    kinds = example_kinds(["knn"], ["hot dog=3, bowl=1"], [0, 0.5], knn={"vote": 3})
    assert kinds == {
        "knn": {"domains": "target", "vote": 3},
        "hot dog=3, bowl=1": {"domains": "target", "shares": {"hot dog": "3", "bowl": "1"}},
        "spurious 0": {"domains": "sources", "spurious": 0},
        "spurious 0.5": {"domains": "sources", "spurious": 0.5},
    }
    levels = example_levels([2], kinds, draws=2)
    assert [examples_of_level(name) for name in levels] == [(kind, draw) for kind in kinds for draw in range(2)]
    for wrong in ("cup", "cup=", "cup=many", "cup=3,"):
        levels = example_levels([2], example_kinds([], [wrong]), 1)
        with pytest.raises(ThroughlineError, match=r"factors.examples.2 cup.*: a valid number"):
            load_config("demo", changes={"methods": ["zero_shot"], "factors": {"examples": levels}})


def test_every_level_fits_into_a_config_and_is_only_about_asking() -> None:
    levels = {
        "view": view_levels(["all"], [1, 5], 0),
        "examples": example_levels([0, 1, 8], example_kinds(CONTROLS, ["car=3,raft=1"], [0.5]), 2),
        "prompt": prompt_levels(["ours", "paper"]),
    }
    config = load_config("demo", changes={"methods": ["zero_shot"], "factors": levels})
    assert config.asked_factors == ("view", "examples")
    assert config.at(config.data, {"view": "fog-5"}).evaluation.view.severity == 5


def test_a_prompt_of_the_users_is_called_after_its_file(tmp_path: Path) -> None:
    own = tmp_path / "short.txt"
    own.write_text("Name it: {options}")
    assert prompt_levels(["ours", str(own)]) == {"ours": {}, "short": {"questions.label": "Name it: {options}"}}
    own.write_text("Name it")
    with pytest.raises(ThroughlineError, match=r"no \{options\}"):
        prompt_levels([str(own)])


@pytest.mark.parametrize("other", ["q.txt", "b/short.txt", "own.yaml"])
def test_two_wordings_of_one_name_are_refused(tmp_path: Path, other: str) -> None:
    first, second = tmp_path / "short.txt", tmp_path / other
    second.parent.mkdir(exist_ok=True)
    for path in (first, second):
        path.write_text("short: {label: 'Name it: {options}'}" if path.suffix == ".yaml" else "Name it: {options}")
    if other == "q.txt":
        assert set(prompt_levels([str(first), str(second)])) == {"short", "q"}
    else:
        with pytest.raises(ThroughlineError, match="two wordings are called short"):
            prompt_levels([str(first), str(second)])


def test_a_file_of_wordings_has_a_level_for_each_and_for_what_is_described_in_it(tmp_path: Path) -> None:
    own = tmp_path / "wordings.yaml"
    own.write_text(
        "expert: {frame: You are a potter., descriptions: {cup: basin, bowl: [rim, no handle]}}\n"
        "plain: {label: 'Which? {options}'}\n"
    )
    told = {
        "questions.frame": "You are a potter.",
        "questions.descriptions": {"cup": "basin", "bowl": ["rim", "no handle"]},
    }
    assert prompt_levels(["ours", str(own)]) == {
        "ours": {},
        "expert": told,
        "expert described": {**told, "evaluation.described": True},
        "plain": {"questions.label": "Which? {options}"},
    }
    for text, said in (
        ("- expert", "not a mapping"),
        ("a: [", "YAML"),
    ):
        own.write_text(text)
        with pytest.raises(ThroughlineError, match=said):
            prompt_levels([str(own)])
    own.write_text("expert: a potter")
    with pytest.raises(ThroughlineError, match=r"factors.prompt.expert.*no \{options\}"):
        load_config("demo", changes={"factors": {"prompt": prompt_levels([str(own)])}})
    own.write_text("expert: {farme: You are a potter.}")
    with pytest.raises(ThroughlineError, match=r"factors.prompt.expert .*farme: did you mean questions.frame"):
        load_config("demo", changes={"factors": {"prompt": prompt_levels([str(own)])}})


def test_answers_in_the_papers_format_are_read() -> None:
    classes = ("pen", "pencil", "alarm_clock")
    asked = with_options(PAPER, classes)
    assert "Choice list:[pen, pencil, alarm clock]\n" in asked
    for label in classes:
        said = f"---BEGIN FORMAT TEMPLATE---\nAnswer Choice: [{label.replace('_', ' ')}]\n---END FORMAT TEMPLATE---"
        assert parse_answer(said, classes).label == label
