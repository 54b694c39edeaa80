"""Who shares previews: kept on the server, off where anything is wrong with what is kept."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path

import pytest
from sidestream.preview.deliver.sharing import Share, Sharing
from sidestream.preview.settings import SettingError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "sharing.json"


def test_the_switch_and_the_key_outlive_the_server(file):
    first = Sharing(lambda: file)
    share = first.switch("default", True)
    assert re.fullmatch(r"[\w-]{22,}", share.key)  # 128 bits
    again = Sharing(lambda: file)
    assert again.of("default") == share
    assert again.user_of(share.key) == "default"
    again.switch("default", False)
    assert Sharing(lambda: file).of("default") == Share(False, share.key)
    assert again.user_of(share.key) is None


def test_each_user_has_a_key_and_a_renewed_one_opens_nothing(file):
    sharing = Sharing(lambda: file)
    ann, bob = (sharing.switch(user, True).key for user in ("ann", "bob"))
    new = sharing.renew("ann").key
    assert len({ann, bob, new}) == 3
    assert [sharing.user_of(key) for key in (ann, bob, new, "")] == [None, "bob", "ann", None]
    assert sharing.renew("eve") == (False, sharing.of("eve").key)  # which switches nothing on
    assert sharing.user_of(sharing.of("eve").key) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        '{"default": true}',
        '{"default": {"on": true}}',
        '{"default": {"key": "a"}}',
    ],
)
def test_i8_where_the_file_is_damaged_nobody_shares(file, caplog, text):
    file.parent.mkdir()
    file.write_text(text)
    sharing = Sharing(lambda: file)
    with caplog.at_level(logging.WARNING):
        assert [sharing.of("default").on, sharing.user_of(""), sharing.user_of("a")] == [
            False, None, None
        ]  # fmt: skip
    assert len(caplog.messages) == 1
    assert sharing.switch("default", True).on  # which mends it
    assert json.loads(file.read_text())["default"]["on"]


@pytest.mark.parametrize("value", ["true", 1, None])
def test_i8_what_is_not_true_is_off(file, value):
    file.parent.mkdir()
    file.write_text(json.dumps({"default": {"on": value, "key": "abc"}}))
    assert Sharing(lambda: file).user_of("abc") is None


def test_what_cannot_be_stored_is_not_done(file):
    file.parent.write_text("a file, where the folder should be")
    sharing = Sharing(lambda: file)
    with pytest.raises(SettingError, match="stored"):
        sharing.switch("default", True)
    assert not sharing.of("default").on
