"""Imports go one way, and each outside library stands behind one door."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = sorted((ROOT / "gateway").rglob("*.py"))

# Higher may import lower, never the other way, and never a sibling of the same height.
HEIGHT = {
    "cli": 6,
    "serve": 5.5,
    "app": 5,
    "api": 4,
    "relay": 3,
    "pool": 2,
    "routing": 2,
    "access": 2,
    "telemetry": 2,
    "config": 1,
    "errors": 1,
    "terms": 0,
    "settings": 0.5,
    "units": 0,
    "": -1,  # the package itself: its version
}
# Which of our modules may import what comes from outside.
DOORS = {
    "fastapi": {"app", "api", "serve"},
    "starlette": {"app", "api", "serve"},
    "uvicorn": {"app", "api", "serve"},
    "uvloop": {"cli", "serve", "sim"},
    "prometheus_client": {"telemetry.metrics"},
    "pydantic": {"config", "settings"},
    "yaml": {"config"},
}


def name_of(module: Path) -> str:
    """`relay.events`, without `gateway.`"""
    parts = module.relative_to(ROOT / "gateway").with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def imports(module: Path) -> set[str]:
    """Full names of the modules it imports, those for type checking too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            base = node.module or ""
            found |= {
                f"{base}.{alias.name}" if is_module(f"{base}.{alias.name}") else base
                for alias in node.names
            }
    return found


def is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return name.startswith("gateway.") and (path.is_dir() or path.with_suffix(".py").is_file())


def part_of(name: str) -> str:
    """`relay` of `gateway.relay.events`, or of `relay.events`."""
    return name.removeprefix("gateway").removeprefix(".").partition(".")[0]


def ours(module: Path) -> set[str]:
    return {part_of(name) for name in imports(module) if name.split(".")[0] == "gateway"}


every_module = pytest.mark.parametrize("module", MODULES, ids=name_of)


@every_module
def test_imports_go_one_way(module: Path) -> None:
    """cli → serve → app → api → relay → {pool, routing, access, telemetry} → {config, errors} →
    terms; siblings do not import one another."""
    own = part_of(name_of(module))
    if own == "sim":
        return
    lower = {part for part, height in HEIGHT.items() if height < HEIGHT[own]}
    allowed = lower | ({own} if (ROOT / "gateway" / own).is_dir() else set())
    if own == "cli":
        allowed |= {"sim"}
    assert ours(module) - allowed == set()


@every_module
def test_the_simulator_is_a_leaf(module: Path) -> None:
    """It imports nothing else of the gateway, and only the command line imports it."""
    own = part_of(name_of(module))
    if own == "sim":
        assert ours(module) <= {"sim"}
    elif own != "cli":
        assert "sim" not in ours(module)


@every_module
def test_nothing_but_the_command_line_starts_the_application(module: Path) -> None:
    """The composition root is built in one place."""
    if part_of(name_of(module)) not in ("cli", "serve"):
        assert ours(module) & {"app", "serve", "cli"} == set()


@every_module
def test_outside_libraries_stand_behind_one_door(module: Path) -> None:
    """So that each can be replaced, and the path of a request stays free of them."""
    name = name_of(module)
    for imported in imports(module):
        doors = DOORS.get(imported.partition(".")[0])
        assert doors is None or name in doors or part_of(name) in doors, imported


@every_module
def test_only_config_reads_the_environment(module: Path) -> None:
    """One frozen tree of settings is all there is to know."""
    found = {
        node.attr
        for node in ast.walk(ast.parse(module.read_text()))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "os"
        and node.attr in ("environ", "getenv", "environb")
    }
    assert name_of(module) == "config" or found == set()
    assert not any(name.startswith("os.") and "environ" in name for name in imports(module))


@every_module
def test_a_module_holds_one_concept(module: Path) -> None:
    """When one passes 400 lines, it holds two."""
    assert len(module.read_text().splitlines()) <= 400


@pytest.mark.parametrize("name", ["gateway.config", "gateway.cli", "gateway.relay.pipeline"])
def test_importing_does_not_bring_the_web_frameworks(name: str) -> None:
    """`vllm-gateway config` and `--help` start fast; and the path of a request needs none."""
    code = f"import sys, {name}; print(*sys.modules, sep='\\n')"
    loaded = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT
    ).stdout.split()
    assert name in loaded
    assert {"fastapi", "starlette", "uvicorn", "prometheus_client"} & set(loaded) == set()


def test_there_is_something_to_check() -> None:
    """A moved package must not make these tests pass by finding nothing."""
    assert {part_of(name_of(module)) for module in MODULES} >= set(HEIGHT) - {"serve"}
