"""Building a reasoning dataset: ask a teacher for up to K chains an image, stop at the first that the rule accepts.

Every answer goes into the journal with its verdicts before the next is asked for. What the store holds is never asked
for again, whatever killed the build before. Accepted chains are what `training` learns from.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from throughline.chains.formats import ChainFormat
from throughline.chains.outcomes import Outcome
from throughline.chains.records import FAILED
from throughline.chains.store import read_store
from throughline.chains.verdicts import judged_answers, with_samples
from throughline.domains.samples import ImageSet
from throughline.teaching.plan import BuildPlan, Clock
from throughline.teaching.recorder import Progress, Recorder
from throughline.teaching.teachers import Teacher

if TYPE_CHECKING:  # brings the openai client
    from throughline.teaching.judge import Judge

OnProgress = Callable[[Progress], None]


def build_chains(
    plan: BuildPlan, teacher: Teacher, store: Path, *, on_progress: OnProgress = lambda _: None
) -> Progress:
    """`build` for those who have no event loop."""
    return asyncio.run(build(plan, teacher, store, on_progress=on_progress))


async def build(
    plan: BuildPlan,
    teacher: Teacher,
    store: Path,
    *,
    judge: Judge | None = None,
    clock: Clock = lambda: None,
    on_progress: OnProgress = lambda _: None,
    stopping: Callable[[], bool] = lambda: False,
) -> Progress:
    """Asks the teacher for what the store lacks. Killed at any moment and called again, it goes on.

    Once `stopping` says so no further request is made; answers under way are waited for.
    ThroughlineError when the store cannot be written, another writer holds the shard, or the teacher says that no
    request can go well; what was answered until then is in the store.
    """
    with closing(Recorder(plan, teacher.brief, store, clock, judge.model if judge else None)) as recorder:
        on_progress(recorder.progress)
        await _Workers(recorder, teacher, judge, on_progress, stopping).run()
        return recorder.progress


@dataclass
class _Workers:
    """As many as the teacher takes calls at once, each with a batch of images at a time."""

    recorder: Recorder
    teacher: Teacher
    judge: Judge | None
    on_progress: OnProgress
    stopping: Callable[[], bool]

    def __post_init__(self) -> None:
        self.ledger = self.recorder.ledger

    async def run(self) -> None:
        leads = self.ledger.leads
        batches = iter(lambda: list(islice(leads, self.teacher.batch)), [])
        ticking = asyncio.create_task(self._tick())
        try:
            async with asyncio.TaskGroup() as workers:
                for _ in range(min(self.teacher.at_once, -(-self.ledger.distinct // self.teacher.batch))):
                    workers.create_task(self._work(batches))
        except ExceptionGroup as several:
            raise several.exceptions[0]  # noqa: B904 (the others were cancelled, or say the same)
        finally:
            ticking.cancel()

    async def _tick(self) -> None:
        """Whoever watches sees time pass, also while no answer comes."""
        while True:
            await asyncio.sleep(1)
            self.on_progress(self.recorder.progress)

    async def _work(self, batches: Iterator[Sequence[int]]) -> None:
        plan, progress = self.recorder.plan, self.recorder.progress
        for batch in batches:
            failed = await self._show_judge(batch)
            for number in range(plan.candidates):
                wanted = [lead for lead in batch if lead not in failed and not self.ledger.enough(lead, number)]
                if all(self.ledger.has(lead, number) for lead in wanted):
                    continue
                if not await self._may_go_on():
                    return
                failed |= await self._ask(wanted, number)
            for lead in batch:
                progress.done += 1
                progress.accepted += self.ledger.accepted_before(lead, plan.candidates) >= (plan.enough or 1)
                progress.failed += lead in failed
            self.on_progress(progress)

    async def _may_go_on(self) -> bool:
        """Waits until it is known what the next request may cost; False where no further one is to be made."""
        while (affordable := self.recorder.affordable()) is None:
            await asyncio.sleep(0.05)
        if self.stopping():
            self.recorder.progress.interrupted = True
        elif not affordable:
            self.recorder.progress.stopped_at_cost = True
        elif self.recorder.fails_trial():
            self.recorder.progress.failed_trial = True
        else:
            return True
        return False

    async def _ask(self, leads: Sequence[int], number: int) -> set[int]:
        """One candidate for each image; gives those whose request failed.

        The batch is asked whole, as it was before a kill: what a model draws for an image may depend, in its last
        bits, on the company. What is recorded already stands.
        """
        failed: set[int] = set()
        requests = [self.recorder.request(lead, number) for lead in leads]
        for lead, request, reply in zip(leads, requests, await self.teacher.write(requests), strict=True):
            if not self.ledger.has(lead, number):
                self.recorder.record(lead, request, reply)
                failed |= {lead} if reply.finish_reason == FAILED else set()
                self.on_progress(self.recorder.progress)
                failed |= await self._show_judge([lead])
        return failed

    async def _show_judge(self, leads: Sequence[int]) -> set[int]:
        """Shows the judge what waits for it, from this build or from before a kill; gives the images it failed on."""
        failed: set[int] = set()
        for lead in leads:
            for candidate in self.ledger.unjudged.pop(lead, ()):
                assert self.judge is not None, "only a build with a judge leaves candidates waiting for one"
                verdict = await self.judge.verdict(candidate, self.ledger.samples[lead], self.recorder.flight)
                self.recorder.record_judgement(lead, candidate, verdict)
                failed |= {lead} if verdict.outcome == Outcome.ERROR else set()
        return failed


def accepted_chains(
    journals: Iterable[Path], images: ImageSet, format: ChainFormat, rule: str
) -> dict[str, tuple[str, ...]]:
    """Each sample's accepted chains among the answers of existing journals about the same bytes, or the same view of
    them: in the order of rounds and candidates, a text that comes twice once.

    What a judge model did not agree with is not accepted, whatever the rule says.
    """
    store = read_store(journals)
    answers = with_samples(store.answers, images)
    answers = answers[answers["is_same"] & (answers["format"] == format.name)]
    accepted = judged_answers(store, answers, images, [rule])[rule]["accepted"]
    kept = answers[accepted & ~answers.index.isin(store.vetoed)].sort_values(["round", "number"], kind="stable")
    texts: dict[str, dict[str, None]] = {}
    for candidate in store.read(kept.index):
        texts.setdefault(candidate.sample_id, {})[candidate.text] = None
    return {sample_id: tuple(texts[sample_id]) for sample_id in sorted(texts)}
