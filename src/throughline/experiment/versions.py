"""The code versions that enter a unit's hash: raise one when the numbers of its stage change, and only then.

A finished unit of an older version is then stale, and `throughline run` says so instead of mixing the two.
"""

from __future__ import annotations

STAGE_VERSIONS: dict[str, int] = {"training": 3, "sampling": 2, "answering": 2}
