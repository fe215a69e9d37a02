"""Connections to a provider: bounded, trusted for a reason, by way of a proxy where one is set."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

import pytest
from aiohttp.abc import AbstractResolver
from structlog.testing import capture_logs

from services.cloud_proxy.http_provider import HttpProvider
from services.cloud_proxy.provider import Exchange
from services.cloud_proxy.settings import ProviderSettings
from services.cloud_proxy.wires.openai import OpenAI
from spillway import errors
from spillway.settings import SettingsError
from spillway.testing.openai_faults import Cut, Faults, Reset, Silence, Stall, Status
from spillway.testing.openai_simulator import OpenAISimulator, serving_openai
from spillway.testing.waiting import eventually
from tests.integration.cloud_proxy.certificates import DAY, Authority
from tests.integration.cloud_proxy.forwarding import Forwarder, forwarding
from tests.integration.cloud_proxy.rig import call, connected, declared, keyring, raw, running, spec

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
ANSWER = (
    b'data: {"model":"m","choices":[{"index":0,"delta":{"content":"hi"},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
)
PASSWORD = "us%er:pass/word"
IN_URL = "us%25er:pass%2Fword"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


# TLS


async def test_a_certificate_bundle_of_ones_own_is_what_is_trusted(valkey: str, authority: Authority) -> None:
    async with raw(HEAD + ANSWER, tls=authority.server(authority.issued())) as port:
        url = f"https://127.0.0.1:{port}/v1"
        async with running(OpenAISimulator(), valkey, url=url, ca_bundle=authority.bundle) as rig:
            assert (await rig.stream(spec())).choices[0].content.text == "hi"
        async with running(OpenAISimulator(), valkey, url=url) as rig:
            with pytest.raises(errors.TargetDown, match=r"signed by an authority that is not trusted"):
                await rig.stream(spec())


@pytest.mark.parametrize(
    ("certificate", "said"),
    [
        ({"self_signed": True}, "is self-signed"),
        ({"age": timedelta(days=9)}, "has expired"),
        ({"age": -DAY}, "is not valid yet"),
        ({"host": "127.0.0.2"}, "is for another IP address"),
        ({"host": "elsewhere.example"}, "is for another IP address"),
    ],
)
async def test_a_certificate_that_is_not_trusted_says_why_and_costs_nothing(
    valkey: str, authority: Authority, certificate: dict[str, object], said: str
) -> None:
    async with raw(HEAD + ANSWER, tls=authority.server(authority.issued(**certificate))) as port:  # type: ignore[arg-type]
        url = f"https://127.0.0.1:{port}/v1"
        async with running(OpenAISimulator(), valkey, url=url, ca_bundle=authority.bundle) as rig:
            with pytest.raises(errors.TargetDown, match=rf"TLS\): its certificate {said}"):
                await rig.stream(spec())
            assert await rig.used() == (0, 0)


async def test_a_certificate_for_another_host_name_is_not_trusted(valkey: str, authority: Authority) -> None:
    async with raw(HEAD + ANSWER, tls=authority.server(authority.issued("elsewhere.example"))) as port:
        url = f"https://localhost:{port}/v1"
        async with running(OpenAISimulator(), valkey, url=url, ca_bundle=authority.bundle) as rig:
            with pytest.raises(errors.TargetDown, match="is for another host name"):
                await rig.stream(spec())


async def test_a_certificate_of_ours_is_shown_where_one_is_asked_for(valkey: str, authority: Authority) -> None:
    tls = authority.server(authority.issued(), asks_for_one=True)
    async with raw(HEAD + ANSWER, tls=tls) as port:
        url, ours = f"https://127.0.0.1:{port}/v1", authority.issued("us.example")
        trust = {"url": url, "ca_bundle": authority.bundle}
        async with running(OpenAISimulator(), valkey, **trust, client_cert=ours) as rig:  # type: ignore[arg-type]
            assert (await rig.stream(spec())).choices[0].content.text == "hi"
        async with running(OpenAISimulator(), valkey, **trust) as rig:  # type: ignore[arg-type]
            with pytest.raises(errors.TargetDown):
                await rig.stream(spec())


@pytest.mark.parametrize("setting", ["ca_bundle", "client_cert"])
@pytest.mark.parametrize("text", [None, "no certificate"])
async def test_a_bundle_that_cannot_be_used_keeps_the_service_from_starting(
    valkey: str, tmp_path: Path, setting: str, text: str | None
) -> None:
    file = tmp_path / "file.pem"
    if text is not None:
        file.write_text(text)
    with pytest.raises(SettingsError, match=rf"providers\.0\.{setting}: cannot use .*file\.pem"):
        async with running(OpenAISimulator(), valkey, **{setting: file}):  # type: ignore[arg-type]
            pass


# Names


class Nowhere(AbstractResolver):
    """Knows no name, as the system says it."""

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET) -> NoReturn:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    async def close(self) -> None:
        pass


async def test_a_name_that_nobody_knows_is_told_as_that() -> None:
    settings = ProviderSettings.model_validate(declared("http://nowhere.example/v1"))
    provider = HttpProvider(settings, OpenAI(settings), keyring(), resolver=Nowhere())
    exchange = Exchange()
    try:
        with pytest.raises(errors.TargetDown, match="its address cannot be resolved"):
            async for _ in provider.stream(provider.prepare(spec(), "m"), call(), exchange):
                pass
    finally:
        await provider.close()
    assert not exchange.sent


# HTTP proxies


async def test_a_proxy_tunnels_and_sees_neither_key_nor_prompt(valkey: str, authority: Authority) -> None:
    forwarder = Forwarder(password=PASSWORD)
    async with (
        raw(HEAD + ANSWER, tls=authority.server(authority.issued())) as port,
        forwarding(forwarder) as proxy,
    ):
        url = f"https://127.0.0.1:{port}/v1"
        way = proxy.replace("//", f"//{IN_URL}@")
        with capture_logs() as logs:
            async with running(OpenAISimulator(), valkey, url=url, proxy=way, ca_bundle=authority.bundle) as rig:
                assert (await rig.stream(spec())).choices[0].content.text == "hi"
                told = f"{vars(rig.provider)} {rig.app.proxy.routes} {logs}"
    assert forwarder.seen == [f"CONNECT 127.0.0.1:{port} HTTP/1.1"]
    for secret in (PASSWORD, IN_URL, "word", "Basic"):
        assert secret not in told


async def test_a_proxy_forwards_what_is_not_encrypted_and_keeps_its_own_password(valkey: str) -> None:
    simulator, forwarder = OpenAISimulator(), Forwarder(password=PASSWORD)
    async with (
        forwarding(forwarder) as proxy,
        running(simulator, valkey, proxy=proxy.replace("//", f"//{IN_URL}@")) as rig,
    ):
        assert (await rig.stream(spec())).usage.completion_tokens == 6
    assert forwarder.seen[0].startswith("POST http://127.0.0.1:")
    assert "proxy-authorization" not in simulator.seen[0].headers


@pytest.mark.parametrize(
    ("told", "forwarded"),
    [({}, 1), ({"simulated": True}, 0), ({"proxy": "none"}, 0)],
)
async def test_the_environments_proxy_holds_where_the_settings_say_nothing(
    valkey: str, told: dict[str, object], forwarded: int
) -> None:
    forwarder = Forwarder()
    async with forwarding(forwarder) as proxy:
        provider: dict[str, Any] = {"simulated": False, "environ": {"HTTP_PROXY": proxy}, **told}
        async with running(OpenAISimulator(), valkey, **provider) as rig:
            assert (await rig.stream(spec())).usage.completion_tokens == 6
    assert len(forwarder.seen) == forwarded


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize(
    ("forwarder", "said"),
    [
        (Forwarder(password=PASSWORD), r"the HTTP proxy before it asks for a user and a password \(407\)"),
        (Forwarder(status=403), None),
    ],
)
async def test_a_proxy_that_refuses_is_told_as_that(
    valkey: str, scheme: str, forwarder: Forwarder, said: str | None
) -> None:
    if said is None and scheme == "http":
        return  # a 403 of the proxy's looks like one of the provider's
    async with forwarding(forwarder) as proxy:
        wrong = proxy.replace("//", "//me:wrong-secret@")
        url = f"{scheme}://127.0.0.1:9/v1"
        async with running(OpenAISimulator(), valkey, url=url, proxy=wrong) as rig:
            with pytest.raises(errors.TargetDown, match=said or r"lets nothing through \(403\)") as caught:
                await rig.stream(spec())
    assert "wrong-secret" not in f"{caught.value!r} {caught.value.__cause__!r} {caught.value.__context__!r}"


async def test_a_proxy_that_is_away_is_told_as_that(valkey: str) -> None:
    async with running(OpenAISimulator(), valkey, proxy="http://127.0.0.1:1") as rig:
        with pytest.raises(errors.TargetDown, match="the HTTP proxy before it cannot be reached"):
            await rig.stream(spec())
        assert await rig.used() == (0, 0)


# The pool


async def test_a_call_that_gets_no_connection_in_time_is_told_busy_and_holds_none(valkey: str) -> None:
    simulator = OpenAISimulator(faults=Faults(Silence()))
    async with running(simulator, valkey, max_connections=1) as rig:
        first = asyncio.create_task(rig.stream(spec()))
        await simulator.asked.wait()
        route = next(iter(rig.app.proxy.routes.values()))
        prepared = route.adapter.prepare(spec(), "m")
        with pytest.raises(errors.TargetBusy, match="all 1 connections are in use"):
            async for _ in route.adapter.stream(prepared, call(0.05), Exchange()):
                pass
        first.cancel()
        with pytest.raises((asyncio.CancelledError, errors.SpillwayError)):
            await first
        assert (await rig.stream(spec())).usage.completion_tokens == 6
        assert rig.provider.connections == 0


@pytest.mark.parametrize("fault", [Reset(), Cut(1), Stall(1), Silence(), Status(401), Status(307), Status(500)])
async def test_no_exit_path_keeps_a_connection(valkey: str, fault: Reset | Cut | Stall | Silence | Status) -> None:
    simulator = OpenAISimulator(faults=Faults(*[fault] * 3))
    async with running(simulator, valkey, max_connections=1, idle_s=0.1, stall_s=0.1) as rig:
        for _ in range(3):
            with pytest.raises(errors.SpillwayError):
                await rig.stream(spec())
        for _ in range(3):
            async with aclosing(rig.events(spec())) as events:
                async for _ in events:
                    break
        assert (await rig.stream(spec())).usage.completion_tokens == 6
        await eventually(lambda: rig.provider.connections == 0)


async def test_a_live_connection_neither_waits_to_fill_packets_nor_is_forgotten(valkey: str) -> None:
    simulator = OpenAISimulator(faults=Faults(Stall(1)))
    async with (
        serving_openai(simulator) as url,
        running(simulator, valkey, url=url) as rig,
        aclosing(rig.events(spec())) as events,
    ):
        async for event in events:
            if event.HasField("delta"):
                break
        nodelay, keepalive = (socket.IPPROTO_TCP, socket.TCP_NODELAY), (socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        found = [(one.getsockopt(*nodelay), one.getsockopt(*keepalive)) for one in connected(urlsplit(url).port or 0)]
    assert found == [(1, 1)]


# Odd servers


async def test_a_redirect_is_refused_and_says_what_to_set(valkey: str) -> None:
    simulator = OpenAISimulator(faults=Faults(Status(308, headers={"location": "https://elsewhere.example/"})))
    async with running(simulator, valkey) as rig:
        with pytest.raises(errors.ProviderError, match="answered 308: redirects are not followed; base_url must be"):
            await rig.stream(spec())


async def test_what_a_server_says_before_its_answer_is_read_over(valkey: str) -> None:
    early = b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n"
    async with (
        raw(early, HEAD, ANSWER) as port,
        running(OpenAISimulator(), valkey, url=f"http://127.0.0.1:{port}/v1") as rig,
    ):
        assert (await rig.stream(spec())).choices[0].content.text == "hi"


async def test_headers_without_end_are_an_error_of_the_provider(valkey: str) -> None:
    head = b"HTTP/1.1 200 OK\r\nx-long: " + b"x" * 2**17 + b"\r\n\r\n"
    async with raw(head) as port, running(OpenAISimulator(), valkey, url=f"http://127.0.0.1:{port}/v1") as rig:
        with pytest.raises(errors.ProviderError, match="does not speak its wire format"):
            await rig.stream(spec())


async def test_a_refusal_whose_body_never_ends_is_known_by_its_status(valkey: str) -> None:
    head = b"HTTP/1.1 503 Busy\r\ncontent-type: application/json\r\ncontent-length: 999999999\r\n\r\n"
    async with (
        raw(head, *[b"x" * 2**15] * 8) as port,
        running(OpenAISimulator(), valkey, url=f"http://127.0.0.1:{port}/v1") as rig,
    ):
        with pytest.raises(errors.ProviderError, match="answered 503"):
            await rig.stream(spec())


async def test_a_refusal_that_holds_its_body_back_does_not_hold_the_call_up() -> None:
    async with talking(b"HTTP/1.1 503 Busy\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n", b"") as url:
        with pytest.raises(errors.ProviderError, match="answered 503"):
            await asked(url, seconds=60.0)


async def test_an_answer_that_trickles_without_end_is_bounded_by_the_deadline() -> None:
    async with talking(HEAD, b": still here\n") as url:
        with pytest.raises(errors.DeadlineExceeded):
            await asked(url, seconds=0.2)


async def test_silence_before_the_first_words_has_a_bound_of_its_own(valkey: str) -> None:
    simulator = OpenAISimulator(faults=Faults(Stall(0)))
    async with running(simulator, valkey, idle_s=0.1, stall_s=60.0) as rig:
        with pytest.raises(errors.TargetTimeout, match=r"was silent for 0\.1 s"):
            await rig.stream(spec())


async def test_a_reader_that_takes_its_time_is_not_the_providers_silence() -> None:
    simulator = OpenAISimulator(interval_s=0.002)
    async with serving_openai(simulator) as url:
        said = await asked(url, seconds=20.0, pause_s=0.3, stall_s=0.1)
    assert said == "Simulated cloud answer to: hello there"


@asynccontextmanager
async def talking(head: bytes, piece: bytes) -> AsyncIterator[str]:
    """Serve `head`, then `piece` again and again, until the client leaves; yield the URL."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        gone = asyncio.create_task(reader.read())
        writer.write(head)
        while not gone.done():
            writer.write(piece)
            await asyncio.wait([gone], timeout=0.01)
        with suppress(ConnectionError):
            await gone
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"


async def asked(url: str, *, seconds: float, pause_s: float = 0.0, **more: float) -> str:
    """Return what a provider at `url` says to a reader that pauses once, after the first words."""
    settings = ProviderSettings.model_validate(declared(url, **more))
    provider = HttpProvider(settings, OpenAI(settings), keyring())
    said = ""
    try:
        async for deltas in provider.stream(provider.prepare(spec(), "m"), call(seconds), Exchange()):
            if not said:
                await asyncio.sleep(pause_s)
            said += "".join(delta.text for delta in deltas)
        return said
    finally:
        assert provider.connections == 0
        await provider.close()
