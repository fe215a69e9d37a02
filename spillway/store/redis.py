"""One connection pool to Redis or Valkey, short timeouts, no hidden retries, scripts by digest."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Awaitable, Sequence
from typing import Any, TypeVar

import redis
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.driver_info import DriverInfo
from redis.exceptions import NoScriptError, RedisError

from spillway.settings import SettingsError, StoreSettings

T = TypeVar("T")
Argument = str | int | float | bytes
LISTEN_S = 5.0
"""How long a listener waits before it looks whether its connection is still there."""
DRIVER = DriverInfo(lib_version=redis.__version__)
"""What a connection says it is; left out, redis-py reads its version from disk for every connection."""


class StoreUnavailable(Exception):
    """The store did not answer in time. Never crosses a service boundary: each use has its own degradation."""


class Script:
    """A Lua script. It must be safe to run once more after a lost reply."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.digest = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()

    def __repr__(self) -> str:
        return f"<Script {self.digest[:8]}>"


class Store:
    """Runs scripts on the shared store and keeps values in it; every failure is a `StoreUnavailable`."""

    def __init__(self, settings: StoreSettings) -> None:
        if not settings.url:
            raise SettingsError(
                "store.url: this service needs a Redis or Valkey, for example redis://127.0.0.1:6379/0 "
                "(`spillway up` embeds one)"
            )
        pool = BlockingConnectionPool.from_url(
            settings.url,
            max_connections=settings.max_connections,
            timeout=settings.timeout_s,
            socket_timeout=settings.timeout_s,
            socket_connect_timeout=settings.timeout_s,
            retry=Retry(NoBackoff(), 0),
            driver_info=DRIVER,
        )
        self.redis: Redis = Redis.from_pool(pool)
        self._timeout_s = settings.timeout_s
        self._url = settings.url.rpartition("@")[2].partition("?")[0]

    async def run(self, script: Script, keys: Sequence[str], arguments: Sequence[Argument]) -> Any:
        """Run `script` atomically in one round trip (two the first time). Raises StoreUnavailable after `timeout_s`."""
        return await self._in_time(self._evaluate(script, keys, arguments))

    async def get(self, key: str) -> bytes | None:
        """Return what `set` keeps under `key`. Raises StoreUnavailable after `timeout_s`."""
        value = await self._in_time(self.redis.get(key))
        return value if isinstance(value, bytes) else None

    async def set(self, key: str, value: bytes, ttl_s: float) -> None:
        """Keep `value` under `key` for `ttl_s` seconds. Raises StoreUnavailable after `timeout_s`."""
        await self._in_time(self.redis.set(key, value, px=max(1, round(ttl_s * 1000))))

    async def listen(self, channel: str) -> AsyncGenerator[str, None]:
        """Yield what is published on `channel`, first "" once it is listened to; news of another moment is missed.

        Holds one connection. Raises StoreUnavailable when the connection cannot be made, or breaks.
        """
        pubsub = self.redis.pubsub(ignore_subscribe_messages=True)
        try:
            await self._in_time(pubsub.subscribe(channel))
            yield ""
            while True:
                message = await pubsub.get_message(timeout=LISTEN_S)
                if message is not None:
                    yield message["data"].decode(errors="replace")
        except (RedisError, OSError) as error:
            raise StoreUnavailable(f"{type(error).__name__}: {error}") from None
        finally:
            await pubsub.aclose()  # type: ignore[no-untyped-call]

    async def ping(self) -> bool:
        """Whether the store answers."""
        try:
            return bool(await self._in_time(self.redis.ping()))
        except StoreUnavailable:
            return False

    async def close(self) -> None:
        await self.redis.aclose()

    async def _evaluate(self, script: Script, keys: Sequence[str], arguments: Sequence[Argument]) -> Any:
        try:
            return await self.redis.evalsha(script.digest, len(keys), *keys, *arguments)
        except NoScriptError:
            return await self.redis.eval(script.source, len(keys), *keys, *arguments)

    async def _in_time(self, command: Awaitable[T]) -> T:
        task = asyncio.current_task()
        cancels = task.cancelling() if task else 0
        try:
            async with asyncio.timeout(self._timeout_s):  # over all: waiting for a connection, making one, every trip
                found = await command
                if task and task.cancelling() > cancels:
                    # redis-py sends with `wait_for`, which may lose a cancel before Python 3.12.
                    raise asyncio.CancelledError
                return found
        except (RedisError, OSError, TimeoutError) as error:
            raise StoreUnavailable(f"{type(error).__name__}: {error}") from None

    def __repr__(self) -> str:
        return f"<Store {self._url}>"
