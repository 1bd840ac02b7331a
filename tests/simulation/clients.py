"""Roots and operators: their calls, what they were answered, and what they may expect since then."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Protocol

from cluster.convert import duration, spec_to_proto
from cluster.errors import ClusterError, UnavailableError
from cluster.jobs import JobSpec
from cluster.v1 import instance_pb2, job_pb2
from cluster.v1 import manager_pb2 as pb
from manager.domain.model import Instance, Job
from manager.ports import Kind
from simulation.book import Book, Outcome, Wish, deleted, deployed, mismatch, scaled, updated
from simulation.manager import AwayError, SimManager
from simulation.storage import Disk
from simulation.story import Story
from simulation.timeline import Timeline
from simulation.truth import Slot, mark_of

HEALTH_DEADLINE_S = 30.0


class Surroundings(Protocol):
    """What clients need from the world."""

    manager: SimManager
    disk: Disk
    timeline: Timeline
    story: Story


class Clients:
    """All who call. `touched` tells when somebody last asked for a change of an instance; "" as job: of a node."""

    def __init__(self, world: Surroundings) -> None:
        self._world = world
        self._loop = asyncio.get_running_loop()
        self._tasks: dict[asyncio.Task[None], None] = {}
        self.books: dict[str, Book] = {}
        self.touched: defaultdict[tuple[str, int], list[float]] = defaultdict(list)
        self.moved: set[Slot] = set()
        self.drained: set[str] = set()
        self.cordons: dict[str, Book] = {}
        self.given_up: defaultdict[str, list[float]] = defaultdict(list)
        self.removed: defaultdict[str, list[float]] = defaultdict(list)

    def book(self, job_id: str) -> Book:
        """What is expected of a job."""
        return self.books.setdefault(job_id, Book(job_id))

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Somebody does something by himself."""
        task = self._loop.create_task(work)
        self._tasks[task] = None
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.pop(task, None)
        if not task.cancelled() and task.exception() is not None:
            self._world.story.stumbles.append(f"a client stumbled: {task.exception()!r}")

    def touch(self, job_id: str, number: int = -1) -> None:
        """Somebody asks for a change, of one instance or (-1) of all."""
        self.touched[job_id, number].append(self._loop.time())

    def was_touched(self, slot: Slot, since_s: float) -> bool:
        """Whether somebody asked for a change of an instance after a time."""
        times = (*self.touched.get(slot, ()), *self.touched.get((slot[0], -1), ()))
        return any(at_s >= since_s for at_s in times)

    # Wishes

    def deploy(self, slots: list[Slot], spec: JobSpec) -> None:
        """Ask for instances of one job."""
        job_id, mark = slots[0][0], mark_of(spec.image)
        numbers = [number for _, number in slots]
        deployments = [
            pb.InstanceDeployment(key=instance_pb2.InstanceKey(job_id=job_id, number=number)) for number in numbers
        ]
        request = pb.DeployInstancesRequest(actor="root", specs=[spec_to_proto(spec)], deployments=deployments)

        def change(state: Any) -> Any:
            for number in numbers:
                state = deployed(number, mark)(state)
            return state

        wish = Wish(f"deploy {numbers} as {mark}", change, self._loop.time())
        self._wish(job_id, wish, "DeployInstances", request, numbers)

    def delete(self, job_id: str, number: int) -> None:
        """Ask for the end of an instance, or of all (-1)."""
        key = instance_pb2.InstanceKey(job_id=job_id, number=number)
        request = pb.DeleteInstancesRequest(actor="root", keys=[key])
        wish = Wish(f"delete {number}", deleted(number), self._loop.time())
        self._wish(job_id, wish, "DeleteInstances", request, [number])

    def scale(self, job_id: str, count: int) -> None:
        """Ask for a number of instances."""
        request = pb.ReplicateJobRequest(job_id=job_id, instance_count=count)
        self._wish(job_id, Wish(f"scale to {count}", scaled(count), self._loop.time()), "ReplicateJob", request)

    def update(self, job_id: str, spec: JobSpec, *, batch_size: int, rolls_back: bool) -> None:
        """Ask for a rolling change."""
        strategy = job_pb2.UpdateStrategy(
            batch_size=batch_size, health_deadline=duration(HEALTH_DEADLINE_S), rollback_on_failure=rolls_back
        )
        request = pb.UpdateJobRequest(job_id=job_id, spec=spec_to_proto(spec), strategy=strategy)
        mark = mark_of(spec.image)
        self._wish(job_id, Wish(f"update to {mark}", updated(mark), self._loop.time()), "UpdateJob", request)

    def _wish(self, job_id: str, wish: Wish, method: str, request: Any, numbers: Sequence[int] = (-1,)) -> None:
        self.spawn(self._ask(self.book(job_id), wish, method, request, numbers))

    async def _ask(self, book: Book, wish: Wish, method: str, request: Any, numbers: Sequence[int] = ()) -> None:
        world = self._world
        world.story.tell("wish:", book.job_id, wish.words)

        def arrived() -> None:
            book.arrive(wish)
            for number in numbers:
                self.touch(book.job_id, number)

        def answered(_response: Any) -> None:
            self._keep_old_marks(book, wish)
            book.settle(wish, Outcome.DONE)
            if numbers:
                self._check_durable(book, wish)

        try:
            await world.manager.call(method, request, arrived=arrived, answered=answered)
        except AwayError as error:
            outcome = Outcome.UNKNOWN if error.has_arrived else Outcome.REFUSED
        except UnavailableError:
            outcome = Outcome.IN_LIMBO
        except ClusterError as error:
            world.story.tell("refused:", book.job_id, wish.words, error.detail)
            outcome = Outcome.REFUSED
        else:
            outcome = Outcome.DONE
        if wish in book.history:
            book.settle(wish, outcome)
        world.story.check(f"wish {wish.words.split(maxsplit=1)[0]} {outcome}")
        world.story.tell("wish is", outcome + ":", book.job_id, wish.words)

    def _keep_old_marks(self, book: Book, wish: Wish) -> None:
        """While an update is under way it may yet bring the old specification back, or go on."""
        job = self._world.disk.records.get((Kind.JOB, book.job_id))
        if isinstance(job, Job) and job.update is not None and wish.words.startswith("deploy"):
            change = wish.change

            def both(state: Any) -> Any:
                after = change(state)
                for number, marks in after.numbers:
                    after = after.put(number, marks | state.of(number))
                return after

            wish.change = both

    def _check_durable(self, book: Book, wish: Wish) -> None:
        """What was answered is on the disk in this moment."""
        self._world.story.check("answered is durable")
        problem = self.problem_of(book, self.durable(book.job_id), may_limbo=True)
        assert not problem, f"{book.job_id}: {wish} was answered and is not durable: {problem}; {book.story()}"

    # What is expected

    def durable(self, job_id: str) -> dict[int, str]:
        """The desired instances of a job on the disk, number -> mark."""
        found = {}
        for (kind, _), record in self._world.disk.records.items():
            is_ours = kind is Kind.INSTANCE and isinstance(record, Instance) and record.key.job_id == job_id
            if is_ours and record.is_desired:
                found[record.key.number] = mark_of(record.spec.image)
        return found

    def problem_of(self, book: Book, seen: dict[int, str], *, may_limbo: bool) -> str:
        """Why what is seen of a job cannot be; "" where it can."""
        problems = [mismatch(state, seen) for state in sorted(book.allowed(may_limbo=may_limbo), key=repr)]
        return "" if "" in problems else " or ".join(problems)

    def store_works(self) -> None:
        """What was refused will not be written any more."""
        for book in (*self.books.values(), *self.cordons.values()):
            book.end_limbo(Outcome.REFUSED)

    def manager_stopped(self) -> None:
        """What was refused and not taken back may count after all."""
        for book in (*self.books.values(), *self.cordons.values()):
            book.end_limbo(Outcome.UNKNOWN)

    # Operators

    def move(self, slot: Slot, target: str = "") -> None:
        """Move an instance; two copies are meant to run for a moment."""
        self.moved.add(slot)
        request = pb.MoveInstanceRequest(job_id=slot[0], instance_number=slot[1], target_node=target)
        self.spawn(self._try(f"move {slot[0]}/{slot[1]}", "MoveInstance", request))

    def cordon(self, node: str, *, is_cordoned: bool) -> None:
        """Stop or allow new placements."""
        self.spawn(self._cordon(node, is_cordoned=is_cordoned))

    async def _cordon(self, node: str, *, is_cordoned: bool) -> bool:
        mark = "cordoned" if is_cordoned else "open"
        book = self.cordons.setdefault(node, Book(node))
        wish = Wish(mark, deployed(0, mark), self._loop.time())
        request = pb.CordonNodeRequest(node=node, is_cordoned=is_cordoned)
        await self._ask(book, wish, "CordonNode", request)
        return wish.outcome is Outcome.DONE

    def drain(self, node: str, seconds: float) -> None:
        """Empty a node, and give it back after a while."""
        self.spawn(self._drain(node, seconds))

    async def _drain(self, node: str, seconds: float) -> None:
        book = self.cordons.setdefault(node, Book(node))
        wish = Wish("drain", deployed(0, "cordoned"), self._loop.time())
        book.arrive(wish)
        self.drained.add(node)
        self._world.story.tell("drain", node, f"{seconds:.1f} s")
        request = pb.DrainNodeRequest(node=node, max_parallel=2, deadline=duration(seconds))

        def tell(progress: Any) -> None:
            book.settle(wish, Outcome.DONE)
            self._world.story.tell("drain of", node, progress.detail)

        try:
            await self._world.manager.stream("DrainNode", request, tell)
        except ClusterError as error:
            self._world.story.tell("drain failed", node, error.detail)
        book.settle(wish, Outcome.UNKNOWN)
        while not await self._cordon(node, is_cordoned=False):
            if self._world.manager.is_serving and self._is_unknown(node):
                break
            await asyncio.sleep(2.0)

    def _is_unknown(self, node: str) -> bool:
        core = self._world.manager.core
        return core is not None and core.state.find_node(node) is None

    def confirm_lost(self, nodes: list[str]) -> None:
        """Give nodes up; all that are missed where none is named."""
        for node in nodes or ["*"]:
            self.given_up[node].append(self._loop.time())
        self.spawn(self._try(f"confirm lost {nodes}", "ConfirmLost", pb.ConfirmLostRequest(nodes=nodes)))

    def remove(self, node: str) -> None:
        """Forget a node, by force."""
        self.removed[node].append(self._loop.time())
        self.cordons.pop(node, None)
        request = pb.RemoveNodeRequest(node=node, is_forced=True)
        answered = lambda _response: self._world.timeline.forget(node)  # noqa: E731 - one line is enough
        self.spawn(self._try(f"remove {node}", "RemoveNode", request, answered))

    async def _try(
        self, words: str, method: str, request: Any, answered: Callable[[Any], None] = lambda _response: None
    ) -> None:
        self._world.story.tell("operator:", words)
        try:
            await self._world.manager.call(method, request, answered=answered)
        except ClusterError as error:
            self._world.story.tell("operator fails:", words, error.detail)
        self._world.story.check(f"operator {words.split(maxsplit=1)[0]}")
