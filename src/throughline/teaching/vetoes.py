"""Which chains of a store a judge model did not agree with. The rules are applied anew wherever chains are used; a
judge's word can only be read. Called by `selecting` for an export and by `building.accepted_chains` for training.
"""

from __future__ import annotations

from throughline.chains.outcomes import Outcome
from throughline.chains.records import Candidate, Verdict
from throughline.teaching.ledger import JUDGE


def request_of(line: Candidate | Verdict) -> int:
    """The request that a line belongs to, as a hash of (key, sample_id): small, and good in this process only.

    Of a million requests, two have the same hash in one of 37 million stores.
    """
    return hash((line.key, line.sample_id))


class Vetoes:
    """What the judge said of each request. The last verdict counts; a request to the judge that failed says nothing.

    Ask when the whole store is read: a verdict may stand in another shard's journal, before its candidate or after it.
    """

    def __init__(self) -> None:
        self._requests: set[int] = set()

    def note(self, verdict: Verdict) -> None:
        """Takes in a verdict line; those of rules count for nothing here."""
        if verdict.rule != JUDGE or verdict.outcome == Outcome.ERROR:
            return
        if verdict.accepted:
            self._requests.discard(request_of(verdict))
        else:
            self._requests.add(request_of(verdict))

    def on(self, request: int) -> bool:
        """Whether the judge did not agree with the answer to this request."""
        return request in self._requests
