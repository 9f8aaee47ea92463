"""Price versions: the exact terms of a route, written once, and referred to by whatever was charged under them."""

import hashlib
from collections.abc import Iterable, Sequence

import msgspec

from tollbridge.store.db import Database, Transaction, run
from tollbridge.values import Price, Route

_ALL = "SELECT id, terms FROM price_version"
# Of so many requests at most, so that it costs the same whatever they were.
_LATEST = """
SELECT terms FROM (
  SELECT hold_id, price_version, outcome, ended_at FROM usage WHERE account_id = $1
  ORDER BY ended_at DESC, hold_id DESC LIMIT 50
) AS latest JOIN price_version ON price_version.id = latest.price_version
WHERE outcome <= 2 ORDER BY ended_at DESC, hold_id DESC
"""


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """What the customer pays and what the provider bills: the customer pays `price` × `multiplier_ppm` / 10⁶."""

    model: str
    provider: str
    upstream_model: str
    price: Price
    cost: Price
    multiplier_ppm: int = 1_000_000


class _Named(msgspec.Struct, frozen=True):
    model: str


def terms_of(route: Route) -> Terms:
    return Terms(
        model=route.model,
        provider=route.upstream.provider,
        upstream_model=route.upstream_model,
        price=route.price,
        cost=route.cost,
        multiplier_ppm=route.multiplier_ppm,
    )


def digest(terms: str) -> bytes:
    """`price_version.digest` of the text in `price_version.terms`."""
    return hashlib.sha256(terms.encode()).digest()


async def register(database: Database, terms: Sequence[Terms]) -> list[int]:
    """The version of each of `terms`, in order. The same terms get the same version, whoever asks."""
    texts = [msgspec.json.encode(each, order="deterministic").decode() for each in terms]
    known = dict(await _known(database))
    missing = {digest(text): text for text in texts if digest(text) not in known}
    if missing:
        now = await database.now()

        async def add(transaction: Transaction) -> None:
            for key, text in missing.items():
                await transaction.execute(
                    "INSERT INTO price_version (digest, terms, created_at) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
                    *(key, text, now),
                )

        await run(database, add)
        known = dict(await _known(database))
    return [known[digest(text)] for text in texts]


async def models(database: Transaction, versions: Iterable[int]) -> dict[int, str]:
    """The model of each of `versions` that exists."""
    wanted = f",{','.join(map(str, sorted(set(versions))))},"
    rows = await database.fetch(
        "SELECT id, terms FROM price_version WHERE CAST($1 AS TEXT) LIKE '%,' || CAST(id AS TEXT) || ',%'", wanted
    )
    return {id_: msgspec.json.decode(text, type=_Named).model for id_, text in rows}


async def latest_models(database: Transaction, account_id: int) -> list[str]:
    """The models that answered the latest requests of an account, newest first."""
    return [msgspec.json.decode(text, type=_Named).model for (text,) in await database.fetch(_LATEST, account_id)]


async def of_model(database: Transaction, text: str) -> frozenset[int]:
    """The versions of all models whose name contains `text`, ignoring case."""
    names = {id_: msgspec.json.decode(terms, type=_Named).model for id_, terms in await database.fetch(_ALL)}
    return frozenset(id_ for id_, name in names.items() if text.lower() in name.lower())


async def _known(database: Transaction) -> list[tuple[bytes, int]]:
    return [(bytes(key), id_) for key, id_ in await database.fetch("SELECT digest, id FROM price_version")]
