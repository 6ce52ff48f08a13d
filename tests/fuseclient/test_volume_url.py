"""The URL of a volume: what is understood, what is refused and why, and that writing and reading agree."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuseclient.errors import ClientError
from fuseclient.volume_settings import VolumeSettings
from fuseclient.volume_url import Address, VolumeUrl

UNDERSTOOD = [
    ("keel://h/v", VolumeUrl((Address("h", 7420),), "v")),
    ("keel://h:1/v/", VolumeUrl((Address("h", 1),), "v")),
    ("keel://10.0.0.1:7420,b.example:7421/data", VolumeUrl((Address("10.0.0.1"), Address("b.example", 7421)), "data")),
    ("keel://[::1]:9,[fe80::1%eth0]/v", VolumeUrl((Address("::1", 9), Address("fe80::1%eth0")), "v")),
    ("keel://h,h:7420/v", VolumeUrl((Address("h"),), "v")),
    ("keel://h/v/a/b", VolumeUrl((Address("h"),), "v", b"a/b")),
    ("keel://h/v//a///b//", VolumeUrl((Address("h"),), "v", b"a/b")),
    ("keel://h/v/a b%25%FF", VolumeUrl((Address("h"),), "v", b"a b%\xff")),
    ("keel://h/v/ä", VolumeUrl((Address("h"),), "v", "ä".encode())),
]

REFUSED = [
    ("", "begin"),
    ("http://h/v", "begin"),
    ("keel:/h/v", "begin"),
    ("keel://h", "no volume"),
    ("keel://h/", "no volume"),
    ("keel:///v", "no server"),
    ("keel://h,/v", "not an address"),
    ("keel://h:0/v", "port"),
    ("keel://h:65536/v", "port"),
    ("keel://h:٣/v", "port"),
    ("keel://h:/v", "port"),
    ("keel://h:1:2/v", "port"),
    ("keel://::1/v", "not an address"),
    ("keel://[::1/v", "not an address"),
    ("keel://-h/v", "not an address"),
    ("keel://h/-v", "cannot be a volume's name"),
    ("keel://h/" + "v" * 64, "cannot be a volume's name"),
    ("keel://h/v/..", "cannot be the name of a directory"),
    ("keel://h/v/a/./b", "cannot be the name of a directory"),
    ("keel://h/v/a%2Fb", "cannot be the name of a directory"),
    ("keel://h/v/a%00", "cannot be the name of a directory"),
    ("keel://h/v/%zz", "hexadecimal"),
    ("keel://h/v/" + "a" * 256, "cannot be the name of a directory"),
    ("keel://h/v" + "/a" * 3000, "longer than"),
]


@pytest.mark.parametrize(("text", "url"), UNDERSTOOD)
def test_understood(text: str, url: VolumeUrl) -> None:
    assert VolumeUrl.parse(text) == url
    assert VolumeUrl.parse(str(url)) == url


@pytest.mark.parametrize(("text", "why"), REFUSED)
def test_refused_with_the_reason_and_an_example(text: str, why: str) -> None:
    with pytest.raises(ClientError, match=why) as refused:
        VolumeUrl.parse(text)
    assert "keel://127.0.0.1:7420/data" in str(refused.value)


def test_a_secret_in_the_url_is_refused_and_not_repeated() -> None:
    with pytest.raises(ClientError, match="secrets do not belong") as refused:
        VolumeUrl.parse("keel://me:hunter2@h:1/v")
    assert "hunter2" not in str(refused.value)
    assert "h:1/v" in str(refused.value)


_part = st.binary(min_size=1, max_size=20).filter(lambda b: b"/" not in b and b"\0" not in b and b not in {b".", b".."})
_host = st.one_of(
    st.text(string.ascii_letters + string.digits, min_size=1, max_size=8), st.ip_addresses(v=6).map(str), st.just("a.b-c")
)


@given(
    st.lists(st.builds(Address, _host, st.integers(1, 65535)), min_size=1, max_size=4, unique=True),
    st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,62}\Z"),
    st.lists(_part, max_size=4),
)
def test_what_is_written_is_read_back(addresses: list[Address], volume: str, parts: list[bytes]) -> None:
    url = VolumeUrl(tuple(addresses), volume, b"/".join(parts))
    assert VolumeUrl.parse(str(url)) == url


def test_settings_are_read_and_unknown_ones_kept() -> None:
    settings = VolumeSettings.parse(
        '{"store": "file:///x", "block_bytes": 65536, "inline_bytes": 0, "uuid": "u", "trash_days": 3}'
    )
    assert settings == VolumeSettings("file:///x", 65536, 0, uuid="u", other={"trash_days": 3})
    assert VolumeSettings.parse("{}") == VolumeSettings("")


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "{",
        '{"store": 1}',
        '{"block_bytes": 100000}',
        '{"block_bytes": 1}',
        '{"uuid": 1}',
        '{"inline_bytes": true}',
        " " * 70000,
    ],
)
def test_settings_that_cannot_be_relied_on_are_refused(text: str) -> None:
    with pytest.raises(ClientError, match="settings cannot be used"):
        VolumeSettings.parse(text)
