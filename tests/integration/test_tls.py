"""Workers behind TLS: each with the authority that may have signed its certificate."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trustme

from gateway.sim.options import SimOptions
from gateway.sim.sim import Sim
from tests.support.gateway import client, run_gateway, until
from tests.support.raw import chat_body

if TYPE_CHECKING:
    from pathlib import Path


JSON = {"content-type": "application/json"}


def issue(folder: Path, authority: trustme.CA) -> tuple[Path, Path]:
    """Certificate and key for localhost, as files."""
    certificate, key = folder / "cert.pem", folder / "key.pem"
    issued = authority.issue_cert("localhost")
    issued.private_key_pem.write_to_path(key)
    for number, blob in enumerate(issued.cert_chain_pems):
        blob.write_to_path(certificate, append=number > 0)
    return certificate, key


@pytest.fixture
def authority(tmp_path: Path) -> tuple[trustme.CA, Path]:
    """A private authority, and its PEM file."""
    made = trustme.CA()
    made.cert_pem.write_to_path(tmp_path / "ca.pem")
    return made, tmp_path / "ca.pem"


async def test_a_stream_comes_through_tls(
    tmp_path: Path, authority: tuple[trustme.CA, Path]
) -> None:
    """The worker's own authority is trusted for it, and its name is checked."""
    made, ca_file = authority
    certificate, key = issue(tmp_path, made)
    async with Sim(SimOptions(models=("demo",), tls_cert=certificate, tls_key=key)) as sim:
        worker = {"url": f"https://localhost:{sim.port}", "ca_file": str(ca_file)}
        async with run_gateway(worker) as gateway, client(gateway) as http:
            answer = await http.post("/v1/chat/completions", content=chat_body(), headers=JSON)
            assert answer.status_code == 200
            assert answer.text.endswith("data: [DONE]\n\n")


async def test_another_authoritys_certificate_is_refused(
    tmp_path: Path, authority: tuple[trustme.CA, Path]
) -> None:
    """Such a worker is not one: it never gets a request."""
    made, _ = authority
    certificate, key = issue(tmp_path, made)
    other = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(other)
    async with Sim(SimOptions(models=("demo",), tls_cert=certificate, tls_key=key)) as sim:
        worker = {"url": f"https://localhost:{sim.port}", "ca_file": str(other)}
        async with run_gateway(worker, wait=False) as gateway, client(gateway) as http:
            await until(lambda: "certificate" in gateway.log.lower())
            answer = await http.post("/v1/chat/completions", content=chat_body(), headers=JSON)
            assert answer.status_code == 503
            assert sim.requests_total == 0
