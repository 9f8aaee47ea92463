"""The first page after log-in: the key, the first call, what is left, and what was used lately."""

from starlette.responses import Response

from tollbridge.core import roles
from tollbridge.services import playground, reveal
from tollbridge.services import usage as service
from tollbridge.services.standing import standing
from tollbridge.services.usage import RANGES
from tollbridge.store import account_keys, members, requests
from tollbridge.store.requests import NEWEST, Filter
from tollbridge.values import Model
from tollbridge.web import markdown, models, snippets
from tollbridge.web.page import MEMBER, USER, Page
from tollbridge.web.requests import OUTCOMES, names, public_id
from tollbridge.web.usage import CHARTS, draw, latency
from tollbridge.web.visit import Visit

PERIOD = RANGES["7d"]
RECENT = 8
# How many are offered beside the quick start; all others are on the page of models.
MOST_MODELS = 24
_SHOWN = ("spend", "requests")


async def overview(visit: Visit) -> Response:
    shared, account = visit.shared, visit.account
    database = shared.database
    shown = []
    if visit.somebody.role in roles.DEVELOPERS and visit.request.method == "GET":
        shown = await reveal.keys_to_show(shared.desk, account.id)
    every = await account_keys.of_account(database, account.id)
    hidden = playground.own_keys(shared.desk, account, {key.public_id for key in every})
    keys = [key for key in every if key.state(visit.now) == "live" and key.public_id not in hidden]
    if shown and shown[0].again:
        # A disabled or ended key has its own page; this one shows keys that calls can be made with.
        works = {key.public_id for key in keys}
        shown = [key for key in shown if key.public_id in works]
    report = await service.report(database, account.id, PERIOD.period(visit.now))
    total = service.lines([report.total], report.period)
    found = await requests.page(database, account.id, Filter(), NEWEST, RECENT)
    model = chosen(visit)
    base_url = f"{shared.desk.url}/v1"
    code = snippets.first_call(base_url, model, shown[0].text if shown else snippets.KEY)
    return visit.render(
        "dashboard/overview.html",
        shown=shown,
        labels={key.public_id: key.label for key in every},
        keys=keys[::-1],
        base_url=base_url,
        model=model,
        models=_choices(visit, model, [each.id for each in report.models if each.id]),
        code=markdown.tabs("first-call", code),
        standing=await standing(database, shared.limiter, shared.settings.plans, account),
        period=PERIOD,
        total=report.total.total,
        drawn=[draw(chart, report, total) for chart in CHARTS if chart.name in _SHOWN],
        latency=latency,
        lines=found.lines,
        ids=[public_id(visit, line.endpoint, line.hold) for line in found.lines],
        names=await names(visit, found.lines),
        outcomes=OUTCOMES,
    )


def chosen(visit: Visit) -> Model | None:
    """The model that the example calls: the one asked for, or the one of all examples."""
    catalog, example = visit.shared.catalog(), visit.shared.settings.brand.example_model
    return catalog.models.get(visit.query("model")) or models.first_chat(catalog, example)


def _choices(visit: Visit, model: Model | None, used: list[str]) -> list[str]:
    """Models to choose from: the one shown, those used lately, then others."""
    there = visit.shared.catalog().models
    wanted = [*([model.id] if model is not None else []), *(each for each in used if each in there), *there]
    return list(dict.fromkeys(wanted))[:MOST_MODELS]


async def no_account(visit: Visit) -> Response:
    """For users who belong to no account, or no longer to any."""
    belongings = await members.of_user(visit.shared.database, visit.user.id)
    return visit.render("dashboard/no_account.html", belongings=belongings)


PAGES = (
    Page("GET", "/dashboard", MEMBER, overview),
    Page("GET", "/dashboard/no-account", USER, no_account),
)
