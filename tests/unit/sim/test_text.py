"""Tokenizer and block pool, without sockets."""

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from gateway.sim.cache import BlockPool, block_hashes
from gateway.sim.text import EOS, SENTENCES, VOCAB_SIZE, Tokenizer, words

_TOKENIZER = Tokenizer()


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_every_text_comes_back(text: str) -> None:
    ids = _TOKENIZER.encode(text)
    assert _TOKENIZER.decode(ids) == text
    assert all(0 <= i < VOCAB_SIZE for i in ids)


def test_prose_is_one_token_per_word_and_not_only_ascii() -> None:
    for sentence in SENTENCES:
        assert len(_TOKENIZER.encode(sentence)) == len(sentence.split())
    assert {len(c.encode()) for c in "".join(SENTENCES)} == {1, 2, 3, 4}
    assert words(Random(1), 40) == words(Random(1), 40)  # noqa: S311 - text, no secret


def test_special_tokens_have_names_but_no_text() -> None:
    assert (_TOKENIZER.text(EOS), _TOKENIZER.shown(EOS)) == ("", "</s>")


def test_the_least_recently_used_blocks_go_first() -> None:
    pool = BlockPool(blocks=4, block_size=4)
    first, second = list(range(8)), list(range(100, 108))
    for tokens in (first, second):
        hashes = block_hashes(tokens, 4)
        held = pool.acquire(hashes, 8, 8)
        assert held is not None
        pool.release(held, hashes)
    third = block_hashes(list(range(200, 204)), 4)
    held = pool.acquire(third, 4, 4)
    assert held is not None
    pool.release(held, third)
    again = pool.acquire(block_hashes(second, 4), 8, 8)
    assert again is not None
    assert again.cached_tokens == 4
    pool.release(again, block_hashes(second, 4))
    lost = pool.acquire([*block_hashes(first, 4)], 8, 12)
    assert lost is not None
    assert lost.cached_tokens == 4, "the end of a chain goes before its beginning"


def test_shared_blocks_count_once_and_a_full_pool_says_no() -> None:
    pool = BlockPool(blocks=3, block_size=4)
    hashes = block_hashes(list(range(8)), 4)
    one = pool.acquire(hashes, 8, 9)
    assert one is not None
    assert pool.used == 3
    assert pool.acquire(hashes, 8, 9) is None
    two = pool.acquire(hashes, 8, 8)
    assert two is not None
    assert (pool.used, two.cached_tokens) == (3, 4)
    pool.release(one, hashes)
    pool.release(two, hashes)
    assert pool.used == 0
