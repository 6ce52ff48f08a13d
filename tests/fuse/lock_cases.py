"""The table of lock cases: what three processes do to the locks of one file. What must come of it, a local file system says.

A case is steps, separated by `;`. A step is an actor (A, B, C), a verb and its words:

    set TYPE START LENGTH [HOW]     fcntl; TYPE r, w, u; HOW o (open file description), or nothing
    wait TYPE START LENGTH [HOW]    the same with waiting; the step ends when the lock is there, or is waited for
    get TYPE START LENGTH [HOW]     who is in the way
    flock s|x|u, fwait s|x|u        flock(2), without and with waiting
    done                            the wait has ended; what it gave
    open NAME MODE, close NAME, dup NAME NEW, use NAME      MODE r, w, rw; further steps of this actor use NAME
    seek N, cut N, remove, link, move                       of the file
    child STEP [/ STEP]             a child made by fork does this and exits
    signal, alarm, kill             SIGUSR1 to the actor that waits; SIGALRM; SIGKILL

START is bytes; with a leading `c` or `e` it counts from the position or from the end of the file, whose size is 100. MAX is the
last byte that a lock may have. Where several locks are in the way fcntl(2) does not say which one F_GETLK tells, so no case
asks that.
"""

from __future__ import annotations

from itertools import product

MAX = 2**63 - 1


def conflicts() -> list[str]:
    """Each pair of types on ranges that miss, touch, meet, contain each other: asked, tried, and seen from either side."""
    ranges = ["0 10", "5 10", "10 5", "9 1", "0 0", "20 0", "2 3", f"{MAX} 1", "15 -5", "e-90 1"]
    return [
        f"A set {held} 0 10; B get {wanted} {range_}; B set {wanted} {range_}; A get w 0 0; B get w 0 0"
        for held, wanted, range_ in product("rw", "rw", ranges)
    ]


def ranges() -> list[str]:
    """What one owner holds after a few calls, as another process finds it byte by byte."""
    look = "; ".join(f"B get w {at} 1" for at in (0, 4, 5, 9, 10, 14, 15, 20))
    firsts = ["w 0 20", "r 0 20", "r 0 5; A set w 10 5"]
    seconds = ["u 5 5", "r 5 5", "w 5 5", "u 0 5", "u 15 5", "u 10 0", "w 5 10", "r 0 0", "w 20 1", "u 19 2"]
    return [f"A set {one}; A set {two}; {look}" for one, two in product(firsts, seconds)]


EDGES = [
    f"A set w {MAX} 1; B get w 0 0; B set w {MAX - 1} 1; B set r {MAX} 1",
    f"A set w 0 0; A set u {MAX} 1; B set w {MAX} 1; B get w 0 0; A set w {MAX} 1",
    f"A set w {MAX - 10} 5; A set w {MAX - 5} 6; B get r 0 0; A set u {MAX - 5} 1; B get r {MAX - 5} 0",
    f"A set w {MAX} 2",
    f"A set w {MAX - 1} 3",
    "A set w -1 1",
    "A set w 5 -6",
    "A set w 5 -5; B get w 0 0",
    "A set w 10 -1; B get w 0 0; B set w 10 1",
    "A set w e-10 10; B get w 0 0; B set w 100 1",
    "A set w e0 0; B get w 0 0; B set w 0 100; B set w 100 1",
    "A seek 30; A set w c-10 10; B get w 0 0; B set w 30 1; B set w 29 1",
    "A set w e-101 1",
    "A seek 7; A set r c0 0; B get w 0 0; A set u c0 1; B get w 0 0",
    "A cut 50; A set w e0 10; B get w 0 0; B set w 49 1; B set w 50 1",
    "A set w 0 100; A cut 10; B get w 50 1; B set r 99 1",
    "A set w 200 10; B get w 0 0",
]

UPGRADES = [
    "A set r 0 10; A set w 0 10; B set r 0 1; B get r 0 1",
    "A set w 0 10; A set r 0 10; B set r 0 1; B set w 0 1; A set w 0 1",
    "A set r 0 10; B set r 0 10; A set w 0 10; B set u 0 10; A set w 0 10; B get r 0 0",
    "A set r 0 10; B set r 5 10; A set w 0 5; A set w 0 6; C get r 0 0; C get r 4 2",
    "A set w 0 10; B wait r 5 5; A set r 5 5; B done; C set w 5 1; C get w 0 0",
    "A set r 0 10; B wait w 0 10; A wait w 0 10; A set u 0 0; B done; C get r 0 0",
    "A set r 0 10; B set r 0 10; A wait w 0 10; B wait w 0 10; B set u 0 0; A done; C get r 0 0",
    "A set w 0 10; A set w 0 10; A set r 3 1; A set u 4 1; C get w 0 0; C get w 4 1; C get w 5 1",
    "A flock s; A flock x; B flock s; A flock s; B flock s; A flock x; B flock u; A flock x",
    "A flock x; B fwait s; A flock s; B done; C flock s; C flock x",
    "A flock s; B flock s; B fwait x; A flock u; B done; A flock s",
]

FLOCKS = [
    "A flock x; B flock x; B flock s; A flock u; B flock x; A flock s",
    "A flock s; B flock s; C flock s; C flock x; A flock u; B flock u; C flock x; A flock s",
    "A flock u; A flock x; A flock x; B flock s",
    "A flock x; A open g rw; A use g; A flock x; A flock s; A use f; A flock u; A use g; A flock x",
    "A flock x; A dup f g; A close g; B flock x; A close f; B flock x",
    "A flock x; A dup f g; A use g; A flock u; B flock x",
    "A flock x; A child flock x / flock u; B flock x",
    "A flock x; A child close f; B flock x; A close f; B flock x",
    "A flock x; A kill; B fwait x; C flock s",
    "A open r r; A use r; A flock x; B flock s; A close r; B flock x",
    "A open w w; A use w; A flock s; B flock x; B flock s; A flock u",
    "A flock x; B fwait x; C fwait x; A flock u; B done; B flock u; C done; A flock s",
    "A flock x; B fwait s; C fwait s; A flock u; B done; C done; A flock s; A flock x",
    "A flock x; B fwait x; B signal; B done; A flock u; C flock x; B flock s",
    "A flock x; B alarm; B fwait x; B done; A flock u; C flock x",
    "A flock x; B set w 0 0; A set r 0 0; C get w 0 0; B flock x",
    "A set w 0 0; B flock x; C flock s; C set r 0 1; B set r 0 1",
    "A flock x; remove; B flock x; A flock u; B flock x",
    "A flock x; link; B open g rw link; B use g; B flock x; A flock u; B flock x",
    "A flock x; move; B flock x; A flock u; B flock s",
    "A flock x; B fwait x; A kill; B done; C flock s",
    "A flock x; B fwait x; B kill; A flock u; C flock x",
    "A fwait x; B fwait x; A close f; B done",
    "A flock s; B fwait x; C flock s; C flock u; A flock u; B done; C flock s",
]

CLOSING = [
    "A set w 0 10; A close f; B set w 0 10",
    "A set w 0 10; A open g rw; A close g; B set w 0 10; A set r 0 1",
    "A open g r; A set w 0 10; A close g; B set w 0 10",
    "A open g r; A use g; A set r 0 10; A dup g h; A close h; B set w 0 10",
    "A set w 0 10; A dup f g; A close g; B set w 0 10",
    "A set w 0 10; A child close f; B set w 0 10; B get w 0 0",
    "A set w 0 10; A child set r 0 1 / get w 0 0; B set w 0 10",
    "A child set w 0 10; B set w 0 10",
    "A open g r; A use g; A child set r 0 10; B set w 0 10",
    "A set w 0 10; A kill; B wait w 0 10; C get w 0 0",
    "A set w 0 10; B wait w 5 1; A close f; B done; C get w 0 0",
    "A set w 0 10; B wait w 5 1; A kill; B done; C get w 0 0",
    "A set w 0 10; B wait w 5 1; B kill; A set u 0 0; C set w 0 0",
    "A open g rw; A use g; A set w 0 10; A use f; A set u 0 5; B get w 0 0; A close g; B get w 0 0",
    "A open w w; A use w; A set w 0 10; A set r 0 10; A get r 0 10; B set w 0 1",
    "A open r r; A use r; A set w 0 10; A set r 0 10; B set w 0 1; B set r 0 1",
    "A set w 0 10; remove; B set w 0 10; B get r 0 0; A close f; B set w 0 10",
    "A set w 0 10; link; B open g rw link; B use g; B set w 0 10; B get w 0 0; A set u 0 0; B set w 0 10; A set r 0 1",
    "A set w 0 10; move; B set w 0 10; A set u 0 10; B set w 0 10",
]

WAITS = [
    "A set w 0 10; B wait w 0 10; A set u 0 10; B done; C get w 0 0",
    "A set w 0 10; B wait w 0 10; C wait w 0 10; A set u 0 10; B done; B set u 0 10; C done; A get w 0 0",
    "A set w 0 10; B wait r 0 10; C wait r 5 10; A set u 0 10; B done; C done; A set w 0 1; A set w 14 1",
    "A set w 0 10; B wait w 0 5; C wait w 5 5; A set u 5 5; C done; A set u 0 0; B done; A get w 0 5; A get w 5 0",
    "A set w 0 10; B wait w 5 10; A set u 5 3; C set w 5 3; A set u 0 0; C set u 0 0; B done; C get w 0 0",
    "A set w 0 10; B wait w 0 0; B signal; B done; A set u 0 0; C set w 0 0",
    "A set w 0 10; B alarm; B wait w 0 0; B done; A set u 0 0; C set w 0 0",
    "A set r 0 10; B set r 0 10; B wait w 0 10; B signal; B done; A set w 0 10; B set u 0 0; A set w 0 10",
    "A set w 0 10; B wait w 0 10; A set r 0 10; C set r 0 10; A set u 0 0; C set u 0 0; B done",
    "A set r 0 10; B wait w 0 10; C set r 0 10; A set u 0 0; C set u 0 0; B done; A set r 0 1",
    "A wait w 0 10; B get w 0 0; A wait r 0 10; A wait u 0 10; B set w 0 10",
    f"A set w {MAX} 1; B wait w {MAX - 5} 0; A set u 0 0; B done; C get w 0 0",
]

DEADLOCKS = [
    "A set w 0 1; B set w 1 1; A wait w 1 1; B wait w 0 1; B set u 1 1; A done",
    "A set w 0 1; B set w 1 1; C set w 2 1; A wait w 1 1; B wait w 2 1; C wait w 0 1; C set u 0 0; B done; B set u 0 0; A done",
    "A set w 0 1; B set w 1 1; A wait w 1 1; B set w 0 1; B set u 0 0; A done",
    "A set w 0 1; B set w 1 1; A wait w 1 1; B wait w 2 1; B wait w 0 1; B set u 0 0; A done",
    "A set w 0 1; B wait w 0 1; C wait w 0 1; A wait w 1 1; A set u 0 0; B done; B set u 0 0; C done",
    "A set r 0 1; B set r 0 1; A wait w 0 1; B wait w 0 1; B set u 0 0; A done",
    "A set r 0 2; B set w 2 1; B wait w 0 1; A wait w 2 1; A set u 0 0; B done",
    "A set w 0 1 o; B set w 1 1 o; A wait w 1 1 o; B wait w 0 1 o; B signal; B done; B set u 1 1 o; A done",
    "A flock x; B open g rw other; B use g; B flock x; A open g rw other; A use g; A fwait x; B use f; B fwait x; B signal;"
    " B done; B use g; B flock u; A done",
]

#: The kernel gives other processes' numbers where an open file description is in the way or asks; see OPERATING.md.
OFD = [
    "A set w 0 10 o; B set w 5 1; B set w 5 1 o; B set w 10 1 o; A set w 10 1",
    "A set w 0 10 o; A set w 0 10; A set u 0 10 o; A set w 0 10",
    "A set w 0 10; A set r 0 1 o; A set u 0 0; A set r 0 1 o; B set r 0 1; B set w 0 1",
    "A set w 0 10 o; A open g rw; A use g; A set r 0 1 o; A use f; A set u 0 5 o; A use g; A set r 0 5 o; A set r 0 6 o",
    "A set w 0 10 o; A open g rw; A close g; B set w 0 1 o; A close f; B set w 0 1 o",
    "A set w 0 10 o; A dup f g; A close f; B set w 0 1; A use g; A set u 0 0 o; B set w 0 1",
    "A set w 0 10 o; A child set u 0 5 o; B set w 0 5; B set w 5 1",
    "A set w 0 10 o; A child set w 0 20 o; B set w 19 1; A close f; B set w 19 1 o",
    "A set w 0 10 o; B wait w 0 10 o; A set u 0 0 o; B done; C set r 0 1 o",
    "A set w 0 10 o; B wait w 0 10; A close f; B done; C set r 0 1 o",
    "A set w 0 10 o; B wait w 0 10 o; B signal; B done; A set u 0 0 o; C set w 0 0 o",
    "A set w 0 10 o; A kill; B wait w 0 10 o; C set w 0 1",
    "A set r 0 10 o; B set r 0 10 o; C set w 10 1 o; A set w 0 10 o; B set u 0 10 o; A set w 0 10 o",
    f"A set w {MAX} 1 o; B set w {MAX} 1 o; B set w {MAX - 1} 1 o",
    "A flock x; A set w 0 0 o; B flock s; B set r 0 1 o; A flock u; B flock s; B set r 0 1 o",
]

CASES = [*conflicts(), *ranges(), *EDGES, *UPGRADES, *FLOCKS, *CLOSING, *WAITS, *DEADLOCKS, *OFD]
