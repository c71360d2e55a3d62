"""Prompts of a wanted length, of which a wanted share is the same for all. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from random import Random

_TEXT = (
    "a river runs under the old bridge and every morning two boats carry bread fish and letters "
    "to the town on the other side where people wait with coffee in their hands while children "
    "count the clouds name the birds and ask why water never stops moving toward the sea"
)
_WORDS = _TEXT.split()


class Prompts:
    """Makes prompts of `words` words.

    The first `shared` (0 to 1) of them are always the same, as a system prompt is: a worker's
    prefix cache knows them, and a policy that minds the cache can be told from one that does not.
    """

    def __init__(self, words: int, shared: float) -> None:
        same = round(words * shared)
        self._prefix = [_WORDS[number % len(_WORDS)] for number in range(same)]
        self._own = words - same

    def next(self, random: Random) -> str:
        """The next prompt."""
        return " ".join([*self._prefix, *random.choices(_WORDS, k=self._own)])
