"""The KV cache in blocks, and the prefix cache in it: chained hashes, least recently used out.

As in vLLM (``v1/core/kv_cache_manager.py``): only full blocks are shared, a block's hash covers
all blocks before it, and the last token of a prompt is always computed, so a prompt of 64 tokens
with blocks of 32 has at most 32 cached tokens.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field


def block_hashes(tokens: Sequence[int], block_size: int, parent: int = 0) -> list[int]:
    """The chained hash of each full block. ``parent`` keeps salted prompts apart."""
    hashes = []
    for start in range(0, len(tokens) - block_size + 1, block_size):
        parent = hash((parent, tuple(tokens[start : start + block_size])))
        hashes.append(parent)
    return hashes


@dataclass(slots=True)
class Holding:
    """The blocks that one running sequence holds."""

    hashes: list[int] = field(default_factory=list)
    """Shared blocks: full blocks of the prompt."""
    private: int = 0
    """Blocks that nobody else can use: the unfinished end of the prompt, and the output."""
    cached_tokens: int = 0


class BlockPool:
    """All blocks of one worker: in use, idle but remembered, or free."""

    def __init__(self, blocks: int, block_size: int) -> None:
        self.blocks = blocks
        self.block_size = block_size
        self._users: dict[int, int] = {}
        self._idle: OrderedDict[int, None] = OrderedDict()
        self._private = 0

    @property
    def used(self) -> int:
        """Blocks held by running sequences; a shared block counts once."""
        return len(self._users) + self._private

    def acquire(self, hashes: list[int], prompt_tokens: int, total_tokens: int) -> Holding | None:
        """Hold what a sequence needs from its first to its last token.

        ``total_tokens`` is prompt and output at their longest: a sequence that was admitted never
        has to be preempted. None: there is no room now.
        """
        hits = 0
        for value in hashes[: max(prompt_tokens - 1, 0) // self.block_size]:
            if value not in self._users and value not in self._idle:
                break
            hits += 1
        total = -(-total_tokens // self.block_size)
        fresh = len([value for value in hashes if value not in self._users])
        private = total - len(hashes)
        if self.used + fresh + private > self.blocks:
            return None
        for value in hashes:
            self._idle.pop(value, None)
            self._users[value] = self._users.get(value, 0) + 1
        self._private += private
        self._evict()
        return Holding(hashes, private, hits * self.block_size)

    def release(self, holding: Holding, hashes: list[int]) -> None:
        """Give all back; the full blocks ``hashes`` (prompt and output) stay remembered."""
        for value in holding.hashes:
            self._users[value] -= 1
            if not self._users[value]:
                del self._users[value]
        self._private -= holding.private
        # The end of a chain is useless without its beginning: the beginning is the last to go.
        for value in reversed(hashes):
            if value not in self._users:
                self._idle[value] = None
                self._idle.move_to_end(value)
        self._evict()

    def forget(self) -> None:
        """Drop all that is idle (vLLM's ``/reset_prefix_cache``)."""
        self._idle.clear()

    def _evict(self) -> None:
        while self._idle and self.used + len(self._idle) > self.blocks:
            self._idle.popitem(last=False)
