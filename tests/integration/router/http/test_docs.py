"""The examples of docs/openai.md run."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

import pytest
from aiohttp import ClientSession

from spillway.testing.faults import Cut, Script
from tests.integration.router.mesh import Mesh

TEXT = (Path(__file__).parents[4] / "docs" / "openai.md").read_text()


async def test_the_example_in_python_runs(mesh: Mesh, capsys: pytest.CaptureFixture[str]) -> None:
    [example] = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    code = compile(example.replace("127.0.0.1:7080", mesh.http) + "\nclient.close()\n", "docs/openai.md", "exec")
    await asyncio.to_thread(exec, code, {})
    assert capsys.readouterr().out == "small said: one two three four five\none two three four five"


async def test_the_examples_with_curl_are_answered(mesh: Mesh) -> None:
    mesh.local.faults, told = Script(None, always=Cut(2)), []
    async with ClientSession() as http:
        for example in re.findall(r"\$ curl (.*?)```", TEXT, re.DOTALL):
            headers = dict(re.findall(r"-H '(.*?): (.*?)'", example))
            [body] = re.findall(r"-d '(.*?)'", example)
            url = f"http://{mesh.http}/v1/chat/completions"
            async with http.post(url, json=json.loads(body), headers=headers) as response:
                told.append(await response.text())
    whole, stream = told
    assert json.loads(whole)["choices"][0]["message"]["content"] == "one two three four five"
    assert stream.endswith("data: [DONE]\n\n")
    assert '"content":" cloud"' in stream
