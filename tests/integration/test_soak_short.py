"""The soak, short: no judgement of memory, but every request is counted, and nothing is left."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from loadtests.soak.__main__ import main

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_two_thousand_requests_of_all_kinds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whole answers, clients that leave, workers that break: each once, under its outcome."""
    report = tmp_path / "soak.json"
    arguments = ["--requests", "2000", "--stall", "4", "--no-rss-bound", "--json", str(report)]
    status = main(arguments)
    missed = [check for check in json.loads(report.read_text())["checks"] if not check["met"]]
    assert missed == [], capsys.readouterr().out
    assert status == 0
