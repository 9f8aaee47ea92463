"""The playground: chat with any model in the browser.

Its page calls `POST /playground/chat`, which is `/v1/chat/completions` with the account's own key added on this side:
the same admission, holds, charges and limits as for every other caller, and no second way around any of them.
"""

from typing import Any

from starlette.responses import Response

from tollbridge.core.plans import DEFAULT_PLAN
from tollbridge.services import playground
from tollbridge.store import prices
from tollbridge.web import markdown
from tollbridge.web.markdown import Code
from tollbridge.web.page import DEVELOPER, Page
from tollbridge.web.visit import Edge, Visit

ENDPOINT = "/v1/chat/completions"
# The only browser headers that are passed on; its cookies were checked here.
_KEPT = frozenset({b"content-type", b"content-encoding"})


class Passed(Response):
    """What the edge answers to this request, made with `key`."""

    def __init__(self, edge: Edge, key: str) -> None:
        super().__init__()
        self._edge = edge
        self._key = key

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        kept = [(name, value) for name, value in scope["headers"] if name in _KEPT]
        headers = [*kept, (b"authorization", f"Bearer {self._key}".encode())]
        own = {"path": ENDPOINT, "raw_path": ENDPOINT.encode(), "query_string": b"", "headers": headers}
        await self._edge({**scope, **own}, receive, send)


async def page(visit: Visit) -> Response:
    shared = visit.shared
    plans = shared.settings.plans
    plan = plans.get(visit.account.plan) or plans[DEFAULT_PLAN]
    models = [
        model.id for model in shared.catalog().models.values() if model.type != "embedding" and plan.allows(model)
    ]
    wanted = (visit.query("model"), *await prices.latest_models(shared.database, visit.account.id), *models)
    code = [Code("python", "…"), Code("js", "…"), Code("sh", "…")]
    return visit.render(
        "playground/playground.html",
        models=models,
        first=next((each for each in wanted if each in models), ""),
        base_url=f"{shared.desk.url}/v1",
        code=markdown.tabs("shown", code),
    )


async def chat(visit: Visit) -> Response:
    key = await playground.key_of(visit.shared.desk, visit.account)
    return Passed(visit.shared.edge, key)


PAGES = (
    Page("GET", "/playground", DEVELOPER, page),
    Page("POST", "/playground/chat", DEVELOPER, chat, passes=True),
)
