"""The chains whose length a prediction takes: a sample of a journal's, of the describer's own, or none at all.

Chains that the model will write about itself in the rounds are taken to be as long as those it learnt from.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from throughline.chains.formats import FORMATS
from throughline.chains.journal import scan_journal
from throughline.chains.records import FAILED, Candidate
from throughline.domains.samples import ImageSet
from throughline.drawn.describer import DescriberSettings, describe
from throughline.drawn.scenes import Scene
from throughline.drawn.world import planned_scenes, read_scenes
from throughline.experiment.config import RunConfig
from throughline.experiment.preparation import journal_paths
from throughline.teaching.estimating import CHAIN_TOKENS

SAMPLE = 300
"""Chains that are looked at: their mean is then known to a few per cent."""


@dataclass(frozen=True)
class ChainSample:
    """`texts` of chains, empty where none are to be had; `source` says in a sentence where the length comes from."""

    texts: tuple[str, ...]
    source: str

    @property
    def measured(self) -> tuple[str, ...] | int:
        """What `tokens.count_paths` takes."""
        return self.texts or CHAIN_TOKENS


def sample_chains(config: RunConfig, images: ImageSet) -> ChainSample:
    """From the config's journal, or the describer's where it is the teacher."""
    settings = config.chains
    if settings.journal is not None:
        found = _journal_texts(settings.journal, settings.format)
        if found:
            return ChainSample(found, f"chain length: mean of the first {len(found)} chains of the journal")
    elif settings.teacher == "describer":
        found = _described(config, images)
        return ChainSample(found, f"chain length: mean of {len(found)} chains of the describer")
    return ChainSample((), f"chain length: {CHAIN_TOKENS} tokens, an assumption of ours")


def _journal_texts(journal: str, format: str) -> tuple[str, ...]:
    def texts() -> Iterator[str]:
        for _, _, record in scan_journal(journal_paths(journal)):
            if not isinstance(record, Candidate) or record.finish_reason in {FAILED, "length"}:
                continue
            if record.format == format:
                yield record.text

    return tuple(islice(texts(), SAMPLE))


def _described(config: RunConfig, images: ImageSet) -> tuple[str, ...]:
    """Faultless chains, as accepted ones are, about every n-th scene."""
    drawn, form = config.data.drawn, FORMATS[config.chains.format]
    if drawn is not None:
        scenes = [(name, scene) for name, _, scene in planned_scenes(per_class=drawn.per_class, seed=drawn.seed)]
    else:
        scenes = list(read_scenes(Path(images.root)).items())
    chosen: list[tuple[str, Scene]] = scenes[:: max(1, len(scenes) // SAMPLE)]
    faultless, seed = DescriberSettings(format_faults=0.0), drawn.seed if drawn is not None else 0
    return tuple(describe(scene, seed=seed, sample_id=name, format=form, settings=faultless) for name, scene in chosen)
