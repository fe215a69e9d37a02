"""Where an image's bytes come from, and from where they never do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import pytest
from aiohttp import web

from services.local_engine.image_source import image_bytes, is_public
from services.local_engine.settings import ImageSettings
from spillway import v1
from spillway.errors import ConstraintUnsupported, RequestInvalid

FIELD = "spec.chat.messages[0].parts[0].image"
OWN = "127.0.0.1"
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def settings(**told: Any) -> ImageSettings:
    return ImageSettings.model_validate({"max_bytes": 8, **told})


@asynccontextmanager
async def host(handler: Handler) -> AsyncIterator[int]:
    """A host of images on this machine; yields its port."""
    app = web.Application()
    app.router.add_get("/{path:.*}", handler)
    runner = web.AppRunner(app, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, OWN, 0)
    await site.start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


async def found(url: str, told: ImageSettings) -> bytes:
    return await image_bytes(v1.Image(url=url), FIELD, told)


async def refused(url: str, told: ImageSettings) -> str:
    with pytest.raises(RequestInvalid) as refusal:
        await found(url, told)
    assert refusal.value.fields[0].field == f"{FIELD}.url"
    return refusal.value.fields[0].description


async def test_bytes_and_data_urls_are_taken_as_they_are() -> None:
    image = v1.Image(data=b"1234", mime_type="image/png")
    assert await image_bytes(image, FIELD, settings()) == b"1234"
    assert await found("data:image/png;base64,MTIzNA==", settings()) == b"1234"
    assert await found("data:image/png,12%334", settings()) == b"1234"


@pytest.mark.parametrize(
    ("image", "field"),
    [
        (v1.Image(data=b"123456789", mime_type="image/png"), "data"),
        (v1.Image(data=b"", mime_type="image/png"), "data"),
        (v1.Image(), "mime_type"),
        (v1.Image(data=b"1", mime_type="text/html"), "mime_type"),
        (v1.Image(url="data:image/png"), "url"),
        (v1.Image(url="data:image/png;base64,MTIzNDU2Nzg5"), "url"),
        (v1.Image(url="data:image/png;base64,é"), "url"),
    ],
)
async def test_none_too_many_or_other_bytes_are_refused_by_field(image: v1.Image, field: str) -> None:
    with pytest.raises(RequestInvalid) as refusal:
        await image_bytes(image, FIELD, settings())
    assert refusal.value.fields[0].field == f"{FIELD}.{field}"


@pytest.mark.parametrize("url", ["https://example.org/a.png", "http://127.0.0.1/a.png", "http://[::1]/", "http://a.b."])
async def test_no_host_is_asked_that_is_not_listed(url: str) -> None:
    for listed in ((), ("elsewhere.example",)):
        with pytest.raises(ConstraintUnsupported):
            await found(url, settings(fetch_from=listed))


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "//host/a", "ftp://127.0.0.1/", "http://u:p@127.0.0.1/", "http://["]
)
async def test_what_is_no_plain_web_address_is_refused(url: str) -> None:
    await refused(url, settings(fetch_from=[OWN]))


async def test_a_listed_host_is_asked() -> None:
    async def answer(_: web.Request) -> web.StreamResponse:
        return web.Response(body=b"1234")

    async with host(answer) as port:
        assert await found(f"http://{OWN}:{port}/a.png", settings(fetch_from=[OWN])) == b"1234"


async def test_a_listed_name_leads_into_the_site_only_if_the_address_is_listed_too() -> None:
    async def answer(_: web.Request) -> web.StreamResponse:
        return web.Response(body=b"1234")

    async with host(answer) as port:
        url = f"http://localhost:{port}/a.png"
        assert "cannot be fetched" in await refused(url, settings(fetch_from=["localhost"]))
        assert await found(url, settings(fetch_from=["localhost", OWN])) == b"1234"


@pytest.mark.parametrize("address", ["10.0.0.1", "169.254.169.254", "100.64.0.1", "224.0.0.1", "0.0.0.0"])
def test_an_address_of_the_site_is_none_of_the_internet_in_whatever_form(address: str) -> None:
    last = int(IPv4Address(address))
    assert not is_public(address)
    for form in (0xFFFF << 32, 0x64FF9B << 96, 0, 0x2002 << 112):
        assert not is_public(str(IPv6Address(form | (last << 80 if form >> 112 == 0x2002 else last))))


def test_addresses_of_the_internet_are_public() -> None:
    assert all(map(is_public, ("93.184.215.14", "2606:2800:21f:cb07::1", "64:ff9b::5db8:d70e", "::ffff:93.184.215.14")))
    assert not any(map(is_public, ("::1", "fe80::1%eth0", "fd00::1", "fec0::1", "ff02::1")))


async def test_a_data_url_is_read_beside_other_work() -> None:
    done: list[str] = []
    asyncio.get_running_loop().call_soon(done.append, "other work")
    assert await found("data:image/png,1234", settings()) == b"1234"
    assert done


async def test_a_data_url_too_long_for_an_image_is_refused_unread() -> None:
    done: list[str] = []
    asyncio.get_running_loop().call_soon(done.append, "other work")
    assert "too long" in await refused("data:image/png," + "%41" * 4096, settings())
    assert not done


@pytest.mark.parametrize("host", ["https://a.example", "a.example:443", "a.example/", "*.example", "u@a.example", ""])
def test_a_host_that_could_never_be_met_is_a_wrong_setting(host: str) -> None:
    with pytest.raises(ValueError, match="fetch_from"):
        settings(fetch_from=[host])


def test_hosts_are_compared_as_urls_have_them() -> None:
    told = settings(fetch_from=["CDN.Example", "::1", "10.0.0.1"])
    assert told.fetch_from == {"cdn.example", "::1", "10.0.0.1"}


async def test_a_redirect_is_not_followed() -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        if request.path == "/a.png":
            raise web.HTTPFound("/b.png")
        return web.Response(body=b"1234")

    async with host(answer) as port:
        assert "302" in await refused(f"http://{OWN}:{port}/a.png", settings(fetch_from=[OWN]))


async def test_no_more_is_read_than_an_image_may_have() -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"123456789")
        await asyncio.Event().wait()  # there is no end to it
        return response

    async with host(answer) as port:
        assert "at most 8" in await refused(f"http://{OWN}:{port}/a.png", settings(fetch_from=[OWN]))


async def test_a_silent_host_is_not_waited_for() -> None:
    async def answer(_: web.Request) -> web.StreamResponse:
        await asyncio.Event().wait()
        return web.Response()

    async with host(answer) as port:
        url = f"http://{OWN}:{port}/a.png"
        assert "TimeoutError" in await refused(url, settings(fetch_from=[OWN], fetch_s=0.1))
