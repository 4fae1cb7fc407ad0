"""The engine of one process: channels in memory, their history bounded in messages, bytes and age.

Publishing delivers at once, in the same turn of the loop. A restart is a new epoch, so a cursor from before is a gap.
"""

import secrets
from collections import Counter, OrderedDict, deque
from dataclasses import dataclass, field
from itertools import islice
from time import monotonic

from ..limits import Limits
from ..message import Message, position
from .base import History, Sink

__all__ = ["MemoryEngine"]

PER_MESSAGE = 256  # bytes counted for a message beside its data: the objects that hold it


@dataclass(slots=True)
class Log:
    """A channel's newest messages. Numbers start at 1; `last` is the newest's, also when it is no longer kept."""

    last: int = 0
    size: int = 0
    kept: deque[tuple[float, str | None, Message]] = field(default_factory=deque)
    keys: dict[str, str] = field(default_factory=dict)


class MemoryEngine:
    """Keeps everything in this process: for one worker. `labserver.realtime.engines.base.Engine` says what it does."""

    name = "memory"
    resumable = True
    ready = True
    lag = 0.0

    def __init__(self, limits: Limits | None = None, *, epoch: str | None = None, channels_max: int = 10_000) -> None:
        """Make an empty one.

        Args:
            limits: of a channel's history.
            epoch: names this life of the engine in each id; None draws one.
            channels_max: number of channels without a subscriber that keep their history; the oldest are forgotten.
        """
        self._limits = limits or Limits()
        self._epoch = epoch or secrets.token_hex(4)
        self._channels_max = channels_max
        self._logs: OrderedDict[str, Log] = OrderedDict()
        self._attached: Counter[str] = Counter()
        self._members: dict[str, dict[str, str]] = {}
        self._claims: OrderedDict[str, float] = OrderedDict()
        self._retired = 0
        self._sink: Sink | None = None

    async def start(self, sink: Sink) -> None:
        self._sink = sink

    async def stop(self) -> None:
        self._sink = None

    async def publish(self, channel: str, event: str, data: str, key: str | None = None) -> str:
        log = self._log(channel)
        self._trim(log)
        if key is not None and key in log.keys:
            return log.keys[key]
        log.last += 1
        message = Message(self._id(log.last), channel, data, event)
        self._keep(log, message, key)
        if self._sink is not None and channel in self._attached:
            self._sink.deliver(message)
        return message.id

    async def attach(self, channel: str) -> None:
        self._attached[channel] += 1
        self._log(channel)

    def detach(self, channel: str) -> None:
        self._attached[channel] -= 1
        if not self._attached[channel]:
            del self._attached[channel]

    def position(self, channel: str) -> str:
        return self._id(self._past(channel).last)

    async def history(self, channel: str, after: str | None, until: str | None, limit: int) -> History:
        log = self._past(channel)
        self._trim(log)
        first = log.last - len(log.kept)  # the number before the oldest kept
        newest = min(self._number(until), log.last) if until else log.last
        begin = self._number(after) if after else first
        gap = not first <= begin <= log.last
        begin = first if gap else begin
        end = max(begin, min(newest, begin + limit))
        messages = [message for _, _, message in islice(log.kept, begin - first, end - first)]
        return History(self._id(end), messages, gap, self._id(begin))

    def join(self, channel: str, member: str, user: str) -> None:
        self._members.setdefault(channel, {})[member] = user

    def leave(self, channel: str, member: str) -> None:
        members = self._members.get(channel, {})
        members.pop(member, None)
        if not members:
            self._members.pop(channel, None)

    async def presence(self, channel: str) -> dict[str, int]:
        return dict(Counter(self._members.get(channel, {}).values()))

    async def claim(self, key: str, ttl: float) -> bool:
        now = monotonic()
        while self._claims and next(iter(self._claims.values())) <= now:
            self._claims.popitem(last=False)
        if self._claims.get(key, 0) > now:
            return False
        self._claims[key] = now + ttl
        self._claims.move_to_end(key)
        return True

    def _log(self, channel: str) -> Log:
        log = self._logs.get(channel)
        if log is None:
            self._forget()
            log = self._logs[channel] = Log(self._retired)
        self._logs.move_to_end(channel)
        return log

    def _past(self, channel: str) -> Log:
        """Return a channel's log to be read: names that nobody publishes on push no other out."""
        return self._logs.get(channel) or Log(self._retired)

    def _forget(self) -> None:
        """Drop the channel that was idle longest when there are too many; its numbers are used by no one again."""
        if len(self._logs) < self._channels_max:
            return
        idle = next((name for name in self._logs if name not in self._attached), None)
        if idle is not None:
            self._retired = max(self._retired, self._logs.pop(idle).last)

    def _keep(self, log: Log, message: Message, key: str | None) -> None:
        log.kept.append((monotonic(), key, message))
        log.size += len(message.data) + PER_MESSAGE
        if key is not None:
            log.keys[key] = message.id
        self._trim(log)

    def _trim(self, log: Log) -> None:
        oldest = monotonic() - self._limits.history_seconds
        while log.kept and (
            log.kept[0][0] < oldest
            or len(log.kept) > self._limits.history_messages
            or log.size > self._limits.history_bytes
        ):
            _, key, message = log.kept.popleft()
            log.size -= len(message.data) + PER_MESSAGE
            if key is not None:
                log.keys.pop(key, None)

    def _id(self, number: int) -> str:
        return f"{self._epoch}-{number}"

    def _number(self, id: str) -> int:
        """Return the number of an id; -1 for one that is not of this life of the engine."""
        epoch, numbers = position(id)
        return numbers[0] if epoch == self._epoch and len(numbers) == 1 else -1
