"""What routers tell each other of sick targets, as scripts: one atomic step each, by the store's own clock.

A hint is a field of one hash, named after its target: `until forget state text`, times in microseconds. All keys are in
one hash slot.
"""

from __future__ import annotations

from typing import Final

from spillway.store.redis import Script

HINTS: Final = "spillway:{breakers}:hints"
ROUTERS: Final = "spillway:{breakers}:routers"


def probes(target: str) -> str:
    """Key of the probes of `target` that are under way: lease ids by their end."""
    return f"spillway:{{breakers}}:probes:{target}"


_COMMON: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]

local function read(hint)
  local till, forget, state, text = string.match(hint or '', '^(%d+) (%d+) (%a+) (.*)$')
  return tonumber(till), tonumber(forget), state, text
end
"""

TELL: Final = Script(
    _COMMON
    + """
-- KEYS: hints. ARGV: target, state (open, closed, reset), microseconds it is open, microseconds it is kept after, text
-- Once more after a lost reply moves an open hint's end by as much as the reply was late.
local target, state = ARGV[1], ARGV[2]
if state == 'closed' and redis.call('HEXISTS', KEYS[1], target) == 0 then return 0 end
local till = now + tonumber(ARGV[3])
local forget = till + tonumber(ARGV[4])
redis.call('HSET', KEYS[1], target, string.format('%.0f %.0f %s %s', till, forget, state, ARGV[5]))
local ttl = math.ceil((forget - now) / 1000)
if ttl > redis.call('PTTL', KEYS[1]) then redis.call('PEXPIRE', KEYS[1], ttl) end
return 1
"""
)

LOOK: Final = Script(
    _COMMON
    + """
-- KEYS: hints, routers. ARGV: this router's name, microseconds after which one not seen again is gone
-- returns: routers seen, then target, id, state, microseconds left, text of every hint
local gone = tonumber(ARGV[2])
redis.call('ZADD', KEYS[2], string.format('%.0f', now), ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', string.format('%.0f', now - gone))
redis.call('PEXPIRE', KEYS[2], math.ceil(gone / 1000))
local found = {redis.call('ZCARD', KEYS[2])}
local all = redis.call('HGETALL', KEYS[1])
for at = 1, #all, 2 do
  local till, forget, state, text = read(all[at + 1])
  if forget <= now then
    redis.call('HDEL', KEYS[1], all[at])
  else
    for _, part in ipairs({all[at], string.format('%.0f', till), state, math.max(0, till - now), text}) do
      found[#found + 1] = part
    end
  end
end
return found
"""
)

LEASE: Final = Script(
    _COMMON
    + """
-- KEYS: probes of the target, hints. ARGV: lease id, target, probes at once, microseconds a lease lasts
-- returns 0 for a lease, else microseconds until one may be free. The same id is leased once. A hint says that the
-- last probe has failed, to a router that has not seen it yet.
local till, _, state = read(redis.call('HGET', KEYS[2], ARGV[2]))
if state == 'open' and till > now then return till - now end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now))
if not redis.call('ZSCORE', KEYS[1], ARGV[1]) and redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[3]) then
  return math.max(1, tonumber(redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')[2]) - now)
end
redis.call('ZADD', KEYS[1], string.format('%.0f', now + tonumber(ARGV[4])), ARGV[1])
redis.call('PEXPIRE', KEYS[1], math.ceil(tonumber(ARGV[4]) / 1000))
return 0
"""
)

RELEASE: Final = Script("return redis.call('ZREM', KEYS[1], ARGV[1]) -- KEYS: probes of the target. ARGV: lease id")
