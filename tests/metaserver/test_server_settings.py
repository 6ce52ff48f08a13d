"""What an administrator may say: volume settings, server configuration, space."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from metaserver.config import EXIT_CONFIG, ServerConfig, ServerError
from metaserver.settings import SettingsError, check_volume_name, fill
from metaserver.space import LOG_LOW_LOOKS, SpaceWatch


def test_defaults_are_filled_in():
    assert json.loads(fill('{"store": "s3://bucket/prefix?endpoint=http://127.0.0.1:9000&region=eu"}', "u1")) == {
        "store": "s3://bucket/prefix?endpoint=http://127.0.0.1:9000&region=eu",
        "block_bytes": 4 << 20,
        "inline_bytes": 4096,
        "capacity_bytes": 0,
        "capacity_inodes": 0,
        "acl": True,
        "uuid": "u1",
    }


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "store is missing"),
        ("[1]", "JSON object"),
        ("{", "not JSON"),
        ("[" * 60_000, "not JSON"),
        ('{"store": "file:///x", "colour": 1}', "unknown settings: colour"),
        ('{"store": "file:///x", "uuid": "mine"}', "unknown settings: uuid"),
        ('{"store": "file:///x", "block_bytes": 5000000}', "power of two"),
        ('{"store": "file:///x", "block_bytes": true}', "block_bytes"),
        ('{"store": "file:///x", "inline_bytes": 65537}', "inline_bytes"),
        ('{"store": "file:///x", "capacity_bytes": -1}', "capacity_bytes"),
        ('{"store": "file://host/x"}', "absolute path"),
        ('{"store": "file:///"}', "absolute path"),
        ('{"store": "s3:///x"}', "bucket"),
        ('{"store": "ftp://x"}', "unknown scheme"),
        ('{"store": "s3://key:secret@bucket/x"}', "credentials"),
        ('{"store": "s3://key@bucket/x"}', "credentials"),
        ('{"store": "s3://bucket/x?secret_access_key=abc"}', "credentials"),
        ('{"store": "s3://bucket/x?session-token=abc"}', "credentials"),
        ('{"store": "s3://[bucket/x"}', "not a URL"),
        ('{"store": "file:///' + "x" * 5000 + '"}', "longer"),
        ("x" * 70_000, "limit"),
    ],
)
def test_settings_that_are_not_good_are_refused_in_words(text, says):
    with pytest.raises(SettingsError, match=says):
        fill(text, "u1")


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "-a", "a b", "ä", "a" * 64, "a\n"])
def test_volume_names_are_simple(name):
    with pytest.raises(SettingsError):
        check_volume_name(name)
    assert check_volume_name("Home-2_x.y") == "Home-2_x.y"


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"listen": "0.0.0.0:7420"}, "--insecure"),
        ({"admin": "meta.example.org:7421"}, "--insecure"),
        ({"listen": "127.0.0.1"}, "host:port"),
        ({"listen": "127.0.0.1:99999"}, "host:port"),
        ({"listen": ":7420"}, "host:port"),
        ({"session_ttl_s": 0}, "session_ttl_s"),
        ({"reserve_bytes": -1}, "reserve_bytes"),
    ],
)
def test_a_configuration_that_is_not_good_is_refused_in_words(fields, says):
    with pytest.raises(ServerError, match=says) as refused:
        ServerConfig(data_dir=Path("x"), **fields).validate()
    assert refused.value.exit_code == EXIT_CONFIG


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "[::1]:7420", "localhost:1", "127.9.9.9:7420"])
def test_loopback_needs_no_leave(listen):
    ServerConfig(data_dir=Path("x"), listen=listen).validate()


def test_beyond_loopback_with_leave():
    ServerConfig(data_dir=Path("x"), listen="0.0.0.0:7420", insecure=True).validate()


class Room:
    def __init__(self, reserve=100):
        self.free, self.full, self.low = 10**12, "", False
        self.said = []
        self.watch = SpaceWatch(
            free=lambda: self.free,
            reserve_bytes=reserve,
            store_full=lambda: self.full,
            log_low=lambda: self.low,
            report=self.said.append,
        )


def test_space_is_short_below_the_reserve_and_over_only_well_above_it():
    room = Room()
    for free, short in [(100, False), (99, True), (110, True), (124, True), (125, False), (101, False)]:
        room.free = free
        room.watch.look()
        assert (room.watch.reason is not None) == short, free
    assert [reason is None for reason in room.said] == [False, True]


def test_a_full_store_is_short_of_space():
    room = Room()
    room.full = "map full"
    room.watch.look()
    assert "map full" in room.said[0]


def test_a_log_without_spare_segment_is_short_only_when_it_stays_so_and_the_disk_is_small():
    room = Room()
    room.low = True
    for _ in range(2 * LOG_LOW_LOOKS):
        room.watch.look()
    assert room.watch.reason is None
    room.free = 200 << 20
    room.watch.look()
    assert "log" in room.watch.reason
    room.low = False
    room.watch.look()
    assert room.watch.reason is None
