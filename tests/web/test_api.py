"""The description of `/api/`."""

import asyncio

import httpx
import pytest
from tests.gateway.site import run
from tests.servers import Postgres
from tests.web.visitors import Visitor, house, registered

from tollbridge.store import accounts, activity
from tollbridge.web.api import openapi_paths
from tollbridge.web.pages import PAGES


def test_every_operation_for_programs_is_described() -> None:
    served = {(page.path, page.method.lower()) for page in PAGES if page.manage}
    described = {(path, method) for path, methods in openapi_paths().items() for method in methods}
    assert described == served


def test_a_body_is_described_by_its_fields() -> None:
    paths = openapi_paths()
    body = paths["/api/keys"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert set(body["properties"]) >= {"label", "limit_usd", "limit_reset", "models", "addresses", "rpm", "tpm"}
    [key, *rest] = paths["/api/keys/{key}"]["get"]["parameters"]
    assert (key["name"], key["in"], rest) == ("key", "path", [])
    listed = [(each["name"], each["in"]) for each in paths["/api/requests"]["get"]["parameters"]]
    names = ("range", "since", "until", "status", "model", "key", "limit", "cursor")
    assert listed == [(name, "query") for name in names]
    assert {"401", "503"} == paths["/api/billing"]["get"]["responses"].keys() - {"200"}
    assert {"400", "401", "413", "415", "422", "503"} == paths["/api/keys"]["post"]["responses"].keys() - {"201"}
    [once] = paths["/api/keys"]["post"]["parameters"]
    assert (once["name"], once["in"]) == ("Idempotency-Key", "header")


@pytest.mark.parametrize(
    "body", [b"[" * 100_000, b'{"label":' * 20_000, b"\xff", b"", b'{"label":"\\ud800"}'], ids=range(5)
)
def test_what_is_no_json_is_refused_however_deep_it_is(body: bytes) -> None:
    async def test() -> None:
        async with house() as site:
            ada = await registered(site, "ada@example.com")
            headers = {"content-type": "application/json", "x-csrf-token": await ada.token("/auth/confirm")}
            answer = await ada.client.post("/api/keys", content=body, headers=headers)
            assert answer.status_code == 400, answer.text

    run(test())


def test_what_is_done_to_a_key_at_once_is_done_one_after_the_other(postgres_server: Postgres) -> None:
    """On PostgreSQL, where transactions do not wait for each other by themselves."""

    async def test(url: str) -> None:
        async with house(database_url=url) as site:
            ada = await registered(site, "ada@example.com")
            key = (await ada.send_json("POST", "/api/keys", {"label": "one"})).json()["id"]
            for number in range(10):
                changes = ({"limit_usd": f"{number + 1}"}, {"rpm": number + 1}, {"models": [f"model-{number}"]})
                await asyncio.gather(*(ada.send_json("PATCH", f"/api/keys/{key}", each) for each in changes))
                found = (await ada.client.get(f"/api/keys/{key}")).json()
                assert {**found, **changes[0], **changes[1], **changes[2]} == found
            rotate = [ada.send_json("POST", f"/api/keys/{key}/rotate", {"overlap": "none"}) for _ in range(4)]
            assert sorted(each.status_code for each in await asyncio.gather(*rotate)) == [201, 400, 400, 400]

    with postgres_server.database() as url:
        run(test(url))


def test_keys_come_in_pages_where_a_limit_is_said_and_all_where_none_is() -> None:
    async def test() -> None:
        async with house() as site:
            ada, eve = await registered(site, "ada@example.com"), await registered(site, "eve@example.com")
            labels = [f"key {number}" for number in range(6)]
            for label in labels:
                await ada.send_json("POST", "/api/keys", {"label": label})
            labels = [*reversed(labels), "default"]
            whole = (await ada.client.get("/api/keys")).json()
            assert [key["label"] for key in whole["data"]] == labels
            assert whole["next_cursor"] is None
            page = (await ada.client.get("/api/keys?limit=3")).json()
            read = [[key["label"] for key in page["data"]]]
            while page["next_cursor"] is not None:
                page = (await ada.client.get(f"/api/keys?limit=3&cursor={page['next_cursor']}")).json()
                read.append([key["label"] for key in page["data"]])
            assert read == [labels[:3], labels[3:6], labels[6:]]
            seven = (await ada.client.get("/api/keys?limit=7")).json()
            assert (len(seven["data"]), seven["next_cursor"]) == (7, None)
            third = whole["data"][2]["id"]
            rest = (await ada.client.get(f"/api/keys?cursor={third}")).json()["data"]
            assert [key["label"] for key in rest] == labels[3:]
            ada.client.headers["accept"] = "application/json"
            for limit in ("0", "201", "-1", "1.0", "0001009999", "000100" + 5_000 * "9"):
                answer = await ada.client.get(f"/api/keys?limit={limit}")
                assert (answer.status_code, answer.json()["error"]["param"]) == (400, "limit")
            answer = await ada.client.get("/api/keys?cursor=key_x")
            assert (answer.status_code, answer.json()["error"]["param"]) == (400, "cursor")
            assert (await eve.client.get(f"/api/keys?cursor={third}")).status_code == 400

    run(test())


def test_each_bound_of_a_key_is_set_kept_where_it_is_left_out_and_removed_by_null() -> None:
    bounds: dict[str, object] = {
        "limit_usd": "5",
        "limit_reset": "weekly",
        "models": ["m"],
        "addresses": ["192.0.2.0/24"],
        "rpm": 10,
        "tpm": 2000,
        "concurrency": 3,
        "cost_cap_usd": "0.25",
        "expires_at": "2999-01-31T12:00:00.000Z",
    }

    async def test() -> None:
        async with house() as site:
            ada = await registered(site, "ada@example.com")
            made = (await ada.send_json("POST", "/api/keys", bounds | {"label": "ci"})).json()
            path = f"/api/keys/{made['id']}"
            assert {name: made[name] for name in bounds} == bounds
            assert (made["spent_usd"], made["last_used_at"], made["disabled"], made["revoked_at"]) == (
                "0",
                None,
                False,
                None,
            )
            kept = (await ada.send_json("PATCH", path, {})).json()
            assert kept == {name: value for name, value in made.items() if name != "key"}
            # A reset is one of a limit.
            nulls = [("limit_reset",), ("limit_usd",), *((name,) for name in bounds if not name.startswith("limit"))]
            gone: dict[str, object] = {}
            for (name,) in nulls:
                gone[name] = None
                answer = await ada.send_json("PATCH", path, {name: None})
                assert answer.status_code == 200, answer.text
                assert {each: answer.json()[each] for each in bounds} == bounds | gone
            assert answer.json()["spent_usd"] is None

    run(test())


@pytest.mark.parametrize(
    ("body", "param", "says"),
    [
        ({"expires_at": "2999-01-31T12:00:00"}, "expires_at", "a time is a string with a time zone"),
        ({"expires_at": 5}, "expires_at", "a time is a string with a time zone"),
        ({"limit_usd": 5}, "limit_usd", 'an amount is a string, such as "5.00", or null.'),
        ({"cost_cap_usd": "x"}, "cost_cap_usd", "cost_cap_usd: "),
        ({"rpm": "5"}, "rpm", "rpm: Expected `int | null`, got `str`"),
        ({"nonsense": 1}, "nonsense", "There is no field nonsense here. The fields are: label, limit_usd, "),
        ([], None, "The body is not valid: Expected `object`, got `array`"),
    ],
)
def test_what_cannot_be_said_of_a_key_is_named(body: object, param: str | None, says: str) -> None:
    async def test() -> None:
        async with house() as site:
            ada = await registered(site, "ada@example.com")
            headers = {"x-csrf-token": await ada.token("/auth/confirm"), "accept": "application/json"}
            answer = await ada.client.post("/api/keys", json=body, headers=headers)
            assert (answer.status_code, answer.json()["error"].get("param")) == (400, param)
            assert says in answer.json()["error"]["message"]

    run(test())


async def _make(visitor: Visitor, once: str, **fields: object) -> httpx.Response:
    headers = {"idempotency-key": once, "x-csrf-token": await visitor.token("/auth/confirm")}
    return await visitor.client.post("/api/keys", json=fields, headers={**headers, "accept": "application/json"})


def test_a_key_that_is_asked_for_twice_is_made_once_and_shown_once() -> None:
    async def test() -> None:
        async with house() as site:
            ada, eve = await registered(site, "ada@example.com"), await registered(site, "eve@example.com")
            wish = {"label": "ci", "limit_usd": "5.00", "models": ["m"], "disabled": True}
            first, again = await _make(ada, "k1", **wish), await _make(ada, "k1", **wish)
            assert (first.status_code, again.status_code) == (201, 201)
            made = first.json()
            assert made.pop("key").startswith("tb_live_")
            assert made["state"] == "disabled"
            assert again.json() == made
            assert ("idempotent-replayed" in first.headers, again.headers["idempotent-replayed"]) == (False, "true")
            for change in ({"label": "another"}, {"disabled": False}):
                other = await _make(ada, "k1", **{**wish, **change})
                assert (other.status_code, other.json()["error"]["code"]) == (422, "idempotency_key_reused")
                assert made["id"] in other.json()["error"]["message"]
            # The name is the account's own, and is no hint at anybody else's key.
            assert (await _make(eve, "k1", **wish)).json()["id"] != made["id"]
            assert (await _make(ada, "k2", **wish)).json()["id"] != made["id"]
            # Who has lost the first answer gets a working key by rotating, and a revoked one is not made anew.
            await ada.send_json("DELETE", f"/api/keys/{made['id']}", {})
            assert (await _make(ada, "k1", **wish)).json()["state"] == "revoked"
            assert len((await ada.client.get("/api/keys")).json()["data"]) == 3
            for once in ("", "k" * 256):
                answer = await _make(ada, once, **wish)
                assert (answer.status_code, answer.json()["error"]["param"]) == (400, "Idempotency-Key")

    run(test())


def test_a_repeated_key_is_shown_again_where_keys_always_are() -> None:
    async def test() -> None:
        async with house('[keys]\nreveal = "always"\n') as site:
            ada = await registered(site, "ada@example.com")
            first, again = await _make(ada, "k1", label="ci"), await _make(ada, "k1", label="ci")
            assert first.json() == again.json()
            assert again.headers["idempotent-replayed"] == "true"

    run(test())


def test_of_two_wishes_for_one_key_at_once_one_makes_it(postgres_server: Postgres) -> None:
    """On PostgreSQL, where transactions do not wait for each other by themselves."""

    async def test(url: str) -> None:
        async with house(database_url=url) as site:
            ada = await registered(site, "ada@example.com")
            for number in range(10):
                answers = await asyncio.gather(*(_make(ada, f"k{number}", label="ci") for _ in range(4)))
                assert [each.status_code for each in answers] == [201] * 4
                assert len({each.json()["id"] for each in answers}) == 1
                assert len([each for each in answers if "key" in each.json()]) == 1
            account = await accounts.by_email(site.database, "ada@example.com")
            assert account is not None
            deeds = await activity.page(site.database, account.id, 1 << 62, 100)
            assert [deed.action for deed in deeds].count("key.created") == 10

    with postgres_server.database() as url:
        run(test(url))


async def _rotate(visitor: Visitor, key: str, once: str, **fields: object) -> httpx.Response:
    headers = {"idempotency-key": once, "x-csrf-token": await visitor.token("/auth/confirm")}
    return await visitor.client.post(
        f"/api/keys/{key}/rotate", json=fields, headers={**headers, "accept": "application/json"}
    )


@pytest.mark.parametrize("overlap", ["none", "1h", "24h", ""])
def test_a_key_that_is_rotated_twice_by_one_request_has_one_successor(overlap: str) -> None:
    async def test() -> None:
        async with house() as site:
            ada = await registered(site, "ada@example.com")
            wish = {"label": "ci", "limit_usd": "5.00", "models": ["m"]}
            key = (await _make(ada, "k1", **wish)).json()["id"]
            other = (await _make(ada, "k2", **wish)).json()["id"]
            first, again = [await _rotate(ada, key, "k1", overlap=overlap) for _ in range(2)]
            assert (first.status_code, again.status_code) == (201, 201)
            made = first.json()
            assert made.pop("key").startswith("tb_live_")
            assert (again.json(), again.headers["idempotent-replayed"]) == (made, "true")
            assert "idempotent-replayed" not in first.headers
            for another in {"none", "1h", "24h", ""} - {overlap}:
                refused = await _rotate(ada, key, "k1", overlap=another)
                assert (refused.status_code, refused.json()["error"]["code"]) == (422, "idempotency_key_reused")
                assert made["id"] in refused.json()["error"]["message"]
            # Each key has a successor of its own, and what is rotated with one name is not what was made with it.
            assert (await _rotate(ada, other, "k1", overlap=overlap)).json()["id"] not in {made["id"], key, other}
            # What happened to the two since changes nothing.
            for each in (key, made["id"]):
                await ada.send_json("DELETE", f"/api/keys/{each}", {})
            assert (await _rotate(ada, key, "k1", overlap=overlap)).json()["id"] == made["id"]
            assert len((await ada.client.get("/api/keys")).json()["data"]) == 5
            empty = await _rotate(ada, key, "", overlap=overlap)
            assert (empty.status_code, empty.json()["error"]["param"]) == (400, "Idempotency-Key")

    run(test())


def test_the_successor_of_a_key_is_shown_again_where_keys_always_are() -> None:
    async def test() -> None:
        async with house('[keys]\nreveal = "always"\n') as site:
            ada = await registered(site, "ada@example.com")
            key = (await _make(ada, "k1", label="ci")).json()["id"]
            first, again = [await _rotate(ada, key, "k1") for _ in range(2)]
            assert "key" in first.json()
            assert first.json() == again.json()

    run(test())


def test_of_two_rotations_by_one_request_at_once_one_makes_the_successor(postgres_server: Postgres) -> None:
    """On PostgreSQL, where transactions do not wait for each other by themselves."""

    async def test(url: str) -> None:
        async with house(database_url=url) as site:
            ada = await registered(site, "ada@example.com")
            key = (await _make(ada, "first", label="ci")).json()["id"]
            for number in range(10):
                answers = await asyncio.gather(*(_rotate(ada, key, f"k{number}", overlap="none") for _ in range(4)))
                assert [each.status_code for each in answers] == [201] * 4
                assert len({each.json()["id"] for each in answers}) == 1
                assert len([each for each in answers if "key" in each.json()]) == 1
                key = answers[0].json()["id"]
            overlaps = [_rotate(ada, key, "last", overlap=each) for each in ("none", "1h", "24h", "")]
            assert sorted(each.status_code for each in await asyncio.gather(*overlaps)) == [201, 422, 422, 422]
            account = await accounts.by_email(site.database, "ada@example.com")
            assert account is not None
            deeds = await activity.page(site.database, account.id, 1 << 62, 100)
            assert [deed.action for deed in deeds].count("key.rotated") == 11

    with postgres_server.database() as url:
        run(test(url))
