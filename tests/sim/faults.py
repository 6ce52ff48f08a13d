"""The faults of a random run: drawn from the seed before it begins, so that a failure can print them.

Each fault begins at a time, acts on the cluster as it is then, and ends after a while. A minority of disks may be lost,
never more: what is on a majority counts as safe, and no promise outlives a majority of disks.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from raft import membership as members
from tests.raft.faulty_disk import Fault
from tests.sim.network import Weather

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.sim.cluster import Cluster
    from tests.sim.seat import Seat
    from tests.sim.setting import Answer


@dataclass(frozen=True, slots=True)
class Planned:
    at: float
    name: str
    seconds: float  # until it ends, where it does
    chance: int  # a seed of its own, so that leaving one out changes no other

    def __str__(self) -> str:
        return f"{self.at:7.3f}  {self.name} ({self.seconds:.3f} s)"


def plan(rng: random.Random, until: float, only: Sequence[str] = ()) -> list[Planned]:
    """`only`: of these kinds; else of a few that chance picks, because many kinds together hide each other."""
    favourites = only or rng.sample(sorted(FAULTS), rng.randint(2, 6))
    count = rng.randint(3, 14)
    faults = [
        Planned(
            rng.uniform(0.5, until),
            rng.choice(favourites),
            rng.choice((0.05, 0.3, 1.0, 3.0)) * rng.uniform(0.5, 1.5),
            rng.getrandbits(32),
        )
        for _ in range(count)
    ]
    return sorted(faults, key=lambda fault: fault.at)


def weather(rng: random.Random) -> Weather:
    """What chance does to messages for the whole run."""
    if rng.random() < 0.3:
        return Weather()
    return Weather(
        delay_s=(0.0002, rng.choice((0.002, 0.01, 0.06))),
        slow=rng.choice((0.0, 0.01, 0.05)),
        refuse=rng.choice((0.0, 0.0, 0.01, 0.05)),
        doubled=rng.choice((0.0, 0.02, 0.1)),
        breaks=rng.choice((0.0, 0.0, 0.002, 0.01)),
    )


def begin(cluster: Cluster, fault: Planned) -> None:
    cluster.world.trace(f"fault: {fault.name} for {fault.seconds:.3f} s")
    FAULTS[fault.name](cluster, random.Random(fault.chance), fault.seconds)


# -- the network -------------------------------------------------------------------------------------------------------------


def _partition(cluster: Cluster, rng: random.Random, seconds: float) -> None:
    names = sorted(cluster.seats)
    rng.shuffle(names)
    cut = rng.randint(1, len(names) - 1)
    cluster.network.partition(names[:cut], names[cut:])
    cluster.world.after(seconds, cluster.network.heal)


def _isolate_leader(cluster: Cluster, rng: random.Random, seconds: float) -> None:
    leader = cluster.leader()
    if leader is not None:
        cluster.network.isolate(leader.name)
        cluster.world.after(seconds, cluster.network.heal)


def _one_way(cluster: Cluster, rng: random.Random, seconds: float) -> None:
    """One node is heard and hears nothing, or the other way round, or between two only."""
    names = sorted(cluster.seats)
    one = rng.choice(names)
    others = [name for name in names if name != one]
    some = others if rng.random() < 0.5 else [rng.choice(others)]
    deaf = rng.random() < 0.5
    cluster.network.cut |= {(other, one) if deaf else (one, other) for other in some}
    cluster.world.after(seconds, cluster.network.heal)


def _break_connections(cluster: Cluster, rng: random.Random, seconds: float) -> None:
    names = sorted(cluster.seats)
    for _ in range(rng.randint(1, 8)):
        a, b = rng.sample(names, 2)
        cluster.world.after(rng.random() * seconds, lambda a=a, b=b: cluster.network.break_connection(a, b))  # type: ignore[misc]


# -- processes and machines ----------------------------------------------------------------------------------------------------


def _crash(cluster: Cluster, name: str, rng: random.Random, seconds: float) -> None:
    seat = cluster.seats[name]
    seat.crash(rng.choice(("kill", "power")))
    seat.restart_after(seconds)


def _crash_one(cluster: Cluster, rng: random.Random, seconds: float) -> None:
    _crash(cluster, rng.choice(sorted(cluster.seats)), rng, seconds)


def _crash_leader(cluster: Cluster, rng: random.Random, seconds: float) -> None:
    leader = cluster.leader()
    if leader is not None:
        _crash(cluster, leader.name, rng, seconds)


def _crash_all(cluster: Cluster, rng: random.Random, seconds: float) -> None:
    for name in sorted(cluster.seats):
        _crash(cluster, name, rng, seconds * rng.random())


def _power_during_write(cluster: Cluster, rng: random.Random, seconds: float) -> None:
    """The machine goes down in the middle of some write that is still to come; its process starts again by itself."""
    process = cluster.seats[rng.choice(sorted(cluster.seats))].process
    if process is not None:
        process.seat.disk.plan(rng.randint(1, 30), Fault.POWER)


def _stop(cluster: Cluster, rng: random.Random, seconds: float) -> None:
    leader = cluster.leader()
    seat = cluster.seats[rng.choice(sorted(cluster.seats))]
    process = leader if leader is not None and rng.random() < 0.5 else seat.process
    if process is not None and not process.paused:
        process.pause(seconds)


def _clock(cluster: Cluster, rng: random.Random, seconds: float) -> None:
    seat = cluster.seats[rng.choice(sorted(cluster.seats))]
    jump = rng.choice((-3600.0, 3600.0, -1.0, 1.0, 0.1))
    cluster.world.trace(f"{seat.name}: its clock jumps by {jump} s")
    seat.clock_offset += jump


# -- disks -------------------------------------------------------------------------------------------------------------------


def _full_disk(cluster: Cluster, rng: random.Random, seconds: float) -> None:
    seat = cluster.seats[rng.choice(sorted(cluster.seats))]
    seat.disk.full = True

    def free() -> None:
        seat.disk.full = False

    cluster.world.after(seconds, free)


def _write_fails(cluster: Cluster, rng: random.Random, seconds: float) -> None:
    seat = cluster.seats[rng.choice(sorted(cluster.seats))]
    seat.disk.plan(rng.randint(1, 10), rng.choice((Fault.SYNC_FAILS, Fault.NO_SPACE)), rng.random())


def _lose_disk(cluster: Cluster, rng: random.Random, seconds: float) -> None:
    """A follower's disk is gone: it comes back empty, is refused, and is removed and added again by its operator."""
    seat = _dispensable(cluster, rng)
    if seat is None:
        return
    seat.crash("kill")
    seat.unplugged = True

    def come_back() -> None:
        if seat.process is None:
            seat.unplugged = False
            _replace(cluster, seat)

    cluster.world.after(seconds, come_back)


def _flip_bit(cluster: Cluster, rng: random.Random, seconds: float) -> None:
    """One bit of a follower's files, while it is down. It must be noticed, or be of no importance.

    Not in the last segment of the log: a damaged record with nothing after it cannot be told from a write that was cut off.
    """
    seat = _dispensable(cluster, rng)
    if seat is None:
        return
    seat.crash("kill")
    names = seat.disk.names
    segments = sorted(path for path in names if path.endswith(".wal"))
    small = [path for path in names if "." not in path.rpartition("/")[2] and names[path].cached]
    path = rng.choice([*segments[:-1], *sorted(small)])
    seat.disk.flip_bit(rng, path, 0, len(names[path].cached))
    seat.damaged = f"a bit of {path} is flipped"
    cluster.world.trace(f"{seat.name}: {seat.damaged}")
    seat.restart_after(seconds)
    _watch(cluster, seat, seconds + 0.5)


def _watch(cluster: Cluster, seat: Seat, seconds: float, looks: int = 10) -> None:
    """Its operator looks now and then whether it has been refused, or has stopped, for what is on its disk."""

    def look() -> None:
        if seat.process is None and seat.refusal:
            _replace(cluster, seat)
        elif looks:
            _watch(cluster, seat, 1.0, looks - 1)

    cluster.world.after(seconds, look)


def _dispensable(cluster: Cluster, rng: random.Random) -> Seat | None:
    """A voter that the cluster can do without, once per run."""
    leader = cluster.leader()
    if leader is None or cluster.disks_lost:
        return None
    voters = leader.journal.membership.voters
    able = [name for name in sorted(voters) if name != leader.name and cluster.seats[name].fresh]
    if len(voters) < 3 or not able:
        return None
    cluster.disks_lost += 1
    return cluster.seats[rng.choice(able)]


def _replace(cluster: Cluster, seat: Seat) -> None:
    seat.replace_disk()
    seat.start()
    _take_in_again(cluster, seat)


# -- members -----------------------------------------------------------------------------------------------------------------


def _take_in_again(cluster: Cluster, seat: Seat, tries: int = 60) -> None:
    """As its operator would: remove the old disk, add the new one, promote it; each when the one before has come about."""
    if cluster.running():
        member = cluster.members().get(seat.name)
        if member is None:
            cluster.admin.change(lambda now: members.add(now, seat.member))
        elif member.incarnation != seat.incarnation:
            cluster.admin.change(lambda now: members.remove(now, seat.name))
        elif not member.voter:
            cluster.admin.change(lambda now: members.promote(now, seat.name))
        else:
            return
    if tries:
        cluster.world.after(0.3, lambda: _take_in_again(cluster, seat, tries - 1))


def _change_members(cluster: Cluster, rng: random.Random, seconds: float) -> None:
    """Add a spare, promote a learner, or remove one of more than three; whatever is possible."""
    leader = cluster.leader()
    if leader is None:
        return
    now = leader.journal.membership
    outside = [name for name in sorted(cluster.seats) if name not in now and cluster.seats[name].fresh]
    learners = [member.name for member in now.members if not member.voter]
    if learners and rng.random() < 0.7:
        name = rng.choice(learners)
        cluster.admin.change(lambda m: members.promote(m, name))
    elif outside and rng.random() < 0.7:
        member = cluster.seats[rng.choice(outside)].member
        cluster.admin.change(lambda m: members.add(m, member))
    elif len(now.voters) > 2:
        name = rng.choice(sorted(now.voters))
        cluster.admin.change(lambda m: members.remove(m, name), then=lambda answer: _gone(cluster, name, answer))


def _gone(cluster: Cluster, name: str, answer: Answer) -> None:
    """A removed node is switched off, as its operator would; its disk is of no use any more."""
    if answer == "changed":
        seat = cluster.seats[name]
        seat.fresh = False
        seat.retire()
        cluster.world.after(1.0, lambda: seat.crash("kill"))


def _transfer(cluster: Cluster, rng: random.Random, seconds: float) -> None:
    cluster.admin.transfer(rng.choice(["", *sorted(cluster.seats)]))


def _snapshot(cluster: Cluster, rng: random.Random, seconds: float) -> None:
    for process in cluster.running():
        process.checkpoint_now()
        process.want()


FAULTS: dict[str, Callable[[Cluster, random.Random, float], None]] = {
    "a partition": _partition,
    "the leader is cut off": _isolate_leader,
    "one direction is cut": _one_way,
    "connections break": _break_connections,
    "a node dies": _crash_one,
    "the leader dies": _crash_leader,
    "all nodes die": _crash_all,
    "power is lost during a write": _power_during_write,
    "a process is stopped": _stop,
    "a clock jumps": _clock,
    "a disk is full": _full_disk,
    "a write fails": _write_fails,
    "a disk is lost": _lose_disk,
    "a bit is flipped": _flip_bit,
    "the members change": _change_members,
    "leadership is handed over": _transfer,
    "snapshots are made": _snapshot,
}
