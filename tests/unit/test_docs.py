"""What people can set and see is in the README, or a test fails."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from gateway.api.surfaces import SURFACES, Surface
from gateway.errors import TABLE
from gateway.settings import Setting, all_settings
from gateway.terms import Outcome

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_tables_of_settings_and_metrics_are_those_of_the_code() -> None:
    """Every setting with its flag and default, every metric with its labels, and nothing else."""
    check = subprocess.run([sys.executable, "docs/tables.py", "--check"], cwd=ROOT, check=False)
    assert check.returncode == 0, "README differs from the code: run `python docs/tables.py`"


@pytest.mark.parametrize("setting", list(all_settings()), ids=lambda setting: setting.name)
def test_every_setting_is_explained(setting: Setting) -> None:
    """A setting without a sentence cannot be documented."""
    assert setting.description


@pytest.mark.parametrize("surface", SURFACES, ids=lambda surface: surface.endpoint)
def test_every_surface_is_named(surface: Surface) -> None:
    """A path that clients may use is in the table of what is served."""
    assert f"`{surface.method} {surface.path.decode()}`" in README


@pytest.mark.parametrize("status", sorted({rule.status for rule in TABLE.values()} - {500}))
def test_every_status_is_explained(status: int) -> None:
    """A status of the gateway's own stands in the table of errors."""
    errors = README.partition("### Errors")[2].partition("###")[0]
    assert str(status) in errors


@pytest.mark.parametrize("outcome", list(Outcome))
def test_every_outcome_is_named(outcome: Outcome) -> None:
    """A value of the label `outcome` stands in the section on metrics."""
    assert f"`{outcome}`" in README.partition("## Metrics")[2]


@pytest.mark.parametrize(
    "command", ["demo", "test", "test-vllm", "bench", "soak", "load", "format", "lock", "run"]
)
def test_dev_explains_each_command(command: str) -> None:
    """`./dev help` names what `./dev` can do."""
    told = subprocess.run(["./dev", "help"], cwd=ROOT, check=True, capture_output=True, text=True)
    assert f"\n  {command} " in told.stdout
