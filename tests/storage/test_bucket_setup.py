"""`kinoray bucket`: from no bucket to one that the service can work with."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from cli.__main__ import app
from cli.service import default_config
from storage.artifacts import KEEP_DAYS, keep_class
from storage.bucket import BucketStore
from storage.bucket_setup import BucketSetup
from storage.settings import BucketSettings
from tests.harness.bucket_server import READERS_KEY, BucketServer

DAY_S = 86400


@pytest.fixture
def settings(bucket_server: BucketServer) -> BucketSettings:
    return BucketSettings(
        name=f"b-{uuid.uuid4().hex}", prefix="kinoray/", endpoint_url=bucket_server.url, path_style=True
    )


@pytest.fixture
def config(settings: BucketSettings, tmp_path: Path) -> Path:
    config = yaml.safe_load(default_config().read_text())
    config["applications"][0]["args"]["bucket"] = settings.model_dump(exclude_defaults=True)
    path = tmp_path / "serve.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def test_makes_a_bucket_with_rules_and_leaves_those_of_others(
    settings: BucketSettings, config: Path, bucket_server: BucketServer
) -> None:
    client = bucket_server.client
    missing = CliRunner().invoke(app, ["bucket", "--config", str(config)])
    assert "it lacks the bucket" in str(missing.exception)
    assert CliRunner().invoke(app, ["bucket", "--config", str(config), "--init"]).exit_code == 0
    theirs = {"ID": "theirs", "Filter": {"Prefix": "theirs/"}, "Status": "Enabled", "Expiration": {"Days": 3}}
    rules = client.get_bucket_lifecycle_configuration(Bucket=settings.name)["Rules"]
    assert len(rules) == 2 + len(KEEP_DAYS)
    client.put_bucket_lifecycle_configuration(Bucket=settings.name, LifecycleConfiguration={"Rules": [*rules, theirs]})
    again = BucketSetup(settings).init()
    assert not any("made" in each for each in again)
    ids = [rule["ID"] for rule in client.get_bucket_lifecycle_configuration(Bucket=settings.name)["Rules"]]
    assert sorted(ids) == sorted([*(rule["ID"] for rule in rules), "theirs"])
    assert client.get_bucket_cors(Bucket=settings.name)["CORSRules"][0]["AllowedOrigins"] == ["*"]
    assert list(BucketStore(settings).list("")) == [], "the check has left nothing"


def test_a_wrong_key_is_one_sentence(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    for verb in (["bucket"], ["bucket", "--init"]):
        refused = CliRunner().invoke(app, [*verb, "--config", str(config)])
        assert "cannot be used: the bucket answered 403" in str(refused.exception)


def test_says_what_is_not_allowed(settings: BucketSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    BucketSetup(settings).init()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", READERS_KEY)
    found = {each.permission: each.problem for each in BucketSetup(settings).check()}
    missing = {permission: problem for permission, problem in found.items() if problem is not None}
    assert missing.keys() >= {"s3:PutObject", "s3:PutObjectTagging", "s3:PutObject in parts"}
    assert "s3:ListBucket" not in missing
    assert all("is missing, so" in problem and "AccessDenied" in problem for problem in missing.values())


def test_a_config_without_a_bucket_is_one_sentence() -> None:
    refused = CliRunner().invoke(app, ["bucket", "--config", str(default_config())])
    assert "names no bucket" in str(refused.exception)


def test_files_are_kept_at_least_as_long_as_was_asked() -> None:
    assert [keep_class(days * DAY_S) for days in (0.1, 1, 1.1, 30, 364, 366)] == ["1d", "1d", "7d", "30d", "365d", None]
