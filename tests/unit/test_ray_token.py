"""The token of a service's Ray: a secret of one user, that stays while it is one."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cli.ray_token import token_file
from pipelines.errors import ConfigError


def test_a_token_is_made_once_and_for_its_user_alone(tmp_path: Path) -> None:
    path = token_file(tmp_path / "data")
    token = path.read_text()
    assert len(token) == 64
    assert path.stat().st_mode & 0o777 == 0o600
    assert token_file(tmp_path / "data").read_text() == token
    assert token_file(tmp_path / "other").read_text() != token
    assert list((tmp_path / "data").iterdir()) == [path]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_one_that_others_could_have_read_or_written_is_replaced(tmp_path: Path, mode: int) -> None:
    path = token_file(tmp_path)
    token = path.read_text()
    path.chmod(mode)
    assert token_file(tmp_path).read_text() != token
    assert path.stat().st_mode & 0o777 == 0o600


def test_what_others_put_there_is_replaced(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.write_text("0" * 64)
    theirs.chmod(0o600)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "ray_token").symlink_to(theirs)
    assert token_file(tmp_path / "data").read_text() != "0" * 64
    assert theirs.read_text() == "0" * 64
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "ray_token").touch(0o600)
    assert len(token_file(tmp_path / "empty").read_text()) == 64


def test_a_disk_that_keeps_nothing_from_others_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cli.ray_token._is_ours_alone", lambda path: False if path.exists() else None)
    with pytest.raises(ConfigError, match=r"ray_token cannot be kept from other users; set KINORAY_DATA"):
        token_file(tmp_path)


def test_of_services_that_start_at_once_each_has_the_same(tmp_path: Path) -> None:
    for attempt in range(20):
        with ThreadPoolExecutor(8) as threads:
            found = set(threads.map(lambda _, to=tmp_path / str(attempt): token_file(to).read_text(), range(8)))
        assert len(found) == 1
