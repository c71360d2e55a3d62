"""Writes README's tables of settings and metrics from the code, so that they cannot differ.

python docs/tables.py            writes them
python docs/tables.py --check    exit status 1 where README differs (the tests do this)
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

from prometheus_client.metrics_core import Metric

from gateway.app import Gateway
from gateway.settings import Settings, all_settings

README = Path(__file__).parents[1] / "README.md"


def settings_table() -> Iterator[str]:
    """A row per setting."""
    yield "| setting | flag | default | what it is |"
    yield "|---|---|---|---|"
    for setting in all_settings():
        flag = f"`{setting.flag}`" if setting.flag else "none: a secret"
        default = f"`{setting.default_text}`" if setting.default_text else ""
        yield f"| `{setting.name}` | {flag} | {default} | {setting.description} |"


def metrics_table() -> Iterator[str]:
    """A row per metric, as Prometheus shows its name."""
    yield "| metric | type | labels | what it is |"
    yield "|---|---|---|---|"
    for metric in Gateway(Settings()).metrics.collect():
        labels = ", ".join(f"`{label}`" for label in _labels(metric))
        name = metric.name + {"counter": "_total", "info": "_info"}.get(metric.type, "")
        kind = "gauge" if metric.type == "info" else metric.type
        yield f"| `{name}` | {kind} | {labels} | {metric.documentation} |"


def _labels(metric: Metric) -> tuple[str, ...]:
    return tuple(getattr(metric, "_labelnames", ()))


def with_tables(text: str) -> str:
    """The text, with what stands between the markers of each table made anew."""
    for name, table in (("settings", settings_table), ("metrics", metrics_table)):
        block = f"<!-- {name}: python docs/tables.py -->\n" + "\n".join(table()) + "\n<!-- end -->"
        text, found = re.subn(
            rf"<!-- {name}: .*?<!-- end -->", lambda _, block=block: block, text, flags=re.DOTALL
        )
        if found != 1:
            raise SystemExit(f"README.md has no place for the table of {name}")
    return text


if __name__ == "__main__":
    current = README.read_text(encoding="utf-8")
    made = with_tables(current)
    if "--check" in sys.argv:
        sys.exit(current != made)
    README.write_text(made, encoding="utf-8")
