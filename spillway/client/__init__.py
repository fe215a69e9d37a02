r"""The client of a mesh.

    import asyncio
    from spillway.client import connect

    async def main():
        async with connect("127.0.0.1:7070") as client:
            async with client.stream("Hi! What can you do?", max_tokens=60) as answer:
                async for text in answer:
                    print(text, end="", flush=True)
            print(f"\n{answer.target} answered with {answer.usage.completion_tokens} tokens")

    asyncio.run(main())

Generations that a client has under way at once share a session by themselves; `async with client.session() as session`
opens one for those that will come.

`Options` names every keyword argument of a request. All failures are `spillway.errors`: `retry_after_s` says when the
same call may succeed, `elsewhere` whether another target may be tried. The client itself never retries: the router
already has, within the caller's deadline.
"""

from spillway.client.answer import Answer
from spillway.client.client import Client, connect
from spillway.client.embeddings import Embeddings
from spillway.client.request import EmbedOptions, Options, Prompt
from spillway.client.stream import AnswerStream

__all__ = ["Answer", "AnswerStream", "Client", "EmbedOptions", "Embeddings", "Options", "Prompt", "connect"]
