"""Vectors that mean a little: equal texts have equal ones, texts that share words are near.

Each word has a direction of its own, from a hash; a text is the sum of its words, of length 1. No
state, no chance, no dependence on the process: the same on every worker.
"""

import math
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from hashlib import shake_128
from typing import TypeAlias

from gateway.sim.text import Tokenizer

Vector: TypeAlias = "array[float]"
"""32-bit floats."""


def embed(tokenizer: Tokenizer, tokens: Sequence[int], size: int) -> Vector:
    """The vector of a prompt."""
    counts = Counter(_word(tokenizer, token) for token in tokens)
    total = [0.0] * size
    for word, count in counts.items():
        # What is said often counts more, but not in proportion.
        weight = math.sqrt(count)
        direction = memoryview(shake_128(word.encode()).digest(size)).cast("b")
        total = [sum_ + weight * value for sum_, value in zip(total, direction, strict=True)]
    return normalised(total)


def normalised(values: Iterable[float]) -> Vector:
    """The same direction, of length 1."""
    values = list(values)
    length = math.hypot(*values) or 1.0
    return array("f", (value / length for value in values))


def cosine(one: Vector, other: Vector) -> float:
    """How near two vectors are: 1 for the same direction. As a 32-bit float."""
    (value,) = array("f", [math.fsum(a * b for a, b in zip(one, other, strict=True))])
    return value


def logits(vector: Vector, labels: int) -> list[float]:
    """What a classifier with so many labels makes of it, before the softmax."""
    return [2.0 * vector[number % len(vector)] for number in range(labels)]


def softmax(values: Sequence[float]) -> list[float]:
    """Shares that add up to 1, as 32-bit floats."""
    powers = [math.exp(value) for value in values]
    return list(array("f", (power / sum(powers) for power in powers)))


def _word(tokenizer: Tokenizer, token: int) -> str:
    text = tokenizer.text(token).strip().lower().strip(".,;:!?")
    return text or f"#{token}"
