"""Words and tokens: a tokenizer that needs no files, and prose to stream.

Token ids carry their own text, so nothing is remembered between requests: the words of the
prose are one token each; any other text is cut into pieces of up to four ASCII characters, or
one character beyond ASCII. ``decode(encode(text)) == text`` for every text.
"""

import re
from collections.abc import Iterable, Iterator
from random import Random

BOS, EOS, PAD, THINK, END_THINK, CALL, END_CALL = range(7)
SPECIAL = ("<s>", "</s>", "<pad>", "<think>", "</think>", "<tool_call>", "</tool_call>")
ROLES = ("system", "user", "assistant", "tool", "developer", "function", "other")
_FIRST_ROLE = len(SPECIAL)
_FIRST_WORD = 64

# Pieces of unknown ASCII text: up to four characters as digits of base 129, 0 meaning "no more".
_BASE = 129
_FIRST_PIECE = 1 << 16
_FIRST_CHARACTER = _FIRST_PIECE + _BASE**4
VOCAB_SIZE = _FIRST_CHARACTER + 0x110000

_WORDS = re.compile(r" ?\w+[.,;:!?]?| ?[^\s\w]+|\s+")
_PIECES = re.compile(r"[\x00-\x7f]{1,4}|[^\x00-\x7f]")

# Short enough to read in a terminal, with characters of two, three and four bytes now and then,
# so that a relay that cuts or joins UTF-8 wrongly is seen at once.
SENTENCES = """
The gateway keeps every byte that the worker sends, and it keeps them in order.
A quiet morning in Zürich begins with coffee, bread and a slow tram along the river.
She opened the small café at seven — the first guests were already waiting outside.
In 日本 the trains leave on time, and people notice when they are ten seconds late.
Most of the work is done before the first word appears on the screen.
The old map showed a road that nobody in the village could remember.
We measured it twice, wrote down both results, and trusted neither of them.
A good tool does one thing, says what it did, and then gets out of the way.
Rain fell on the roof all night, soft and steady, like somebody counting.
He had a naïve idea about the sea until he saw the storm in November.
Nothing was lost: each letter arrived, even the one with the wrong stamp. 🙂
The question is simple, but the answer depends on whom you ask and when.
Light travels fast, yet the morning always seems to take its time.
They planted forty trees along the canal, and after ten years it looked like a forest.
Please bring a coat, a torch and something to read on the way home.
The teacher smiled, closed the book, and asked what we would have done instead.
It is easier to build a bridge than to agree on where it should stand.
Every clock in the station shows a slightly different time, and all of them are proud.
Her résumé was two lines long, which was more than anyone needed to know.
The market sells apples, honey, fresh fish and, on Fridays, very old books.
If the first plan fails, the second one is usually shorter and better.
From the hill you can see three lakes, two towns and the edge of the weather.
The engineers in 東京 sent a short note: it works, we do not yet know why. 🚀
He counted the steps, lost the number near the top, and began again.
A letter from Malmö took nine days, and the answer took nine minutes.
""".strip().splitlines()


class Tokenizer:
    """Text to token ids and back. Stateless after it is built; safe to share."""

    def __init__(self) -> None:
        words = sorted({word for line in SENTENCES for word in self._line_words(line)})
        words += ["\n", "\n\n"]
        self._texts: dict[int, str] = dict.fromkeys(range(_FIRST_WORD), "")
        self._texts.update(enumerate(words, _FIRST_WORD))
        self._ids = {word: token_id for token_id, word in enumerate(words, _FIRST_WORD)}
        self.max_chars_per_token = max(map(len, words))

    @staticmethod
    def _line_words(line: str) -> Iterator[str]:
        for word in line.split():
            yield word
            yield " " + word

    def encode(self, text: str) -> list[int]:
        """Token ids of ``text``; no special tokens are added."""
        ids: list[int] = []
        known = self._ids
        for word in _WORDS.findall(text):
            token_id = known.get(word)
            if token_id is None:
                ids.extend(map(_piece_id, _PIECES.findall(word)))
            else:
                ids.append(token_id)
        return ids

    def text(self, token_id: int) -> str:
        """The text of one token; empty for special and unused ids."""
        if token_id < _FIRST_PIECE:
            return self._texts.get(token_id, "")
        if token_id >= _FIRST_CHARACTER:
            return chr(token_id - _FIRST_CHARACTER) if token_id < VOCAB_SIZE else ""
        number, characters = token_id - _FIRST_PIECE, []
        while number:
            number, digit = divmod(number, _BASE)
            if digit:
                characters.append(chr(digit - 1))
        return "".join(characters)

    def shown(self, token_id: int) -> str:
        """The token as logprobs show it: special tokens by their name."""
        return SPECIAL[token_id] if token_id < len(SPECIAL) else self.text(token_id)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of many tokens; special tokens are skipped."""
        return "".join(map(self.text, ids))

    def role(self, name: str) -> int:
        """The token that opens a message of this role in the chat template."""
        return _FIRST_ROLE + ROLES.index(name if name in ROLES else "other")


def _piece_id(piece: str) -> int:
    code = ord(piece[0])
    if code > 0x7F:
        return _FIRST_CHARACTER + code
    number = 0
    for character in reversed(piece):
        number = number * _BASE + ord(character) + 1
    return _FIRST_PIECE + number


def words(rng: Random, minimum: int) -> list[str]:
    """Whole sentences of at least ``minimum`` words, one word with its leading space each."""
    out: list[str] = []
    while len(out) < minimum:
        out.extend(" " + word for word in rng.choice(SENTENCES).split())
    out[0] = out[0].lstrip()
    return out


def endless_words(rng: Random) -> Iterator[str]:
    """Sentences without end, each word with its leading space."""
    while True:
        for word in rng.choice(SENTENCES).split():
            yield " " + word
