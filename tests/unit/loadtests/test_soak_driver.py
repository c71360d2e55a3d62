"""What a client that does not read can know of the other side."""

from __future__ import annotations

import socket

from loadtests.soak.driver import given_up


def test_a_close_is_seen_behind_what_has_not_been_read() -> None:
    """The FIN waits behind the bytes; the kernel's table of sockets shows it all the same."""
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(listener.getsockname())
        server, _ = listener.accept()
        with server:
            server.setblocking(False)
            server.send(b"x" * 1_000_000)
            assert not given_up(client)
        assert given_up(client)
