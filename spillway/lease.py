"""The lease of a runtime that takes few calls at once: its keys, its record and its steps on the shared store.

The engines in front of a runtime take, renew and free it; routers show it to operators and have it given back. Every
step is one script, by the store's own clock. All keys are in one hash slot, times are microseconds. See docs/lease.md.

A hold is a member of `holders` (by its end) and a record `fencing since last state owner request_id`; `state` is
`held`, or `ended` once an operator wants it back. A fencing token is at least the time of its grant, so that it grows
even over a store that forgot everything.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from spillway.store.redis import Script

NAMES: Final = "spillway:{leases}:names"
"""Names of leases by when they were last taken; forgotten a day later."""


def keys(name: str) -> list[str]:
    """Return KEYS of every script for the lease `name`."""
    parts = ("about", "holders", "records", "line", "alive", "lines")
    return [NAMES, *(f"spillway:{{leases}}:{part}:{name}" for part in parts)]


def channel(name: str) -> str:
    """Where it is told that a slot is free (`freed`), or that holders are to end (`ended`)."""
    return f"spillway:{{leases}}:news:{name}"


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a slot. `left_s`: until it ends unless it is renewed; `ended`: an operator wants it back."""

    owner: str
    request_id: str
    fencing: int
    held_s: float
    left_s: float
    ended: bool


@dataclass(frozen=True, slots=True)
class Standing:
    """How a lease stands. `waiting` counts the calls in the lines of all engines."""

    name: str
    slots: int
    waiting: int
    holders: tuple[Holder, ...]


def standing(name: str, found: list[bytes | int]) -> Standing | None:
    """Read what LOOK or END returned; None where no such lease is known."""
    slots, waiting, now, *holds = found
    if not slots:
        return None
    holders = []
    for at in range(0, len(holds), 2):
        fencing, since, _, state, owner, request_id = _text(holds[at]).split(" ", 5)
        held_s = max(0, int(_text(now)) - int(since)) / 1e6
        holders.append(Holder(owner, request_id, int(fencing), held_s, int(holds[at + 1]) / 1e6, state == "ended"))
    return Standing(name, int(slots), int(waiting), tuple(holders))


def _text(part: bytes | int) -> str:
    return part.decode(errors="replace") if isinstance(part, bytes) else str(part)


_COMMON: Final = """
local names, about, holders, records = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local line, alive, lines = KEYS[5], KEYS[6], KEYS[7]
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local day = 86400000000

local function whole(number) return string.format('%.0f', number) end

local function forget()
  for _, token in ipairs(redis.call('ZRANGEBYSCORE', holders, '-inf', whole(now))) do
    redis.call('ZREM', holders, token)
    redis.call('HDEL', records, token)
  end
  for _, token in ipairs(redis.call('ZRANGEBYSCORE', alive, '-inf', whole(now))) do
    redis.call('ZREM', alive, token)
    redis.call('ZREM', line, token)
  end
end

local function keep()
  for at = 1, #KEYS do redis.call('PEXPIRE', KEYS[at], day / 1000 * 2) end
end

-- Microseconds for which a store that has just begun may have forgotten a hold of `ttl`. It says whole seconds, up to
-- one too many; one that says nothing is taken to remember.
local function unsure(ttl)
  local told = redis.pcall('INFO', 'server')
  local up = type(told) == 'string' and string.match(told, 'uptime_in_seconds:(%d+)')
  return up and math.max(0, ttl - (up - 1) * 1000000) or 0
end

local function record(fencing, since, last, state, owner, request)
  return string.format('%.0f %.0f %.0f %s %s %s', fencing, since, last, state, owner, request)
end

local function read(token)
  local pattern = '^(%d+) (%d+) (%d+) (%a+) (%S+) (.*)$'
  local fencing, since, last, state, owner, request = string.match(redis.call('HGET', records, token) or '', pattern)
  return tonumber(fencing), tonumber(since), tonumber(last), state, owner, request
end
"""

TAKE: Final = Script(
    _COMMON
    + """
-- ARGV: name, token, microseconds a hold lasts unless renewed, longest hold, slots, background (0, 1), microseconds the
-- call has waited, microseconds its place is kept, calls waiting there with it, owner, request id
-- returns: fencing token, or 0; microseconds until it may be free without news; who waits in line. Again with the same
-- token renews. Who has waited longest is next, interactive calls before background ones.
local name, token = ARGV[1], ARGV[2]
local ttl, longest, slots = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local kept, count, owner = tonumber(ARGV[8]), tonumber(ARGV[9]), ARGV[10]
forget()
redis.call('ZADD', names, whole(now), name)
redis.call('ZREMRANGEBYSCORE', names, '-inf', whole(now - day))
redis.call('HSET', about, 'slots', slots)
local fencing, since, last, state = read(token)
if fencing and state == 'ended' then return {0, 0, 0} end
local blind = unsure(ttl)
if not fencing then
  if not redis.call('ZSCORE', line, token) then
    redis.call('ZADD', line, whole(now - ARGV[7] + ARGV[6] * 4e15), token)
  end
  redis.call('ZADD', alive, whole(now + kept), token)
  if blind == 0 and redis.call('ZRANK', line, token) < slots - redis.call('ZCARD', holders) then
    fencing, since, last = math.max(tonumber(redis.call('HGET', about, 'fencing') or 0) + 1, now), now, now + longest
    redis.call('HSET', about, 'fencing', whole(fencing))
    redis.call('HSET', records, token, record(fencing, since, last, 'held', owner, ARGV[11]))
    redis.call('ZREM', line, token)
    redis.call('ZREM', alive, token)
    count = count - 1
  end
end
redis.call('HSET', lines, owner, whole(now + kept) .. ' ' .. count)
local soonest = blind > 0 and blind or kept
if fencing then
  redis.call('ZADD', holders, whole(math.min(now + ttl, last)), token)
else
  for _, key in ipairs({holders, alive}) do
    local first = redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')
    if blind == 0 and first[2] then soonest = math.min(soonest, tonumber(first[2]) - now) end
  end
end
keep()
return {fencing and whole(fencing) or 0, math.max(1, soonest), redis.call('ZCARD', line)}
"""
)

RENEW: Final = Script(
    _COMMON
    + """
-- ARGV: token, microseconds it lasts, slots, its fencing token, microseconds it is held, longest hold, owner, request
-- id. returns: microseconds it is held from now; 0: it is gone; -1: an operator wants it back. A store that has just
-- begun grants nothing, so a hold it has forgotten is still nobody else's and is told to it again.
local token, ttl = ARGV[1], tonumber(ARGV[2])
forget()
local fencing, since, last, state = read(token)
if not fencing then
  if unsure(ttl) == 0 or redis.call('ZCARD', holders) >= tonumber(ARGV[3]) then return 0 end
  since = now - ARGV[5]
  last, state = since + ARGV[6], 'held'
  if last <= now then return 0 end
  redis.call('HSET', records, token, record(tonumber(ARGV[4]), since, last, state, ARGV[7], ARGV[8]))
  redis.call('HSET', about, 'slots', ARGV[3])
  if tonumber(redis.call('HGET', about, 'fencing') or 0) < tonumber(ARGV[4]) then
    redis.call('HSET', about, 'fencing', ARGV[4])
  end
elseif fencing ~= tonumber(ARGV[4]) then
  return 0
end
if state == 'ended' then return -1 end
local till = math.min(now + ttl, last)
redis.call('ZADD', holders, whole(till), token)
keep()
return till - now
"""
)

FREE: Final = Script(
    _COMMON
    + """
-- ARGV: token, channel. Gives a hold back, or a place in the line; the owner alone knows the token.
redis.call('ZREM', alive, ARGV[1])
redis.call('HDEL', records, ARGV[1])
local freed = redis.call('ZREM', holders, ARGV[1]) + redis.call('ZREM', line, ARGV[1])
if freed > 0 then redis.call('PUBLISH', ARGV[2], 'freed') end
return freed
"""
)

_LOOK: Final = """
local found = {tonumber(redis.call('HGET', about, 'slots') or 0), 0, whole(now)}
local fields = redis.call('HGETALL', lines)
for at = 1, #fields, 2 do
  local till, count = string.match(fields[at + 1], '^(%d+) (%-?%d+)$')
  if tonumber(till) > now then
    found[2] = found[2] + math.max(0, count)
  else
    redis.call('HDEL', lines, fields[at])
  end
end
local held = redis.call('ZRANGE', holders, 0, -1, 'WITHSCORES')
for at = 1, #held, 2 do
  found[#found + 1] = redis.call('HGET', records, held[at])
  found[#found + 1] = held[at + 1] - now
end
return found
"""

LOOK: Final = Script(
    _COMMON
    + """
-- returns: slots (0: there is no such lease), calls waiting, the time, then record and microseconds left of every hold
forget()
"""
    + _LOOK
)

END: Final = Script(
    _COMMON
    + """
-- ARGV: channel. Has every holder end; their slots are free when they have, or at the end of what they hold at latest.
-- returns what LOOK does
forget()
for _, token in ipairs(redis.call('ZRANGE', holders, 0, -1)) do
  local fencing, since, last, state, owner, request = read(token)
  redis.call('HSET', records, token, record(fencing, since, last, 'ended', owner, request))
end
redis.call('PUBLISH', ARGV[1], 'ended')
"""
    + _LOOK
)

LIST: Final = Script(
    """
-- KEYS: names. returns: the names of all leases
return redis.call('ZRANGE', KEYS[1], 0, -1)
"""
)
