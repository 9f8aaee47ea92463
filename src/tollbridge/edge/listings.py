"""`GET /v1/models`: what a caller can call, in OpenAI's form, or in Anthropic's for clients of Anthropic's."""

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Raw

from tollbridge.core.catalog import Catalog
from tollbridge.core.listing import anthropic_fields, model_fields
from tollbridge.gateway.callers import Caller
from tollbridge.values import Model

# What a plan and a key allow: their patterns, and the plan's markup.
_Allowance = tuple[int | None, tuple[str, ...], tuple[str, ...] | None]
_ALLOWANCES_KEPT = 1_000


class Listings:
    """Entries are encoded once: there are hundreds. Nor is it found out again for each listing which of them a key may
    call: it may have a hundred patterns, and listings cost nothing. `catalogs`: by plans' markup.
    """

    def __init__(self, catalogs: Mapping[int | None, Catalog]) -> None:
        self._catalogs = catalogs
        self._entries: dict[tuple[int | None, str, bool], Raw] = {}
        self._allowed: dict[_Allowance, list[Model]] = {}

    def answer(self, caller: Caller, wanted: str, *, anthropic: bool) -> bytes:
        """The body for all models, or for the one called `wanted`. Raises `NotFound`."""
        markup = caller.plan.markup_ppm
        catalog = self._catalogs[markup]
        if wanted:
            model = catalog.resolve(wanted)
            if not caller.may_call(model):
                Catalog({}).resolve(wanted)
            return bytes(self._entry(model, markup, anthropic))
        models = self._models_of(caller, catalog)
        if anthropic:  # which has no embeddings, and its clients no way to ask for them
            models = [model for model in models if model.type != "embedding"]
        data = [self._entry(model, markup, anthropic) for model in models]
        listed: dict[str, Any] = {"data": data}
        if anthropic:
            # All at once, whatever page was asked for: clients go on only if there is more.
            first, last = (models[0].id, models[-1].id) if models else (None, None)
            listed |= {"has_more": False, "first_id": first, "last_id": last}
        else:
            # All at once too. OpenRouter's SDK wants to be told.
            listed = {"object": "list", **listed, "total_count": len(data), "links": {"next": None}}
        return msgspec.json.encode(listed)

    def _models_of(self, caller: Caller, catalog: Catalog) -> list[Model]:
        asked = caller.plan.markup_ppm, caller.plan.models, caller.models
        allowed = self._allowed.get(asked)
        if allowed is None:
            if len(self._allowed) >= _ALLOWANCES_KEPT:
                self._allowed.clear()
            allowed = [model for model in catalog.models.values() if caller.may_call(model)]
            self._allowed[asked] = allowed
        return allowed

    def _entry(self, model: Model, markup: int | None, anthropic: bool) -> Raw:
        entry = self._entries.get((markup, model.id, anthropic))
        if entry is None:
            fields = anthropic_fields(model) if anthropic else model_fields(model)
            entry = self._entries[markup, model.id, anthropic] = Raw(msgspec.json.encode(fields))
        return entry
