"""Asks a teacher behind an endpoint about texts, such as chains. Requests and answers are those of a chain store: what
it holds is never asked for again, whatever killed the command before. Called by `extraction` and `graph_pairs`."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from throughline.chains.formats import ChainFormat
from throughline.chains.store import read_store
from throughline.core.files import content_hash
from throughline.domains.samples import ImageSet, Sample
from throughline.questions.prompt import user_prompt
from throughline.teaching.building import OnProgress, build
from throughline.teaching.endpoint import Endpoints, EndpointTeacher
from throughline.teaching.plan import BuildPlan
from throughline.teaching.prices import price_of
from throughline.teaching.teachers import Brief


@dataclass(frozen=True)
class TextTeacher:
    """`brief` has the model and the parameters of the requests; answers are kept in the folder `store`. Whoever opened
    the endpoints closes them, in the loop of the same `runner`."""

    brief: Brief
    endpoints: Endpoints
    store: Path
    runner: asyncio.Runner
    on_progress: OnProgress = lambda progress: None

    def ask(
        self, template: str, prompts: Mapping[str, str], classes: Sequence[str], format: ChainFormat
    ) -> dict[str, str]:
        """The answers by the name of their prompt; without those to requests that failed for good. The store names the
        prompts' `template`. Raises as `teaching.building.build`."""
        samples = tuple(
            Sample(name, Path(), "", (classes[0],), content_hash(text)) for name, text in sorted(prompts.items())
        )
        brief = replace(self.brief, prompt=template, own=lambda sample: user_prompt(prompts[sample.id]))
        texts = ImageSet("", Path(), (), tuple(classes), samples)
        plan = BuildPlan(texts, format, rule="format", candidates=1, enough=None, go_on=True)
        teacher = EndpointTeacher(brief, self.endpoints, price_of(brief.model))
        self.runner.run(build(plan, teacher, self.store, on_progress=self.on_progress))
        keys = {sample.id: brief.key(sample.image_sha256, 0) for sample in samples}
        answered = read_store(self.store)
        candidates = answered.read(answered.answers.index)
        return {line.sample_id: line.text for line in candidates if keys.get(line.sample_id) == line.key}
