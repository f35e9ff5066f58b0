"""A flag of many modules, set for a while: how a model is put into another way of computing and back."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def switched(modules: Iterable[nn.Module], flag: str, value: bool) -> Iterator[None]:
    """The modules with this value of a flag inside; those that had the other have it again afterwards."""
    changed = [module for module in modules if getattr(module, flag) != value]
    for module in changed:
        setattr(module, flag, value)
    try:
        yield
    finally:
        for module in changed:
            setattr(module, flag, not value)
