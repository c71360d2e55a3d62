"""The fault language itself."""

import pytest

from gateway.sim import Sim, SimOptions
from gateway.sim.faults import FAULTS, describe, parse


def test_items_places_and_values() -> None:
    fault = parse("reset@3, cut=7; slow-first=1.5s,newline")
    assert fault.ending() == ("reset", 4)
    assert fault.integer("cut") == 7
    assert fault.number("slow-first") == 1.5
    assert fault.text("newline") == "crlf"
    assert "comments" not in fault


def test_the_first_ending_counts() -> None:
    assert parse("eof@5,error@2").ending() == ("error", 3)
    assert parse("hang@head").ending() == ("hang", 1)
    assert parse("comments").ending() is None


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        ("", "empty"),
        ("wat", "unknown fault 'wat'"),
        ("reset", "needs a place"),
        ("close@3", "takes no place"),
        ("reset@3=5", "takes no value"),
        ("status", "needs a value"),
        ("status=200", "between 400 and 599"),
        ("cut=0", "1 or more"),
        ("newline=lf", "crlf or cr"),
        ("sleep@1=soon", "not a duration"),
        ("p=2", "between 0 and 1"),
        ("error@0", "needs a head first"),
        ("truncate@0", "needs a head first"),
    ],
)
def test_mistakes_are_explained(spec: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        parse(spec)


def test_help_names_every_fault() -> None:
    text = describe()
    assert [line.split("@")[0].split("=")[0].split()[0] for line in text.splitlines()] == list(
        FAULTS
    )


def test_a_wrong_flag_stops_the_start() -> None:
    with pytest.raises(ValueError, match="unknown fault"):
        Sim(SimOptions(faults=("nonsense",)))
