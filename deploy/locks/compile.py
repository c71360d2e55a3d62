"""Resolves the dependencies of pyproject.toml and writes the locks, with hashes, for all platforms.

`demo.txt` is what the gateway needs, and OpenAI's SDK for the demo's snippet; `dev.txt` holds that
and everything for tests. The build backend is locked too, since the install uses no isolation.
"""

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
PROJECT = HERE.parents[1] / "pyproject.toml"


def compile_lock(name: str, *groups: str, constraint: Path | None = None) -> None:
    """Write one lock. Exits with uv's own message where that fails."""
    command = [
        sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--universal",
        "--python-version", "3.11", "--generate-hashes", "--no-header", "--no-annotate",
        "--no-emit-index-url", "--upgrade", str(PROJECT),
    ]  # fmt: skip
    for group in ("build", *groups):
        command += ["--group", f"{PROJECT}:{group}"]
    if constraint is not None:
        command += ["--constraint", str(constraint)]
    subprocess.run([*command, "--output-file", str(HERE / f"{name}.txt")], check=True)
    print(f"wrote {name}.txt")


if __name__ == "__main__":
    compile_lock("demo", "demo")
    compile_lock("dev", "demo", "dev", "load", constraint=HERE / "demo.txt")
