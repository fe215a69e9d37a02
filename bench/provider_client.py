"""One way to ask a provider, as a process: by the proxy's provider layer, or by the vendor's SDK.

python -m bench.provider_client --kind KIND --by ours|merged|sdk. It reads `URL COUNT AT_ONCE` on stdin, asks COUNT
times, AT_ONCE at a time, and answers with a line when every stream has been read to its end.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

from bench.dialects import DIALECTS, PROMPT, SAID, Ask

WINDOW_S = {"ours": 0.0, "merged": 0.02}
"""The proxy's merging windows: none, and the one it has where nothing is set."""


@asynccontextmanager
async def ours(kind: str, url: str, window_s: float) -> AsyncIterator[Ask]:
    from services.cloud_proxy.app import WIRES
    from services.cloud_proxy.http_provider import HttpProvider
    from services.cloud_proxy.key import Key
    from services.cloud_proxy.keyring import Keyring
    from services.cloud_proxy.provider import Exchange
    from services.cloud_proxy.settings import ProviderSettings
    from spillway import v1
    from spillway.coalescing import pulled
    from spillway.deadline import Deadline
    from spillway.rpc.call import Call

    settings = ProviderSettings.model_validate(
        {"name": kind, "kind": kind, "region": "here", "base_url": url, "models": [{"name": "m"}]}
    )
    keys = Keyring(kind, {"env:KEY": Key("sk-none")}, clock=time.monotonic)
    provider = HttpProvider(settings, WIRES[kind](settings), keys)
    message = v1.Message(role=v1.ROLE_USER, parts=[v1.Part(text=PROMPT)])
    spec = v1.GenerationSpec(chat=v1.Chat(messages=[message]))

    async def ask() -> int:
        source = provider.stream(provider.prepare(spec, "m"), Call("bench", Deadline.after(60.0)), Exchange())
        said = 0
        async with aclosing(source), aclosing(pulled(source, window_s)) as merged:
            async for deltas in merged:
                for delta in deltas:
                    said += len(delta.text)
        return said

    try:
        yield ask
    finally:
        await provider.close()


async def run(kind: str, by: str, url: str, count: int, at_once: int) -> None:
    """Ask `count` times. Raises RuntimeError for a stream that was not whole."""
    way = DIALECTS[kind].sdk(url) if by == "sdk" else ours(kind, url, WINDOW_S[by])
    async with way as ask:

        async def asking() -> None:
            for _ in range(count // at_once):
                if (said := await ask()) != SAID:
                    raise RuntimeError(f"{by} read {said} characters of {SAID}")

        await asyncio.gather(*(asking() for _ in range(at_once)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind", choices=DIALECTS, required=True)
    parser.add_argument("--by", choices=(*WINDOW_S, "sdk"), required=True)
    told = parser.parse_args()
    print("ready", flush=True)
    for line in sys.stdin:
        url, count, at_once = line.split()
        asyncio.run(run(told.kind, told.by, url, int(count), int(at_once)))
        print("done", flush=True)


if __name__ == "__main__":
    main()
