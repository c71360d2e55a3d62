"""The request body: checked, and changed no further than it must be."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.api.body import Facts, read_facts
from gateway.errors import GatewayError, Kind


def facts(body: bytes | str, *, allow_scheduling: bool = False) -> Facts:
    body = body.encode() if isinstance(body, str) else body
    return read_facts(body, allow_scheduling=allow_scheduling)


def refused(body: bytes | str) -> GatewayError:
    with pytest.raises(GatewayError) as refusal:
        facts(body)
    return refusal.value


@pytest.mark.parametrize(
    "body",
    [
        '{"model":"m"}',
        '{ "model" : "m" , "x" : [ 1 , 2 ] }',
        '\n{"model": "m", "stream": false, "stream_options": {"include_usage": 1}}\n',
        '{"model":"m","stream":true,"stream_options":{"include_usage":true}}',
        '{"model":"\\u006d","messages":[{"role":"user","content":"\\ud83d\\ude42"}]}',
    ],
)
def test_a_body_that_needs_no_change_goes_up_byte_for_byte(body: str) -> None:
    """White space, escapes and all."""
    found = facts(body)
    assert found.body == body.encode()
    assert (found.model, found.hide_usage) == ("m", False)


def test_a_stream_is_asked_for_usage_and_the_client_is_not_shown_it() -> None:
    """Where the client has not asked itself."""
    found = facts('{"model":"m","stream":true,"messages":[]}')
    assert json.loads(found.body) == {
        "model": "m",
        "stream": True,
        "messages": [],
        "stream_options": {"include_usage": True},
    }
    assert (found.stream, found.hide_usage) == (True, True)


@pytest.mark.parametrize(
    ("options", "sent"),
    [
        ("null", {"include_usage": True}),
        ("{}", {"include_usage": True}),
        ('{"include_usage":false}', {"include_usage": True}),
        ('{"include_usage":null}', {"include_usage": True}),
        ('{"include_obfuscation":false}', {"include_obfuscation": False, "include_usage": True}),
        (
            '{"continuous_usage_stats":true}',
            {"continuous_usage_stats": False, "include_usage": True},
        ),
    ],
)
def test_stream_options_are_merged(options: str, sent: dict[str, object]) -> None:
    """Usage in every event has no effect alone; it must not begin to, with ours beside it."""
    found = facts(f'{{"model":"m","stream":true,"stream_options":{options}}}')
    assert json.loads(found.body)["stream_options"] == sent
    assert found.hide_usage


def test_a_client_that_asks_for_usage_is_shown_it() -> None:
    """In every event, if it asks for that."""
    body = (
        '{"model":"m","stream":true,'
        '"stream_options":{"include_usage":true,"continuous_usage_stats":true}}'
    )
    assert facts(body) == Facts("m", stream=True, choices=1, hide_usage=False, body=body.encode())


_values = st.one_of(
    st.sampled_from(
        (
            "1.0", "1e5", "-0", "0.1000", "123456789012345678901234567890", "1E+2", "null",
            '"\\u00e9\\/"', '"\\ud83d\\ude42"', "{ }", "[ 1 ,\t2 ]", '{"a":1,"a":2}', '"é"',
        )
    ),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=5,
    ).map(json.dumps),
)  # fmt: skip
_keys = st.text(min_size=1, max_size=6).map(lambda text: "x-" + text)


@given(fields=st.dictionaries(_keys, _values, max_size=5), spaced=st.booleans())
@settings(deadline=None, max_examples=300)
def test_every_field_the_gateway_does_not_know_keeps_its_bytes(
    fields: dict[str, str],
    spaced: bool,
) -> None:
    """Though the top level is rebuilt around it: numbers, escapes and inner white space stay."""
    comma, colon = (" , ", " : ") if spaced else (",", ":")
    pairs = [f"{json.dumps(key)}{colon}{value}" for key, value in fields.items()]
    body = "{" + comma.join(['"model":"m"', '"stream":true', '"priority":7', *pairs]) + "}"
    sent = msgspec.json.decode(facts(body).body, type=dict[str, msgspec.Raw])
    ours = {"model": '"m"', "stream": "true", "stream_options": '{"include_usage":true}'}
    values = {key: bytes(value).decode() for key, value in sent.items()}
    assert values == {**fields, **ours}
    assert list(sent) == ["model", "stream", *fields, "stream_options"]


@pytest.mark.parametrize(
    "pair",
    [
        '"model":"a","model":"b"',
        '"model":"a","model":"a"',
        '"model":"a","\\u006dodel":"b"',
        '"m\\u006fdel":"a","\\u006Dodel":"b"',
        '"model" : "a" , "model" : "b"',
        '"model":"a","x":1,"stream":true,"model":"b"',
    ],
)
def test_a_key_that_stands_twice_is_refused(pair: str) -> None:
    """It would mean one thing to us and another to the worker; however it is spelt."""
    error = refused("{" + pair + "}")
    assert (error.kind, error.param) == (Kind.INVALID_VALUE, "model")


@pytest.mark.parametrize("key", ["unknown", "stream", "priority", "é", "a/b"])
def test_any_key_that_stands_twice_is_refused(key: str) -> None:
    """The worker may know what the gateway does not."""
    escaped = "".join(f"\\u{ord(char):04x}" for char in key)
    error = refused(f'{{"model":"m","{key}":null,"{escaped}":null}}')
    assert (error.kind, error.param) == (Kind.INVALID_VALUE, key)


def test_a_key_may_stand_twice_further_down() -> None:
    """What is below the top level is the worker's to judge."""
    body = '{"model":"m", "x":{"a":1,"a":2}}'
    assert facts(body).body == body.encode()


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b"null", b'"x"', b"7", b'{"model":"m"', b'{"model":"m"}{}',
        b'{"model":"m",}', b"{'model':'m'}", b'{"model":"m","x":NaN}', b'{"model":"m","x":01}',
        b'\xef\xbb\xbf{"model":"m"}', '{"model":"m"}'.encode("utf-16"),
        b'{"model":"m","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"model":"m", "x":' + b'{"a":' * 100_000,
    ],
)  # fmt: skip
def test_what_is_not_a_json_object_is_refused(body: bytes) -> None:
    """Broken, of another kind, in another encoding, or nested too deeply."""
    assert refused(body).kind is Kind.INVALID_JSON


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ("{}", "model"),
        ('{"model":null}', "model"),
        ('{"model":7}', "model"),
        ('{"model":["m"]}', "model"),
        ('{"model":"m","stream":"yes"}', "stream"),
        ('{"model":"m","stream":1}', "stream"),
        ('{"model":"m","stream":true,"stream_options":[]}', "stream_options"),
        (
            '{"model":"m","stream":true,"stream_options":{"include_usage":"yes"}}',
            "stream_options.include_usage",
        ),
    ],
)
def test_a_wrong_type_is_refused_by_name(body: str, param: str) -> None:
    """What the gateway reads it must understand; the rest is the worker's to judge."""
    error = refused(body)
    assert (error.kind, error.param) == (Kind.INVALID_VALUE, param)
    assert f"`{param}`" in error.message


def test_priority_is_dropped() -> None:
    """What schedules is the gateway's to say."""
    assert facts('{"model":"m","priority":-9,"x":1}').body == b'{"model":"m","x":1}'


def test_priority_is_kept_where_a_setting_allows_it() -> None:
    """Then the body need not change at all."""
    body = '{"model":"m", "priority":-9}'
    assert facts(body, allow_scheduling=True).body == body.encode()


@pytest.mark.parametrize(
    ("fields", "choices"),
    [
        ({}, 1),
        ({"n": 3}, 3),
        ({"n": None}, 1),
        ({"n": 0}, 1),
        ({"n": "3"}, 1),
        ({"prompt": "a"}, 1),
        ({"prompt": ["a", "b"]}, 2),
        ({"prompt": [1, 2, 3]}, 1),
        ({"prompt": [[1, 2], [3]]}, 2),
        ({"prompt": ["a", "b"], "n": 2}, 4),
        ({"prompt": []}, 1),
        ({"prompt": [None]}, 1),
    ],
)
@pytest.mark.parametrize("separators", [(",", ":"), (" , ", " : ")])
def test_choices_are_n_times_the_prompts(
    fields: dict[str, Any], choices: int, separators: tuple[str, str]
) -> None:
    """TPOT has no meaning where the stream interleaves several."""
    body = json.dumps({"model": "m", "stream": True, **fields}, separators=separators)
    assert facts(body).choices == choices


def test_a_body_of_many_keys_is_walked_once() -> None:
    """Forty thousand distinct keys, written with white space; then one of them twice."""
    members = [f'"k{number}": [{{"a": "}}"}}, {number}]' for number in range(40_000)]
    body = '{"model": "m", ' + " , ".join(members) + " }"
    assert read_facts(body.encode()).model == "m"
    with pytest.raises(GatewayError) as refusal:
        read_facts((body[:-1] + ', "k7": 1}').encode())
    assert refusal.value.param == "k7"


def test_bytes_that_are_no_text_are_refused_where_they_matter() -> None:
    """Elsewhere they are the worker's to judge."""
    for body in (b'{"model":"\xff"}', b'{"model": "\xff"}'):
        with pytest.raises(GatewayError):
            read_facts(body)
    for body in (b'{"model":"m","x":"\xff"}', b'{"model":"m", "x":"\xff"}'):
        assert read_facts(body).body == body
