"""Notifications: their bytes, and a queue that is a set, is bounded, and never blocks who fills it."""

from __future__ import annotations

import os
import socket
import struct
from typing import TYPE_CHECKING

import pytest
from conftest import wait_until

from fuseclient.kernel import notify
from fuseclient.kernel.negotiation import Negotiated
from fuseclient.kernel.notify import KernelNotifier
from fuseclient.kernel.protocol import InitFlag

if TYPE_CHECKING:
    from collections.abc import Iterator

NEW = Negotiated(45, int(InitFlag.HAS_EXPIRE_ONLY), 1 << 20)
OLD = Negotiated(31, 0, 1 << 20)


def test_messages() -> None:
    assert notify.inval_inode(9, data=True) == struct.pack("<IiQQqq", 40, 2, 0, 9, 0, 0)
    assert notify.inval_inode(9, data=False) == struct.pack("<IiQQqq", 40, 2, 0, 9, -1, 0)
    assert notify.inval_entry(9, b"name", 1) == struct.pack("<IiQQII", 37, 3, 0, 9, 4, 1) + b"name\0"
    assert notify.inc_epoch() == struct.pack("<IiQ", 16, 8, 0)
    assert notify.resend() == struct.pack("<IiQ", 16, 7, 0)


class Listener:
    def __init__(self, entries_max: int = 1000) -> None:
        self.ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.ours.settimeout(5)
        with theirs:
            self.notifier = KernelNotifier(
                theirs.fileno(),
                knows=lambda ino: ino < 1000,
                nodeid=lambda ino: 1 if ino == 77 else ino,
                entries_max=entries_max,
            )

    def messages(self, count: int) -> list[bytes]:
        return [self.ours.recv(4096) for _ in range(count)]


@pytest.fixture
def listener() -> Iterator[Listener]:
    made = Listener()
    yield made
    made.notifier.close()
    made.ours.close()


def test_what_waits_is_a_set_and_goes_out_once(listener: Listener) -> None:
    notifier = listener.notifier
    for _ in range(3):
        notifier.invalidate_inode(9, data=False)
        notifier.invalidate_inode(10, data=True)
        notifier.invalidate_inode(10, data=False)
        notifier.invalidate_entry(77, b"a")
        notifier.invalidate_inode(5000, data=True)
        notifier.invalidate_entry(5000, b"a")
    notifier.start(NEW)
    assert listener.messages(4) == [
        notify.inval_entry(1, b"a", 1),
        notify.inval_inode(9, data=False),
        notify.inval_inode(10, data=True),
        notify.inval_inode(1, data=True),
    ]
    wait_until(lambda: notifier.sent == 4, "the count")


def test_attributes_are_forgotten_before_the_call_returns(listener: Listener) -> None:
    """Else an open that is answered next is read up to the size from before."""
    notifier = listener.notifier
    notifier.start(NEW)
    listener.ours.setblocking(False)
    notifier.invalidate_inode(9, data=False)
    assert listener.messages(1) == [notify.inval_inode(9, data=False)]
    notifier.invalidate_inode(10, data=True)
    assert listener.messages(1) == [notify.inval_inode(10, data=False)]
    listener.ours.settimeout(5)
    assert listener.messages(1) == [notify.inval_inode(10, data=True)]
    wait_until(lambda: notifier.sent == 1, "the count")


def test_an_older_kernel_gets_no_expire_flag(listener: Listener) -> None:
    listener.notifier.invalidate_entry(9, b"a")
    listener.notifier.start(OLD)
    assert listener.messages(1) == [notify.inval_entry(9, b"a", 0)]


def test_too_many_names_become_one_epoch() -> None:
    listener = Listener(entries_max=3)
    listener.notifier.start(NEW._replace(minor=44))
    listener.notifier.close()  # the thread is gone, so what follows stays queued
    for k in range(10):
        listener.notifier.invalidate_entry(9, b"%d" % k)
    assert listener.notifier._everything
    assert not listener.notifier._entries
    assert listener.notifier.dropped == 4
    listener.ours.close()


def test_an_epoch_goes_out_before_the_rest() -> None:
    listener = Listener(entries_max=3)
    notifier = listener.notifier
    notifier._has_epoch = True
    for k in range(5):
        notifier.invalidate_entry(9, b"%d" % k)
    notifier.start(NEW)
    assert listener.messages(2) == [notify.inc_epoch(), notify.inval_inode(9, data=True)]
    notifier.close()
    listener.ours.close()


def test_on_an_older_kernel_the_oldest_names_are_left_to_their_lifetime() -> None:
    listener = Listener(entries_max=3)
    for k in range(5):
        listener.notifier.invalidate_entry(9, b"%d" % k)
    listener.notifier.start(OLD)
    assert listener.messages(3) == [notify.inval_entry(9, b"%d" % k, 0) for k in (2, 3, 4)]
    assert listener.notifier.dropped == 2
    listener.notifier.close()
    listener.ours.close()


def test_the_end_of_the_mount_ends_the_thread(listener: Listener) -> None:
    listener.notifier.start(NEW)
    for _ in range(2):
        listener.notifier.close()
    assert listener.notifier._thread is not None
    assert not listener.notifier._thread.is_alive()


def test_a_descriptor_of_its_own() -> None:
    listener = Listener()  # closes the one that the notifier was given
    listener.notifier.start(NEW)
    listener.notifier.invalidate_inode(9, data=True)
    assert listener.messages(1)
    fd = listener.notifier._fd
    listener.notifier.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
    listener.ours.close()
