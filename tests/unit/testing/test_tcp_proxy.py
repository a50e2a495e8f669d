from __future__ import annotations

import socket
import socketserver
from collections.abc import Iterator

import pytest

from streamproc.errors import SettingsError
from streamproc.testing.proxy import Fault, ProxyFaults, TcpProxy
from streamproc.testing.proxying.server import ConnectionServer


class Echo(ConnectionServer):
    """Sends back what it gets, with its own name before it."""

    def __init__(self, name: bytes) -> None:
        echo = self
        self.got: list[bytes] = []

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                while data := self.request.recv(1000):
                    echo.got.append(data)
                    self.request.sendall(name + data)

        super().__init__(Handler)
        self.start()
        self.url = f"tcp://127.0.0.1:{self.port}"


@pytest.fixture
def echoes() -> Iterator[tuple[Echo, Echo]]:
    both = Echo(b"first:"), Echo(b"second:")
    yield both
    for echo in both:
        echo.close()


class Caller:
    """A connection through a proxy."""

    def __init__(self, proxy: TcpProxy) -> None:
        self._socket = socket.create_connection(("127.0.0.1", int(proxy.url.rpartition(":")[2])), timeout=10)

    def __enter__(self) -> Caller:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def ask(self, data: bytes) -> bytes:
        """The answer; nothing where the connection was cut."""
        try:
            self._socket.sendall(data)
            return self._socket.recv(1000)
        except ConnectionError:
            return b""


def test_bytes_pass_both_ways(echoes: tuple[Echo, Echo]) -> None:
    with TcpProxy(echoes[0].url) as proxy, Caller(proxy) as caller:
        assert caller.ask(b"one") == b"first:one"
        assert caller.ask(b"two") == b"first:two"


def test_a_server_that_is_away_cuts_open_connections_and_new_ones_until_it_is_back(echoes: tuple[Echo, Echo]) -> None:
    with TcpProxy(echoes[0].url) as proxy:
        with Caller(proxy) as caller:
            assert caller.ask(b"one") == b"first:one"
            proxy.away()
            assert caller.ask(b"two") == b""
        with Caller(proxy) as caller:
            assert caller.ask(b"three") == b""
        proxy.back()
        with Caller(proxy) as caller:
            assert caller.ask(b"four") == b"first:four"
    assert echoes[0].got == [b"one", b"four"]


def test_a_proxy_that_is_pointed_elsewhere_cuts_open_connections_and_new_ones_go_there(
    echoes: tuple[Echo, Echo],
) -> None:
    with TcpProxy(echoes[0].url) as proxy:
        url = proxy.url
        with Caller(proxy) as caller:
            assert caller.ask(b"one") == b"first:one"
            proxy.point_to(echoes[1].url)
            assert caller.ask(b"two") == b""
        with Caller(proxy) as caller:
            assert caller.ask(b"three") == b"second:three"
        assert proxy.url == url


def test_of_bytes_too_a_request_can_be_cut_off_or_delayed_and_a_reply_lost(echoes: tuple[Echo, Echo]) -> None:
    with TcpProxy(echoes[0].url) as proxy:
        for fault, arrived in ((Fault.CUT, []), (Fault.LOST_REPLY, [b"two"])):
            with Caller(proxy) as caller:
                caller.ask(b"one")
                echoes[0].got.clear()
                proxy.fail_next(fault)
                assert caller.ask(b"two") == b""
                assert echoes[0].got == arrived
        proxy.fail_next(Fault.LATENCY)
        with Caller(proxy) as caller:
            assert caller.ask(b"three") == b"first:three"
        assert proxy.counts == {Fault.CUT: 1, Fault.LOST_REPLY: 1, Fault.LATENCY: 1}


def test_what_only_http_can_have_is_refused_for_bytes(echoes: tuple[Echo, Echo]) -> None:
    with pytest.raises(SettingsError, match="throttle cannot be done to bytes"):
        TcpProxy(echoes[0].url, faults=ProxyFaults(1, throttle=0.1))
    with TcpProxy(echoes[0].url) as proxy, pytest.raises(SettingsError, match="late cannot be done to bytes"):
        proxy.fail_next(Fault.LATE)


def test_a_url_without_host_and_port_is_refused() -> None:
    with pytest.raises(SettingsError, match="no host and port"):
        TcpProxy("redis")
