"""A gateway configured by a preset, with customers who signed up through its pages.

    async with Shop("modelbridge") as shop:
        customer = await shop.customer("ada@example.com")
        reply = await shop.post("/v1/chat/completions", hello("deepseek-chat"), customer.bearer)

Every provider of the preset's models is one scripted server.
"""

import asyncio
import json
import re
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Final

import msgspec
import openai
from tests.gateway.site import Answer, Json, Site, by_kind, completion, says, stream, streams
from tests.upstream.bad_server import Peer, Request
from tests.web.visitors import Visitor, registered

from tollbridge.core import keys as form
from tollbridge.services import accounts, keys

PROVIDERS: Final = {
    "modelbridge": ("deepseek", "qwen", "zhipu", "moonshot", "openai"),
    "model-database": ("openrouter", "openai"),
}
VECTOR = [0.25, -0.5, 1.0]
TEXT = "Hello! How can I help?"
USED = (9, 7)


async def well(request: Request, peer: Peer) -> None:
    """What a well-behaved provider answers."""
    if request.target.endswith(b"/embeddings"):
        data = [{"object": "embedding", "index": 0, "embedding": VECTOR}]
        usage = {"prompt_tokens": 5, "total_tokens": 5}
        answer = says({"object": "list", "data": data, "model": "theirs", "usage": usage})
    else:
        whole = says(completion(TEXT, USED, model=json.loads(request.body)["model"]))
        answer = by_kind(whole, streams(stream(["Silent", " code"], USED)))
    await answer(request, peer)


class Customer(msgspec.Struct, frozen=True):
    """Somebody with an account and the key `key`."""

    key: str

    @property
    def bearer(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.key}"}


class Shop(Site):
    """`config`: the operator's file besides the preset, tables first. `seconds`: how long providers get."""

    def __init__(
        self, preset: str, answer: Answer = well, *, config: str = "", seconds: str = "3s", **options: Any
    ) -> None:
        super().__init__(self._script_of(answer), **options)
        self._preset = preset
        self._own = config
        self._seconds = seconds

    def _script_of(self, answer: Answer) -> Callable[[Peer], Coroutine[Any, Any, None]]:
        async def script(peer: Peer) -> None:
            while True:
                request = await peer.request()
                self.requests.append(request)
                await answer(request, peer)

        return script

    def _config(self, folder: Path) -> str:
        rows = "".join(
            f'\n[providers.{name}]\nbase_url = "{self.upstream.url}/v1"\napi_key = "env:TEST_UPSTREAM_KEY"\n'
            f'timeout = "{self._seconds}"\nconnect_timeout = "1s"\n'
            for name in PROVIDERS[self._preset]
        )
        return f'preset = "{self._preset}"\ndata_dir = "{folder}"\n{rows}\n{self._own}'

    async def customer(self, email: str) -> Customer:
        """Somebody who registered and copied the key from the first dashboard."""
        visitor = await registered(self, email)
        [key] = self.keys_on((await visitor.get("/dashboard")).text)
        return Customer(key)

    def visitor(self) -> Visitor:
        return Visitor(self)

    def keys_on(self, page: str) -> list[str]:
        """The full keys shown by a page, each once."""
        prefix = self.settings.brand.key_prefix
        found = re.findall(rf"{re.escape(prefix)}[A-Za-z0-9_-]+", page)
        return [each for each in dict.fromkeys(found) if form.well_formed(prefix, each)]

    async def on_plan(self, plan: str) -> Customer:
        """Somebody on another plan, with credit."""
        account = await accounts.create(
            self.database, f"{plan}@example.com", plan=plan, plans=self.settings.plans, credit=10**9, actor="test"
        )
        made = await keys.create(self.database, self._master, account, self.settings.brand.key_prefix, actor="test")
        return Customer(made.text)

    async def sdk(self, customer: Customer, use: Callable[[openai.OpenAI], Any]) -> Any:
        """What `use` returns with OpenAI's client for Python, which is told only a base URL and a key."""

        def call() -> Any:
            base_url = f"http://127.0.0.1:{self.port}/v1"
            with openai.OpenAI(base_url=base_url, api_key=customer.key, max_retries=0) as client:
                return use(client)

        return await asyncio.get_running_loop().run_in_executor(None, call)

    def asked(self, number: int = -1) -> Json:
        """The body of a request as the provider received it."""
        return dict(json.loads(self.requests[number].body))


def hello(model: str, **fields: Any) -> Json:
    return {"model": model, "messages": [{"role": "user", "content": "Hello!"}], **fields}


def is_error(body: Json) -> bool:
    """Whether it is an error in OpenAI's form, with the text in `detail` too."""
    error: Json = body["error"]
    said: str = error["message"]
    return error.keys() >= {"message", "type", "param", "code"} and said != "" and body["detail"] == said
