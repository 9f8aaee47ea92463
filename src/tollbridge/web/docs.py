"""The guide: Markdown from `guide/`, with this gateway's own values filled in; and the API's reference.

A text has marks. «name», «url», «base_url», «key_prefix», «header», «model», «window» (its tokens) and «embedding»
stand for this gateway's own values, «keeping» for how often a key is shown, «fitting» for what becomes of a field that
a provider cannot take. A line «parameters PATH» stands for the table of an endpoint's fields, «errors» for the table of
errors.
"""

import html
import re
from functools import lru_cache, partial
from pathlib import Path

import msgspec
from markupsafe import Markup
from starlette.responses import Response

from tollbridge.config.settings import Errors
from tollbridge.errors import NotFound
from tollbridge.web import api as management
from tollbridge.web import markdown, models, openapi
from tollbridge.web.markdown import Code, Text
from tollbridge.web.page import ANYONE, Page
from tollbridge.web.visit import Visit

FOLDER = Path(__file__).parent / "guide"
MOST_HITS = 30
_EXCERPT = 140
_MARK = re.compile(r"«(\w+)»")
_TABLE = re.compile(r"^«(parameters|errors)(?: (\S+))?»$", re.MULTILINE)
_TAGS = re.compile(r"<[^>]+>")


class Guide(msgspec.Struct, frozen=True):
    """A page of the guide; the first one is `/docs` itself."""

    name: str
    label: str
    group: str

    @property
    def path(self) -> str:
        return "/docs" if self.name == "quick-start" else f"/docs/{self.name}"


class Fill(msgspec.Struct, frozen=True):
    """What the marks of a text stand for."""

    name: str
    url: str
    key_prefix: str
    header: str
    model: str
    window: str
    embedding: str
    errors: Errors = Errors()
    reveal: str = "once"
    require_parameters: bool = True

    @property
    def base_url(self) -> str:
        return f"{self.url}/v1"

    @property
    def keeping(self) -> str:
        if self.reveal == "always":
            return "The dashboard shows your keys at every visit."
        return "A key is shown once, when it is made: keep it where only your programs find it."

    @property
    def fitting(self) -> str:
        if self.require_parameters:
            return "If the provider cannot do what a field asks for, the answer is `400`, and `param` names the field."
        return f"A field that the provider cannot take is left out; `{self.header}-Dropped-Fields` then names it."


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """An operation of the API's reference. `fields`: name, type, whether it is required, what it must be."""

    operation: openapi.Operation
    text: Markup
    example: Markup
    fields: list[tuple[str, str, bool, str]]
    query: list[tuple[str, Markup]]


class Hit(msgspec.Struct, frozen=True):
    path: str
    title: str
    part: str
    excerpt: str


GUIDES = (
    Guide("quick-start", "Quick start", "Begin"),
    Guide("authentication", "Authentication", "Begin"),
    Guide("models-and-routing", "Models and routing", "Begin"),
    Guide("tools", "SDKs and tools", "Begin"),
    Guide("chat-completions", "Chat completions", "Endpoints"),
    Guide("completions", "Completions", "Endpoints"),
    Guide("embeddings", "Embeddings", "Endpoints"),
    Guide("responses", "Responses", "Endpoints"),
    Guide("messages", "Messages", "Endpoints"),
    Guide("account", "Credit, keys, requests", "Endpoints"),
    Guide("streaming", "Streaming", "How it works"),
    Guide("rate-limits", "Rate limits", "How it works"),
    Guide("errors", "Errors", "How it works"),
    Guide("billing", "Billing", "How it works"),
    Guide("retries", "Retries and idempotency", "How it works"),
    Guide("own-keys", "Bring your own key", "How it works"),
    Guide("api", "API reference", "Reference"),
)
_WRITTEN = {guide.name: guide for guide in GUIDES if guide.name != "api"}


def fill(visit: Visit) -> Fill:
    """This gateway's own values, with models that it serves."""
    shared = visit.shared
    brand, catalog = shared.settings.brand, shared.catalog()
    chat = models.first_chat(catalog, brand.example_model)
    embedding = next((model.id for model in catalog.models.values() if model.type == "embedding"), "an-embedding-model")
    return Fill(
        name=brand.name,
        url=shared.desk.url,
        key_prefix=brand.key_prefix,
        header=brand.header_prefix,
        model="a-model" if chat is None else chat.id,
        window="128000" if chat is None else str(chat.context_window),
        embedding=embedding,
        errors=shared.settings.errors,
        reveal=shared.settings.keys.reveal,
        require_parameters=shared.settings.routing.require_parameters,
    )


def filled(text: str, own: Fill) -> str:
    """`text` with its marks filled in. AttributeError: an unknown mark, which is a mistake in the text."""
    return _MARK.sub(lambda match: getattr(own, match[1]), text)


@lru_cache(maxsize=128)
def rendered(name: str, own: Fill) -> Text:
    source = (FOLDER / f"{name}.md").read_text("utf-8")
    return markdown.render(filled(_TABLE.sub(partial(_table, own), source), own))


async def index(visit: Visit) -> Response:
    return _show(visit, "quick-start")


async def guide(visit: Visit) -> Response:
    name = visit.path("name")
    if name == "quick-start":
        return visit.redirect("/docs")
    if name not in _WRITTEN:
        raise NotFound("There is no such page in the guide. Try its search.")
    return _show(visit, name)


async def search(visit: Visit) -> Response:
    words = visit.query("q")[:100].lower().split()
    hits = [hit for name in _WRITTEN for hit in found(name, fill(visit), words)] if words else []
    hits.sort(key=lambda hit: sum(word not in f"{hit.title} {hit.part}".lower() for word in words))
    return visit.render("public/search.html", guides=_groups(), q=visit.query("q")[:100], hits=hits[:MOST_HITS])


async def api(visit: Visit) -> Response:
    own = fill(visit)
    return visit.render(
        "public/api.html",
        guides=_groups(),
        groups=reference(own),
        management=management.OPERATIONS,
        problems=openapi.problems(own.errors),
        inline=markdown.inline,
    )


@lru_cache(maxsize=8)
def reference(own: Fill) -> dict[str, list[Entry]]:
    """Every operation as the reference shows it, by its group."""
    groups: dict[str, list[Entry]] = {}
    for operation in openapi.OPERATIONS:
        entry = Entry(
            operation=operation,
            text=markdown.inline(filled(operation.text, own)),
            example=_example(operation, own),
            fields=openapi.parameters(operation),
            query=[(name, markdown.inline(filled(text, own))) for name, text in operation.query.items()],
        )
        groups.setdefault(operation.group, []).append(entry)
    return groups


def found(name: str, own: Fill, words: list[str]) -> list[Hit]:
    """The sections of a page in which a word occurs, and all words if the page's title is counted too."""
    text = rendered(name, own)
    hits = []
    for id_, heading, body in _parts(text):
        plain = " ".join(html.unescape(_TAGS.sub(" ", body)).split())
        if all(word in f"{text.title} {heading} {plain}".lower() for word in words) and any(
            word in f"{heading} {plain}".lower() for word in words
        ):
            path = _WRITTEN[name].path + (f"#{id_}" if id_ else "")
            hits.append(Hit(path, text.title, heading, _excerpt(plain, words)))
    return hits


def _parts(text: Text) -> list[tuple[str, str, str]]:
    """(id, heading, HTML) of what precedes the first level-2 heading, and of what follows each."""
    pieces = re.split(r'<h2 id="([^"]+)">', str(text.html))
    names = {heading.id: heading.text for heading in text.headings}
    parts = [("", "", pieces[0])]
    for id_, body in zip(pieces[1::2], pieces[2::2], strict=True):
        parts.append((id_, names[id_], body.partition("</h2>")[2]))
    return parts


def _excerpt(plain: str, words: list[str]) -> str:
    low = plain.lower()
    start = max(0, min((low.find(word) for word in words if word in low), default=0) - 40)
    piece = plain[start : start + _EXCERPT]
    return ("… " if start else "") + piece.strip() + (" …" if start + _EXCERPT < len(plain) else "")


def _show(visit: Visit, name: str) -> Response:
    text = rendered(name, fill(visit))
    position = next(index for index, each in enumerate(GUIDES) if each.name == name)
    return visit.render(
        "public/guide.html",
        guides=_groups(),
        guide=GUIDES[position],
        text=text,
        before=GUIDES[position - 1] if position else None,
        after=GUIDES[position + 1] if position + 1 < len(GUIDES) else None,
    )


def _groups() -> dict[str, list[Guide]]:
    groups: dict[str, list[Guide]] = {}
    for each in GUIDES:
        groups.setdefault(each.group, []).append(each)
    return groups


def _table(own: Fill, match: re.Match[str]) -> str:
    """The table that a whole-line mark stands for, in Markdown."""
    if match[1] == "errors":
        rows = [f"| {each.status} | `{each.code}` | {each.advice} |" for each in openapi.problems(own.errors)]
        return "\n".join(["| status | code | what to do |", "|---|---|---|", *rows])
    operation = next(each for each in openapi.OPERATIONS if each.path == match[2])
    rows = [
        f"| `{name}`{' **required**' if must else ''} | {kind} | {rule.replace('|', chr(92) + '|')} |"
        for name, kind, must, rule in openapi.parameters(operation)
    ]
    return "\n".join(["| field | type | must be |", "|---|---|---|", *rows])


def _example(operation: openapi.Operation, own: Fill) -> Markup:
    """A call of the endpoint with curl."""
    address = own.url + operation.path.replace("{id}", own.model)
    # Unquoted, zsh takes the question mark for a pattern of names of files.
    lines = [f'curl "{address}?id=ID_OF_THE_ANSWER"' if operation.query else f"curl {address}"]
    if not operation.public:
        lines.append('-H "Authorization: Bearer YOUR_API_KEY"')
    if operation.example is not None:
        lines.append('-H "Content-Type: application/json"')
        lines.append(f"-d '{msgspec.json.encode(operation.example).decode()}'")
    return markdown.tabs(f"call-{operation.id}", [Code("sh", filled(" \\\n  ".join(lines), own))])


PAGES = (
    Page("GET", "/docs", ANYONE, index),
    Page("GET", "/docs/search", ANYONE, search),
    Page("GET", "/docs/api", ANYONE, api),
    Page("GET", "/docs/{name}", ANYONE, guide),
)
