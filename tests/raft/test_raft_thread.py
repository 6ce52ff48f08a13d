"""The thread of a node and its mailboxes: nothing lost, nothing twice, in order, and the loop gets its turn."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import pytest

from raft.raft_thread import Mailbox, RaftThread

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

DEADLINE_S = 20.0


@pytest.fixture
async def thread() -> AsyncIterator[RaftThread]:
    thread = RaftThread("raft test", asyncio.new_event_loop)
    yield thread
    thread.stop()


async def test_calls_are_made_in_order_on_the_other_thread(thread: RaftThread) -> None:
    made: list[tuple[int, str]] = []
    done = asyncio.Event()
    loop = asyncio.get_running_loop()
    box = Mailbox(thread.loop)
    for number in range(1000):
        box.post(lambda number=number: made.append((number, threading.current_thread().name)))  # type: ignore[misc]
    box.post(lambda: loop.call_soon_threadsafe(done.set))
    await asyncio.wait_for(done.wait(), DEADLINE_S)
    assert made == [(number, "raft test") for number in range(1000)]


async def test_after_is_called_once_for_a_batch() -> None:
    calls: list[str] = []
    box = Mailbox(asyncio.get_running_loop(), lambda: calls.append("after"))
    for name in "abc":
        box.post(lambda name=name: calls.append(name))  # type: ignore[misc]
    await asyncio.sleep(0)
    assert calls == ["a", "b", "c", "after"]
    await asyncio.sleep(0)
    assert calls == ["a", "b", "c", "after"]


async def test_the_loop_gets_its_turn_between_batches() -> None:
    """A stream of proposals must not keep the node from reading acknowledgements."""
    loop = asyncio.get_running_loop()
    order: list[str] = []
    box = Mailbox(loop)

    def again() -> None:
        order.append("call")
        if len(order) < 50:
            box.post(again)  # there is always one more

    box.post(again)
    loop.call_soon(order.append, "other")
    for _ in range(60):
        await asyncio.sleep(0)
    assert order.index("other") <= 2


async def test_a_call_that_fails_takes_no_other_with_it() -> None:
    loop = asyncio.get_running_loop()
    errors: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: errors.append(context))
    calls: list[str] = []

    def fail() -> None:
        raise RuntimeError("on purpose")

    box = Mailbox(loop, lambda: calls.append("after"))
    for call in (lambda: calls.append("a"), fail, lambda: calls.append("b")):
        box.post(call)
    await asyncio.sleep(0)
    box.post(lambda: calls.append("c"))
    await asyncio.sleep(0)
    assert calls == ["a", "b", "after", "c", "after"]
    assert [str(error["exception"]) for error in errors] == ["on purpose"]


async def test_no_call_is_lost_whatever_the_threads_do(thread: RaftThread) -> None:
    """Posting races with the end of a batch: that is where a wake-up could get lost."""
    posters, each = 4, 3000
    seen: list[tuple[int, int]] = []
    flushed: list[int] = []
    box = Mailbox(thread.loop, lambda: flushed.append(len(seen)))

    def post(poster: int) -> None:
        for number in range(each):
            box.post(lambda number=number: seen.append((poster, number)))  # type: ignore[misc]
            if number % 7 == 0:
                threading.Event().wait(0)  # let go of the interpreter, so that batches end in between

    threads = [threading.Thread(target=post, args=(poster,)) for poster in range(posters)]
    for other in threads:
        other.start()
    for other in threads:
        await asyncio.to_thread(other.join)
    deadline = asyncio.get_running_loop().time() + DEADLINE_S
    while not flushed or flushed[-1] < posters * each:  # every call is followed by a flush
        assert asyncio.get_running_loop().time() < deadline, len(seen)
        await asyncio.sleep(0.001)
    assert len(seen) == posters * each
    for poster in range(posters):
        assert [number for who, number in seen if who == poster] == list(range(each))


async def test_two_threads_that_answer_each_other(thread: RaftThread) -> None:
    done = asyncio.Event()
    there, here = Mailbox(thread.loop), Mailbox(asyncio.get_running_loop())
    count = 0

    def ping() -> None:
        here.post(pong)

    def pong() -> None:
        nonlocal count
        count += 1
        if count < 2000:
            there.post(ping)
        else:
            done.set()

    there.post(ping)
    await asyncio.wait_for(done.wait(), DEADLINE_S)


async def test_a_coroutine_runs_there_and_its_result_comes_back(thread: RaftThread) -> None:
    async def where() -> str:
        return threading.current_thread().name

    async def fail() -> None:
        raise OSError("on purpose")

    assert await thread.call(where()) == "raft test"
    with pytest.raises(OSError, match="on purpose"):
        await thread.call(fail())


async def test_after_the_end_nobody_is_there_and_nobody_minds() -> None:
    thread = RaftThread("raft test", asyncio.new_event_loop)
    box = Mailbox(thread.loop)
    thread.stop()
    thread.stop()
    assert thread.loop.is_closed()
    box.post(lambda: None)
    box.post(lambda: None)
