"""A caller's preferences about routes, in the members of a body that OpenRouter has for them: `models`, `provider`.

They are read here, in the same way for every endpoint, and are not sent upstream. Callers name a provider, never an
address: which server is called with which credential is the operator's business.
"""

from decimal import Decimal
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from tollbridge.errors import InvalidRequest
from tollbridge.values import Preferences
from tollbridge.wire.body import NULL
from tollbridge.wire.request import ModelName, Request, read_typed, wrong

MAX_MODELS = 8
MAX_NAMES = 64
# USD per million tokens: far above any price, and small enough to be an integer of pico-USD.
MAX_PRICE = 1_000_000
_PICO = 1_000_000

_Names = Annotated[list[Annotated[str, Meta(min_length=1, max_length=100)]], Meta(max_length=MAX_NAMES)]


class _MaxPrice(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    prompt: Decimal | None = None
    completion: Decimal | None = None


class _Provider(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    order: _Names | None = None
    only: _Names | None = None
    ignore: _Names | None = None
    sort: Literal["price", "throughput", "latency"] | None = None
    max_price: _MaxPrice | None = None
    require_parameters: bool | None = None
    allow_fallbacks: bool | None = None


class _Wishes(msgspec.Struct, gc=False):
    models: Annotated[list[ModelName], Meta(max_length=MAX_MODELS)] | None = None
    provider: _Provider | None = None


_DECODER = msgspec.json.Decoder(_Wishes)
_PRICE_RULE = f"must be a number from 0 to {MAX_PRICE:,}: USD per million tokens"
_NAMES_RULE = f"must be an array of at most {MAX_NAMES} names of providers"
_RULES = {
    "models": f"must be an array of at most {MAX_MODELS} names of models, tried in order when `model` cannot answer",
    "models[]": "must be the name of a model: a string of 1 to 256 characters without control characters",
    "provider": "must be an object of order, only, ignore, sort, max_price, require_parameters and allow_fallbacks",
    "provider.order": _NAMES_RULE,
    "provider.only": _NAMES_RULE,
    "provider.ignore": _NAMES_RULE,
    "provider.sort": "must be price, throughput or latency",
    "provider.max_price": "must be an object of prompt and completion",
    "provider.max_price.prompt": _PRICE_RULE,
    "provider.max_price.completion": _PRICE_RULE,
    "provider.require_parameters": "must be true or false",
    "provider.allow_fallbacks": "must be true or false",
}
_KNOWN = {
    "provider": frozenset(_Provider.__struct_fields__),
    "provider.max_price": frozenset(_MaxPrice.__struct_fields__),
}
# OpenRouter's older wish for what every answer has here; strict providers refuse it.
_USAGE = "usage"


def read(request: Request) -> Request:
    """`request` with its preferences read and taken out of its fields; raises `InvalidRequest` naming the field."""
    fields = request.fields
    if "provider" not in fields and "models" not in fields and _USAGE not in fields:
        return request
    wanted = {name: fields[name] for name in ("models", "provider") if name in fields}
    rest = {name: value for name, value in fields.items() if name not in wanted and name != _USAGE}
    if all(value == NULL for value in wanted.values()):
        return msgspec.structs.replace(request, fields=rest)
    _refuse_unknown("provider", wanted.get("provider", NULL))
    wishes = read_typed(msgspec.json.encode(wanted), _DECODER, _RULES)
    for index, name in enumerate(wishes.models or ()):
        if not name.isprintable() or name.isspace():
            raise wrong(f"models[{index}]", _RULES)
    return msgspec.structs.replace(request, fields=rest, preferences=_preferences(wishes))


def _refuse_unknown(path: str, raw: msgspec.Raw) -> None:
    """Refuse a member that is unknown here: if it were ignored, its sender would think that it is obeyed."""
    if not bytes(raw).lstrip().startswith(b"{"):
        return
    members = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
    for name, value in members.items():
        inside = f"{path}.{name[:64]}"
        if name not in _KNOWN[path]:
            raise InvalidRequest(f"Unknown field '{inside}': '{path}' {_RULES[path]}.", param=inside)
        if inside in _KNOWN:
            _refuse_unknown(inside, value)


def _preferences(wishes: _Wishes) -> Preferences:
    models = tuple(dict.fromkeys(wishes.models or ()))
    provider = wishes.provider
    if provider is None:
        return Preferences(models=models)
    price = provider.max_price or _MaxPrice()
    return Preferences(
        models=models,
        order=None if provider.order is None else tuple(dict.fromkeys(map(str.lower, provider.order))),
        only=None if provider.only is None else frozenset(map(str.lower, provider.only)),
        ignore=frozenset(map(str.lower, provider.ignore or ())),
        sort=provider.sort,
        max_prompt=_pico("provider.max_price.prompt", price.prompt),
        max_completion=_pico("provider.max_price.completion", price.completion),
        require_parameters=provider.require_parameters,
        allow_fallbacks=provider.allow_fallbacks is not False,
    )


def _pico(param: str, usd_per_million: Decimal | None) -> int | None:
    if usd_per_million is None:
        return None
    if not usd_per_million.is_finite() or not 0 <= usd_per_million <= MAX_PRICE:
        raise wrong(param, _RULES)
    return int(usd_per_million * _PICO)
