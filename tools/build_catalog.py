"""Write `src/tollbridge/data/catalog.json` from genai-prices, LiteLLM's price file and `tools/catalog_by_hand.toml`.

    python -m tools.build_catalog path/to/model_prices_and_context_window.json [--checked 2026-11-21]

For development: its output is reviewed and committed. Rules 1 to 5 decide between the sources.

Rule 1  The file written by hand wins. A price by hand says where it is from.
Rule 2  genai-prices beats LiteLLM if it names a provider's model outright; LiteLLM wins if genai-prices only takes the
        name for a member of a family. If the loser disagrees, what it says is kept as the route's `doubt`.
Rule 3  A model has one route per provider: its maker's first, then clouds, then resellers by price, OpenRouter last.
Rule 4  No price, a price that the catalog cannot hold, or nothing but zeros: no route.
        A route at its maker's price takes prices that a list leaves out from the maker. A route at another price that
        lacks a meter which the maker prices separately (sound, drawn pictures) is dropped.
Rule 5  A model that its maker does not serve is listed if two others serve it. None is listed without a known context
        window.
"""

import argparse
import json
import re
import tomllib
from collections.abc import Iterator
from datetime import date
from decimal import Decimal
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import msgspec
from tools.locks import ROOT
from tools.price_sources import Facts, GenaiPrices, LiteLLM, facts, litellm_price

from tollbridge.core.catalog import CAPABILITIES, MODALITIES, ModelRow, PriceRow, RouteRow, price

CATALOG = ROOT / "src" / "tollbridge" / "data" / "catalog.json"
BY_HAND = ROOT / "tools" / "catalog_by_hand.toml"


class Source(NamedTuple):
    """Where the lists keep a provider's models.

    `own`: genai-prices' ids are names that its API accepts. `days`: the days on which its hourly prices apply. `only`:
    the prefixes of names that this endpoint of it accepts.
    """

    provider: str
    genai: str = ""
    litellm: tuple[str, ...] = ()
    prefix: str = ""
    own: bool = False
    days: str = ""
    only: tuple[str, ...] = ("",)


# OpenRouter's names of makers, where they differ from the plain one.
_PLAIN_NAMES = {
    "bytedance-seed": "bytedance",
    "meta-llama": "meta",
    "mistralai": "mistral",
    "moonshotai": "moonshot",
    "stepfun-ai": "stepfun",
    "x-ai": "xai",
    "z-ai": "zhipu",
}

# In the order in which routes of the same price are tried.
SOURCES = (
    Source("openai", "openai", ("openai",)),
    Source("anthropic", "anthropic", ("anthropic",)),
    Source("gemini", "google", ("gemini",), "gemini/"),
    Source(
        "deepseek",
        "deepseek",
        ("deepseek",),
        "deepseek/",
        own=True,
        days="mon-fri",
        only=("deepseek-chat", "deepseek-reasoner", "deepseek-coder", "deepseek-v4", "deepseek-flash"),
    ),
    Source("mistral", "mistral", ("mistral",), "mistral/"),
    Source("xai", "x-ai", ("xai",), "xai/"),
    Source("cohere", "cohere", ("cohere_chat", "cohere")),
    Source("moonshot", "moonshotai", ("moonshot",), "moonshot/", own=True),
    Source("zai", "zai", ("zai",), "zai/"),
    Source("zhipu", "zhipuai", own=True),
    Source("minimax", "minimax", ("minimax",), "minimax/"),
    Source("qwen", "", ("dashscope",), "dashscope/"),
    Source("azure", "azure", ("azure",), "azure/"),
    Source("bedrock", "aws", ("bedrock_converse",), only=("openai.",)),
    Source("bedrock-mantle", "aws", ("bedrock_mantle",), "bedrock_mantle/"),
    # Calls would fail without a region in the name; with one, they cost a tenth more.
    Source("bedrock-anthropic", "aws", ("bedrock_converse",), only=("global.anthropic.",)),
    Source("vertex", "google", ("vertex_ai-language-models",), only=("gemini-",)),
    Source("vertex-anthropic", "google", ("vertex_ai-anthropic_models",), "vertex_ai/"),
    Source(
        "vertex-openai",
        "",
        tuple(f"vertex_ai-{maker}_models" for maker in ("llama", "qwen", "deepseek", "zai", "openai", "minimax")),
        "vertex_ai/",
    ),
    Source("groq", "groq", ("groq",), "groq/", own=True),
    Source("cerebras", "cerebras", ("cerebras",), "cerebras/", own=True),
    Source("fireworks", "fireworks", ("fireworks_ai",), "fireworks_ai/"),
    Source("together", "together", ("together_ai",), "together_ai/", own=True),
    Source("deepinfra", "", ("deepinfra",), "deepinfra/"),
    Source("novita", "novita", ("novita",), "novita/", own=True),
    Source("nebius", "", ("nebius",), "nebius/"),
    Source("sambanova", "", ("sambanova",), "sambanova/"),
    Source("baseten", "baseten", ("baseten",), "baseten/", own=True),
    Source("friendli", "", ("friendliai",), "friendliai/"),
    Source("hyperbolic", "", ("hyperbolic",), "hyperbolic/"),
    Source("openrouter", "openrouter", ("openrouter",), "openrouter/", own=True),
)
_PLACES = {source.provider: place for place, source in enumerate(SOURCES)}
_CLOUDS = frozenset(
    {"azure", "bedrock", "bedrock-mantle", "bedrock-anthropic", "vertex", "vertex-anthropic", "vertex-openai"}
)

# Whose model it is, by the prefix of its name; and the maker's own provider.
_MAKERS = (
    ("claude", "anthropic", "anthropic"),
    ("gpt-oss", "openai", "openai"),
    ("gpt|chatgpt|o1|o3|o4|codex|text-embedding-3|text-embedding-ada", "openai", "openai"),
    ("gemini|gemma|text-embedding-00", "google", "gemini"),
    ("deepseek", "deepseek", "deepseek"),
    ("mistral|mixtral|ministral|codestral|devstral|magistral|pixtral|voxtral|open-mi", "mistralai", "mistral"),
    ("qwen|qwq|qvq", "qwen", "qwen"),
    ("glm", "z-ai", "zai"),
    ("kimi|moonshot", "moonshotai", "moonshot"),
    ("grok", "x-ai", "xai"),
    ("command|c4ai|aya|embed-(?:v|english|multilingual)", "cohere", "cohere"),
    ("minimax", "minimax", "minimax"),
    ("llama", "meta-llama", ""),
    ("nemotron|llama.*nemotron", "nvidia", ""),
    ("hermes", "nousresearch", ""),
    ("phi", "microsoft", ""),
    ("nova", "amazon", ""),
    ("mimo", "xiaomi", ""),
    ("hy3|hy4|hunyuan", "tencent", ""),
    ("step-", "stepfun-ai", ""),
    ("ernie", "baidu", ""),
    ("seed", "bytedance-seed", ""),
    ("jamba", "ai21", ""),
    ("olmo", "allenai", ""),
    ("bge", "baai", ""),
)
_MAKER = tuple((re.compile(f"(?:{names})"), maker, provider) for names, maker, provider in _MAKERS)

# Made for other purposes than the existing endpoints, or priced by something in a request other than tokens.
_UNFIT = re.compile(
    r"realtime|tts|transcribe|whisper|ocr|moderation|guard|rerank|robotics|deep-research|computer-use|search-preview|"
    r"search-api|search$|live|voice|lyria|veo|imagen|image|dall-e|sora|banana|draft|safeguard|preset/|^ft:|:|~|^latest|"
    r"-base|beta|experimental|-gv2|gemini-gemma|phind|openorca|groq-|gpt-jt|content-safety|vibe-cli|-1b$|8192$|"
    r"multimodal-embedding|gpt-4-32k|gpt-3\.5-turbo-16k|gpt-35|sd-|flux|parse|vision-preview|cyber|daybreak"
)
# Different providers' names for the same weights.
_SAME = (
    (re.compile(r"(?<=\d)p(?=\d)"), "-"),
    (re.compile(r"^(?:us|eu|global|apac|au|jp|regional)\."), ""),
    (re.compile(r"^(?:anthropic|openai|google|xai|moonshotai|qwen|deepseek|zai|mistral|meta|minimax|nvidia)\."), ""),
    (re.compile(r"@default$|-v\d+:\d+$|-maas$"), ""),
    (re.compile(r"[._@:]"), "-"),
    (re.compile(r"^meta-llama-|^llama-v?(?=\d)|^llama(?=\d)"), "llama-"),
    (re.compile(r"^nvidia-(?=nemotron)|^zai-(?=glm)|^hf-"), ""),
    (re.compile(r"^qwen-?v?(?=\d)"), "qwen"),
)
_OPEN = re.compile(r"^(?:llama|qwen|gemma|deepseek|kimi|glm|gpt-oss|mixtral|mistral|minimax|hermes|phi|nemotron)")
_DRESS = re.compile(r"-(?:instruct|turbo|versatile|it|hf|fp8|chat|instant|tee|bf16|fast-fp8)$")


def key_of(name: str) -> str:
    """What all names of one model have in common."""
    key = name.lower().rpartition("/")[2]
    for pattern, put in _SAME:
        key = pattern.sub(put, key)
    if _OPEN.match(key) and key not in ("deepseek-chat",):
        while (bare := _DRESS.sub("", key)) != key:
            key = bare
    return key


def maker_of(key: str) -> tuple[str, str] | None:
    """The maker's name in public ids, and the maker's own provider (empty: none)."""
    return next(((maker, provider) for pattern, maker, provider in _MAKER if pattern.match(key)), None)


class Offer(NamedTuple):
    """One provider's way to serve a model."""

    provider: str
    name: str
    price: PriceRow
    source: str
    doubt: str
    facts: Facts | None


class Lists:
    """Both lists, asked together."""

    def __init__(self, genai: GenaiPrices, litellm: LiteLLM, day: date) -> None:
        self._genai = genai
        self._litellm = litellm
        self._day = day

    def offers(self) -> Iterator[Offer]:
        for source in SOURCES:
            names = dict.fromkeys(self._litellm.names(source.litellm, source.prefix))
            if source.own:
                names |= dict.fromkeys(self._genai.names(source.genai))
            for name in sorted(name for name in names if name.startswith(source.only)):
                if (offer := self._offer(source, name)) is not None:
                    yield offer if source.provider != "zhipu" else offer._replace(name=name.lower())

    def _offer(self, source: Source, name: str) -> Offer | None:
        if _UNFIT.search(name.removesuffix(":0")) or maker_of(key_of(name)) is None:
            return None
        offer = self.named(source, name)
        known = offer.facts if offer is not None else None
        if known is not None and (
            known.mode not in ("chat", "embedding") or (known.gone_on and known.gone_on <= self._day.isoformat())
        ):
            return None
        return offer

    def named(self, source: Source, name: str) -> Offer | None:
        """What the lists say about a model, whatever it is."""
        entry = self._litellm.get(source.prefix + name)
        known = facts(entry) if entry is not None else None
        theirs = litellm_price(entry) if entry is not None else None
        model = self._genai.find(source.genai, name) if source.genai else None
        if model is not None and (known is None or known.context_window is None):
            known = msgspec.structs.replace(known or Facts(), context_window=model.context_window)
        ours = self._genai.price(model, source.days) if model is not None else None
        if model is not None and ours is None:
            return None  # what one list says cannot be held: the other leaves something out
        named = model is not None and model.id.lower() == name.lower()
        # If LiteLLM knows of other hours, it is only asked for their days, in `SOURCES`.
        is_timed = entry is not None and "off_peak_pricing" in entry
        chosen, other = (ours, theirs) if ours is not None and (named or is_timed or theirs is None) else (theirs, ours)
        if chosen is None or _is_free(chosen):
            return None
        if source.provider == "openrouter" and name.startswith("google/"):
            chosen = _read_when_written(chosen)
        lists = (f"genai-prices {version('genai-prices')}", "LiteLLM")
        said, doubted = lists if chosen is ours else lists[::-1]
        return Offer(source.provider, name, chosen, said, _doubt(chosen, other, doubted), known)


def _read_when_written(row: PriceRow) -> PriceRow:
    """OpenRouter's price for writing Gemini's cache is what keeping it costs, below that of input. What is written is
    read at once, and charged as that too; here a token is in one meter.
    """

    def whole(read: str | None, written: str | None, plain: str) -> str | None:
        if read is None or written is None or Decimal(written) >= Decimal(plain):
            return written
        return str(Decimal(read) + Decimal(written))

    tiers = tuple(
        msgspec.structs.replace(tier, cache_write=whole(tier.cache_read, tier.cache_write, tier.input))
        for tier in row.tiers
    )
    return msgspec.structs.replace(row, cache_write=whole(row.cache_read, row.cache_write, row.input), tiers=tiers)


def _is_free(row: PriceRow) -> bool:
    return all(not float(each) for each in (row.input, row.output))


def _doubt(chosen: PriceRow, other: PriceRow | None, said: str) -> str:
    """What another list says, at the times and lengths of the base price, if its price differs."""
    if other is None:
        return ""
    bases = {row: msgspec.structs.replace(row, tiers=(), periods=()) for row in (chosen, other)}
    ours, theirs = price(bases[chosen]), price(bases[other])
    meters = ("input", "output", "cache_read")
    if all(getattr(ours, meter) == getattr(theirs, meter) for meter in meters):
        return ""
    return f"{said}: {other.input} in, {other.output} out" + (
        f", {other.cache_read} from cache" if other.cache_read else ""
    )


# --- putting together ---------------------------------------------------------------------------------------------


def build(lists: Lists, by_hand: list[ModelRow], checked: str) -> list[ModelRow]:
    """All rows: those by hand first, in their order, then the others by id."""
    grouped: dict[str, list[Offer]] = {}
    for offer in lists.offers():
        grouped.setdefault(key_of(offer.name), []).append(offer)
    rows = []
    for hand in by_hand:
        offers: list[Offer] = []
        for key in dict.fromkeys(key_of(name) for name in (hand.id, *hand.aliases)):
            offers += grouped.pop(key, [])
        rows.append(_completed(lists, hand, _one_each(offers, key_of(hand.id)), checked))
    for key in sorted(grouped):
        offers = _one_each(grouped[key], key)
        maker = maker_of(key)
        is_served = len(offers) > 1 or (maker is not None and offers[0].provider == maker[1])
        if is_served and _facts(offers).context_window is not None:
            rows.append(_row(key, offers, checked))
    return _with_bare_names(rows)


def _one_each(offers: list[Offer], key: str) -> list[Offer]:
    maker = maker_of(key)
    own = maker[1] if maker is not None else ""

    def rank(offer: Offer) -> tuple[int, float, int]:
        if offer.provider == own:
            return 0, 0.0, 0
        kind = 3 if offer.provider == "openrouter" else 1 if offer.provider in _CLOUDS else 2
        return kind, float(offer.price.input) + float(offer.price.output), _PLACES[offer.provider]

    best: dict[str, Offer] = {}
    # Of a provider's two names for the same model, prefer the model's own, then the shorter one.
    for offer in sorted(offers, key=lambda each: (each.name.lower().rpartition("/")[2] != key, len(each.name))):
        best.setdefault(offer.provider, offer)
    ranked = sorted(best.values(), key=rank)
    filled = (_filled(offer, ranked[0].price) for offer in ranked)
    return [offer for offer in filled if offer is not None]


def _filled(offer: Offer, first: PriceRow) -> Offer | None:
    """The offer with the meters that a list left out of its price; None: they are not known."""
    own = offer.price
    is_same = (own.input, own.output) == (first.input, first.output)
    lacking = {
        meter: getattr(first, meter)
        for meter in ("cache_write", "cache_write_1h", "audio_input", "audio_output", "image_output")
        if getattr(own, meter) is None and getattr(first, meter) is not None
    }
    if not is_same:
        return None if lacking.keys() & {"audio_input", "audio_output", "image_output"} else offer
    return offer._replace(price=msgspec.structs.replace(own, **lacking))


def _row(key: str, offers: list[Offer], checked: str) -> ModelRow:
    maker = maker_of(key)
    assert maker is not None, "only known makers' models are read"
    first, known = offers[0], _facts(offers)
    assert known.context_window is not None, "only models of a known window are listed"
    name = _public_name(key, offers, maker[1])
    row = ModelRow(
        id=f"{maker[0]}/{name}",
        type=_type(key, known),
        context_window=known.context_window,
        output_limit=_output_limit(known),
        owned_by=_PLAIN_NAMES.get(maker[0], maker[0]),
        aliases=_aliases(f"{maker[0]}/{name}", offers),
        input_modalities=known.input_modalities,
        output_modalities=known.output_modalities,
        capabilities=known.capabilities,
        price=first.price,
        routes=_routes(offers, first.price, first.source),
        source=first.source,
        checked=checked,
    )
    return msgspec.structs.replace(row, best_for=_best_for(row))


def _completed(lists: Lists, hand: ModelRow, offers: list[Offer], checked: str) -> ModelRow:
    """A row by hand, with what the lists add: capabilities, modalities, other names, more routes."""
    known = _facts(offers)
    given = {route.provider: route for route in hand.routes}
    others = [offer for offer in offers if offer.provider not in given]
    priced, source = hand.price, hand.source
    first = lists.named(SOURCES[_PLACES[hand.routes[0].provider]], hand.routes[0].model) if priced is None else None
    if priced is None:
        if first is None:
            raise SystemExit(f"{hand.id}: no list has its price at {hand.routes[0].provider}: write one by hand")
        priced, source = first.price, first.source
    by_hand = tuple(
        msgspec.structs.replace(route, doubt=first.doubt)
        if first is not None and route.provider == first.provider
        else route
        for route in hand.routes
    )
    return msgspec.structs.replace(
        hand,
        aliases=tuple(dict.fromkeys((*hand.aliases, *_aliases(hand.id, offers)))),
        input_modalities=known.input_modalities,
        output_modalities=known.output_modalities,
        capabilities=known.capabilities,
        price=priced,
        routes=(*by_hand, *_routes(others, priced, source)),
        source=source,
        checked=hand.checked or checked,
    )


def _routes(offers: list[Offer], priced: PriceRow, source: str) -> tuple[RouteRow, ...]:
    return tuple(
        RouteRow(
            provider=offer.provider,
            model=offer.name,
            price=None if offer.price == priced else offer.price,
            source="" if offer.source == source else offer.source,
            doubt=offer.doubt,
        )
        for offer in offers
    )


def _facts(offers: list[Offer]) -> Facts:
    """The facts of the first offer that states any; each limit from the first that states it."""
    known = [offer.facts for offer in offers if offer.facts is not None]
    if not known:
        return Facts()
    first = known[0]
    windows = [each.context_window for each in known if each.context_window]
    limits = [each.output_limit for each in known if each.output_limit]
    return msgspec.structs.replace(
        first,
        context_window=windows[0] if windows else None,
        output_limit=limits[0] if limits else None,
        capabilities=tuple(name for name in CAPABILITIES if name in first.capabilities),
        input_modalities=tuple(name for name in MODALITIES if name in first.input_modalities),
    )


def _output_limit(known: Facts) -> int | None:
    if known.mode == "embedding":
        return 1
    if known.output_limit is None or known.context_window is None:
        return None
    return min(known.output_limit, known.context_window)


def _public_name(key: str, offers: list[Offer], own: str) -> str:
    """The maker's own name; else OpenRouter's; else the plainest."""
    names = {offer.provider: offer.name.lower().rpartition("/")[2] for offer in offers}
    for wanted in (own, "openrouter"):
        if wanted in names:
            return names[wanted]
    plain = [name for provider, name in names.items() if provider not in _CLOUDS | {"fireworks"}]
    return min(plain, key=lambda name: (-plain.count(name), len(name)), default=key)


def _aliases(id_: str, offers: list[Offer]) -> tuple[str, ...]:
    """OpenRouter's name of it."""
    return tuple(offer.name for offer in offers if offer.provider == "openrouter" and offer.name != id_)


def _with_bare_names(rows: list[ModelRow]) -> list[ModelRow]:
    """Add names without a maker as aliases if no two models share them, and keep any other name for one model only."""
    ids = {row.id for row in rows}
    bare: dict[str, int] = {}
    for row in rows:
        for name in {each.rpartition("/")[2] for each in (row.id, *row.aliases)}:
            bare[name] = bare.get(name, 0) + 1
    seen: set[str] = set()
    named = []
    for row in rows:
        names = (row.id, *row.aliases)
        wanted = dict.fromkeys((*row.aliases, *(each.rpartition("/")[2] for each in names)))
        aliases = tuple(
            each for each in wanted if each not in ids and each not in seen and ("/" in each or bare.get(each, 0) == 1)
        )
        seen.update(aliases)
        named.append(msgspec.structs.replace(row, aliases=aliases))
    return named


def _type(key: str, known: Facts) -> str:
    if known.mode == "embedding":
        return "embedding"
    if re.search(r"code|codestral|devstral|codex", key):
        return "coding"
    if re.search(r"^o[134](?:-|$)|thinking|reason|-r1|magistral|qwq", key) and "non-reasoning" not in key:
        return "reasoning"
    return "chat"


def _best_for(row: ModelRow) -> str:
    """A line made from its facts: for more, write it by hand."""
    if row.type == "embedding":
        return "Embeddings"
    what = {"coding": "Code and tools", "reasoning": "Reasoning step by step"}.get(row.type)
    if what is None:
        what = "Reasoning and conversation" if "reasoning" in row.capabilities else "Conversation"
        what += " with tools" if "tools" in row.capabilities else ""
    names = {"image": "pictures", "audio": "sound", "video": "film", "file": "documents"}
    reads = [names[each] for each in row.input_modalities if each in names]
    if reads:
        what += f"; reads {', '.join(reads[:-1])}{' and ' if reads[:-1] else ''}{reads[-1]}"
    if row.context_window >= 200_000:
        what += f"; {row.context_window // 1000:,}k tokens of context"
    return what


def main() -> None:
    parser = argparse.ArgumentParser(description="Write data/catalog.json.")
    parser.add_argument("litellm", type=Path, help="LiteLLM's model_prices_and_context_window.json")
    parser.add_argument("--checked", type=date.fromisoformat, default=date.today(), help="when the lists were read")  # noqa: DTZ011
    arguments = parser.parse_args()
    document = json.loads(arguments.litellm.read_text())
    hand = msgspec.convert(tomllib.loads(BY_HAND.read_text())["models"], list[ModelRow])
    day = arguments.checked
    rows = build(Lists(GenaiPrices(day), LiteLLM(document), day), hand, day.isoformat())
    lines = ",\n".join(msgspec.json.encode(row).decode() for row in rows)
    CATALOG.write_text(f'{{"models":[\n{lines}\n]}}\n')
    providers = {route.provider for row in rows for route in row.routes}
    doubts = sum(bool(route.doubt) for row in rows for route in row.routes)
    routes = sum(len(row.routes) for row in rows)
    print(f"{len(rows)} models of {len(providers)} providers, {routes} routes, {doubts} prices in doubt")


if __name__ == "__main__":
    main()
