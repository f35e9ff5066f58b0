import pytest

from generated import generated_block, replace_generated
from throughline.core.errors import ThroughlineError

TEXT = "before\n<!-- generated: demo -->\nold\n<!-- /generated -->\nafter\n<!-- generated: b --><!-- /generated -->\n"


def test_only_what_stands_between_the_markers_changes() -> None:
    changed = replace_generated(TEXT, "demo", "| a |\n|---|\n")
    assert changed.startswith("before\n<!-- generated: demo -->\n\n| a |\n|---|\n\n<!-- /generated -->\nafter")
    assert changed.endswith(TEXT[TEXT.index("\nafter") :])
    assert generated_block(changed, "demo") == "| a |\n|---|"


def test_doing_it_twice_changes_nothing_and_signs_stay_literal() -> None:
    block = r"a \1 $ \g<0>"
    once = replace_generated(TEXT, "b", block)
    assert generated_block(once, "b") == block
    assert replace_generated(once, "b", block) == once


@pytest.mark.parametrize(
    "text,what",
    [
        ("nothing", "0 times"),
        (TEXT + TEXT, "2 times"),
        ("<!-- generated: demo --> open", "not closed"),
        ("<!-- generated: demo --> <!-- generated: b --> <!-- /generated -->", "not closed"),
    ],
)
def test_a_missing_doubled_or_open_marker_is_named(text: str, what: str) -> None:
    with pytest.raises(ThroughlineError, match=what):
        replace_generated(text, "demo", "x")
