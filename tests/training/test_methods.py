"""The method table: what goes on from what, and methods of a user's own."""

from pathlib import Path

import pytest

from throughline.core.errors import ThroughlineError
from throughline.training.methods import METHODS, method_table, parent_of

OWN = Path(__file__).with_name("my_method.py")


def test_a_method_goes_on_from_the_one_that_has_its_first_stages():
    parents = {name: parent.name if (parent := parent_of(method)) else None for name, method in METHODS.items()}
    paired = (name for name in METHODS if name.startswith(("cfp", "dpo")))
    from_mtct = dict.fromkeys(("mtct_sarr", *paired), "mtct")
    assert parents == dict.fromkeys(METHODS) | {"sarr": "reasoning", **from_mtct}


def test_a_users_own_method_is_a_line_in_the_table_behind_what_it_goes_on_from():
    table = method_table(["zero_shot", f"{OWN}:PREFERENCE"])
    assert list(table) == ["zero_shot", "cls", "preference"]
    own = table["preference"]
    assert len(own.stages) == 2 and not own.needs_chains and len(own.source) == 64


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("NAME = 3", "no Method called NAME"),
        ("import nonsense_that_is_not_there", "fails: ModuleNotFoundError"),
        ("from throughline.training.methods import METHODS\nNAME = METHODS['cls']", "another method has the name cls"),
        (
            "from throughline.training.methods import Method\nNAME = Method('mine', (), 'labels', loss='clip_lora')",
            "the loss clip_lora is a method on CLIP",
        ),
    ],
)
def test_a_file_without_a_method_is_one_line(tmp_path, text, what):
    path = tmp_path / "own.py"
    path.write_text(text)
    with pytest.raises(ThroughlineError, match=what):
        method_table([f"{path}:NAME"])


def test_a_file_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(ThroughlineError, match="no such method file"):
        method_table([f"{tmp_path}/absent.py:NAME"])
