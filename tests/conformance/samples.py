"""Reading Prometheus text: what a worker, or the gateway, says of itself."""

import http.client
from urllib.parse import urlsplit

from prometheus_client.parser import text_string_to_metric_families


def scrape(url: str, name: str) -> list[tuple[dict[str, str], float]]:
    """All samples of that name at `url`/metrics: labels, value.

    Cheap, since tests call it again and again while the engines need the processor.
    """
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
    try:
        connection.request("GET", "/metrics")
        answer = connection.getresponse()
        assert answer.status == 200
        text = answer.read().decode()
    finally:
        connection.close()
    lines = [line for line in text.splitlines() if line.startswith((f"{name}{{", f"{name} "))]
    families = text_string_to_metric_families("\n".join(lines) + "\n")
    return [
        (dict(sample.labels), float(sample.value))
        for family in families
        for sample in family.samples
    ]


def total(url: str, name: str, **labels: str) -> float:
    """The sum of the samples of that name that have these labels."""
    return sum(value for found, value in scrape(url, name) if labels.items() <= found.items())
