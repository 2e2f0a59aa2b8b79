"""API keys: who is let in, what they may do, and that nothing of a key leaks."""

from __future__ import annotations

import hashlib
import hmac
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
import typer
import yaml
from fastapi import FastAPI, Request
from fastapi.testclient import TestClient
from pydantic import TypeAdapter, ValidationError
from ray.serve.schema import HTTPOptionsSchema
from typer.testing import CliRunner

from cli.keys import keys_app, new_key
from deployments.configuration.api_keys import (
    SCOPES,
    ApiKey,
    ApiKeys,
    KeyLimits,
    anonymous_allowed,
    fingerprint,
    generate,
    refuse_open_door,
)
from deployments.http.auth import Authenticator, Caller, bearer, caller_of, require
from deployments.http.error_handler import install
from deployments.http.errors import Forbidden, Unauthorized
from pipelines.errors import ConfigError
from pipelines.paths import ROOT

ALICE, BOB, ROOT_KEY = "kr_alice-secret", "kr_bob-secret", "kr_root-secret"
KEYS = (
    ApiKey(name="alice", sha256=fingerprint(ALICE), limits=KeyLimits(live_jobs=2)),
    ApiKey(name="bob", sha256=fingerprint(BOB), scopes=("read",)),
    ApiKey(name="root", sha256=fingerprint(ROOT_KEY), scopes=("admin",)),
)


def test_a_key_is_told_by_its_hash() -> None:
    caller = Authenticator(KEYS, False).admit(f"Bearer {ALICE}")
    assert caller == Caller("alice", ("submit", "read"), KeyLimits(live_jobs=2))
    assert KEYS[0].sha256 == hashlib.sha256(ALICE.encode()).hexdigest()
    assert ALICE not in repr(KEYS)
    for header in (f"bearer {BOB}", f"BEARER  {BOB} ", f" Bearer {BOB}"):
        assert Authenticator(KEYS, False).admit(header).name == "bob"


@pytest.mark.parametrize(
    ("header", "says"),
    [
        (None, "send your API key"),
        ("", "must be `Bearer KEY`"),
        (ALICE, "must be `Bearer KEY`"),
        (f"Basic {ALICE}", "must be `Bearer KEY`"),
        *[
            (f"Bearer {key}", "not known here")
            for key in ("", f"{ALICE}x", ALICE[:-1], f"{ALICE} {ALICE}", KEYS[0].sha256, "kr_é")
        ],
    ],
)
def test_anything_else_is_refused_without_repeating_it(header: str | None, says: str) -> None:
    with pytest.raises(Unauthorized, match=says) as caught:
        Authenticator(KEYS, False).admit(header)
    assert (caught.value.http_status, caught.value.code) == (401, "invalid_api_key")
    assert "alice" not in str(caught.value)
    assert "kr_" not in str(caught.value)


@pytest.mark.parametrize("presented", [ALICE, ROOT_KEY, "kr_nobody"])
def test_every_hash_is_compared_whichever_fits(presented: str, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []
    compare = hmac.compare_digest

    def watch(known: bytes, given: bytes) -> bool:
        compared.append((known, given))
        return compare(known, given)

    monkeypatch.setattr(hmac, "compare_digest", watch)
    authenticator = Authenticator(KEYS, False)
    try:
        authenticator.admit(f"Bearer {presented}")
    except Unauthorized:
        assert presented == "kr_nobody"
    given = hashlib.sha256(presented.encode()).digest()
    assert compared == [(bytes.fromhex(key.sha256), given) for key in KEYS]


@pytest.mark.parametrize("header", [None, "Bearer unused", "Basic eDp5"])
def test_without_keys_everybody_may_do_everything_or_nobody_anything(header: str | None) -> None:
    caller = Authenticator((), True).admit(header)
    assert (caller.name, caller.sees_all, caller.limits) == ("", True, KeyLimits())
    assert all(caller.may(scope) for scope in SCOPES)
    with pytest.raises(Unauthorized, match=r"kinoray keys new NAME.* `allow_anonymous: true`"):
        Authenticator((), False).admit(header)


def test_beside_keys_an_anonymous_caller_sees_anonymous_jobs_only() -> None:
    authenticator = Authenticator(KEYS, True)
    caller = authenticator.admit(None)
    assert (caller.name, [scope for scope in SCOPES if caller.may(scope)]) == ("", ["submit", "read"])
    assert (caller.sees(""), caller.sees("alice")) == (True, False)
    assert authenticator.admit(f"Bearer {ALICE}").name == "alice"
    for wrong in ("Bearer unused", ""):
        with pytest.raises(Unauthorized):
            authenticator.admit(wrong)


def test_admin_implies_the_others_and_sees_all_jobs() -> None:
    authenticator = Authenticator(KEYS, False)
    alice, root = (authenticator.admit(f"Bearer {key}") for key in (ALICE, ROOT_KEY))
    assert all(root.may(scope) for scope in SCOPES)
    assert (root.sees("alice"), root.sees("")) == (True, True)
    assert (alice.sees("alice"), alice.sees("root"), alice.sees("")) == (True, False, False)


def test_a_missing_scope_is_named() -> None:
    bob = Authenticator(KEYS, False).admit(f"Bearer {BOB}")
    require(bob, "read")
    with pytest.raises(Forbidden, match=r"needs the scope submit.* has read") as caught:
        require(bob, "submit")
    again = pickle.loads(pickle.dumps(caught.value))
    assert (type(again), again.http_status, again.code) == (Forbidden, 403, "insufficient_scope")


def test_generated_keys_are_long_and_distinct_and_admit() -> None:
    secret = generate()
    assert secret.startswith("kr_")
    assert len(secret) == 46  # 256 bits at six a character
    assert secret != generate()
    key = ApiKey(name="new", sha256=fingerprint(secret))
    assert Authenticator((key,), False).admit(f"Bearer {secret}").name == "new"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        *[({"name": name}, "name") for name in ("", "Alice", "a" * 64, "alice\n")],
        *[({"sha256": text}, "never the key itself") for text in (ALICE, "A" * 64, "a" * 64 + "\n")],
        ({"scopes": []}, "scopes"),
        ({"scopes": ["write"]}, "scopes"),
        *[({"limits": {limit: 0}}, limit) for limit in KeyLimits.model_fields],
        ({"limits": {"gpu_seconds_per_day": float("inf")}}, "gpu_seconds_per_day"),
        ({"limits": {"per_day": 1}}, "per_day"),
        ({"key": ALICE}, "key"),
    ],
)
def test_a_wrong_entry_is_named(change: dict[str, Any], says: str) -> None:
    entry = {"name": "alice", "sha256": fingerprint(ALICE)}
    ApiKey.model_validate(entry)
    with pytest.raises(ValidationError, match=says) as caught:
        ApiKey.model_validate({**entry, **change})
    assert all(ALICE not in each["msg"] for each in caught.value.errors())


def test_keys_of_one_name_share_their_limits() -> None:
    check = TypeAdapter(ApiKeys).validate_python
    second = {"name": "alice", "sha256": "0" * 64, "scopes": ["read"], "limits": {"live_jobs": 2}}
    keys = check([KEYS[0], second])
    assert [key.name for key in keys] == ["alice", "alice"]
    with pytest.raises(ValidationError, match="the keys named alice have different limits"):
        check([KEYS[0], {**second, "limits": {"live_jobs": 3}}])
    with pytest.raises(ValidationError, match="a key is given twice"):
        check([KEYS[0], {"name": "other", "sha256": KEYS[0].sha256}])


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        *[(host, True) for host in ("127.0.0.1", "127.8.0.1", "::1", "localhost")],
        *[(host, False) for host in ("0.0.0.0", "::", "10.0.0.7", "", "localhost.example.org")],
    ],
)
def test_only_this_machine_is_let_in_by_default(host: str, loopback: bool) -> None:
    assert anonymous_allowed(None, (), host) is loopback
    assert anonymous_allowed(None, KEYS, host) is False
    assert anonymous_allowed(True, KEYS, host) is True
    assert anonymous_allowed(False, (), host) is False
    config = local(host)
    if loopback:
        refuse_open_door(config)
    else:
        with pytest.raises(ConfigError, match=r"kinoray.* knows no API keys.*kinoray keys new NAME.*allow_anonymous"):
            refuse_open_door(config)


def local(host: str | None, **args: Any) -> dict[str, Any]:
    """configs/local.yaml at another host, None for an absent one, with more args."""
    config: dict[str, Any] = yaml.safe_load((ROOT / "configs/local.yaml").read_text())
    config["http_options"].pop("host")
    if host is not None:
        config["http_options"]["host"] = host
    config["applications"][0]["args"] |= args
    return config


def test_an_open_host_needs_keys_or_a_clear_word() -> None:
    for enough in ({"allow_anonymous": True}, {"api_keys": [KEYS[0].model_dump()]}):
        refuse_open_door(local("0.0.0.0", **enough))
    for word in (None, False):
        with pytest.raises(ConfigError, match=r"0\.0\.0\.0"):
            refuse_open_door(local("0.0.0.0", api_keys=[], allow_anonymous=word))


def test_an_absent_host_is_what_serve_makes_of_it() -> None:
    host = HTTPOptionsSchema().host
    config = local(None)
    for _ in ("without host", "without http_options"):
        with pytest.raises(ConfigError, match=f"http_options.host is {host},"):
            refuse_open_door(config)
        config.pop("http_options", None)


def test_every_application_needs_its_own_keys() -> None:
    config = local("0.0.0.0", allow_anonymous=True)
    config["applications"].append({"name": "second", "args": None})
    with pytest.raises(ConfigError, match="application second knows no API keys"):
        refuse_open_door(config)


@pytest.fixture
def client() -> Iterator[TestClient]:
    app = FastAPI()
    install(app)
    authenticator = Authenticator(KEYS, False)

    @app.post("/jobs", dependencies=[bearer()])
    async def submit(request: Request) -> str:
        return caller_of(request, authenticator, "submit").name

    @app.get("/healthz")
    async def healthz() -> str:
        return "ok"

    with TestClient(app) as client:
        yield client


def test_refusals_over_http_have_the_shape_of_every_error(client: TestClient) -> None:
    assert client.post("/jobs", headers={"authorization": f"Bearer {ALICE}"}).json() == "alice"
    assert client.get("/healthz").json() == "ok"
    for headers, status, code, word in [
        ({}, 401, "invalid_api_key", "send your API key"),
        ({"authorization": "Bearer kr_guess"}, 401, "invalid_api_key", "not known here"),
        ({"authorization": f"Bearer {BOB}"}, 403, "insufficient_scope", "needs the scope submit"),
    ]:
        answer = client.post("/jobs", headers=headers)
        error = answer.json()["error"]
        assert word in error.pop("message")
        assert answer.status_code == status
        assert error == {"type": "invalid_request_error", "param": None, "code": code}
        assert "kr_" not in answer.text


def test_docs_have_an_authorize_button(client: TestClient) -> None:
    page = client.get("/openapi.json").json()
    scheme = page["components"]["securitySchemes"]["bearerAuth"]
    assert (scheme["type"], scheme["scheme"]) == ("http", "bearer")
    assert page["paths"]["/jobs"]["post"]["security"] == [{"bearerAuth": []}]
    assert "security" not in page["paths"]["/healthz"]["get"]


def test_a_new_key_comes_with_the_entry_that_admits_it() -> None:
    secret, entry = new_key("alice", ["read"])
    assert secret not in entry
    assert entry.splitlines()[2] == "  scopes: [read]"
    keys = TypeAdapter(ApiKeys).validate_python(yaml.safe_load(entry))
    assert Authenticator(keys, False).admit(f"Bearer {secret}") == Caller("alice", ("read",), KeyLimits())
    for name in ("no", "null", "12", "1.5"):  # what YAML would read as something else is quoted
        assert yaml.safe_load(new_key(name)[1])[0]["name"] == name


def test_no_key_is_made_for_a_wrong_name_or_scope() -> None:
    with pytest.raises(ConfigError, match="no such key can be made: name: "):
        new_key("Alice")
    with pytest.raises(ConfigError, match=r"no such key can be made: scopes\.0: must be 'submit', 'read' or 'admin'"):
        new_key("alice", ["write"])


def test_the_command_prints_the_key_and_its_entry_and_hints_beside_them() -> None:
    app = typer.Typer()
    app.add_typer(keys_app, name="keys")
    result = CliRunner().invoke(app, ["keys", "new", "alice", "--scope", "submit", "--scope", "admin"])
    assert result.exit_code == 0, result.output
    secret, _, entry = result.stdout.partition("\n")
    keys = TypeAdapter(ApiKeys).validate_python(yaml.safe_load(entry))
    assert Authenticator(keys, False).admit(f"Bearer {secret}").scopes == ("submit", "admin")
    assert "shown only now" in result.stderr
    assert secret not in result.stderr
