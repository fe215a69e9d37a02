"""The rules of limits.py as scripts: one atomic step on the shared store, by the store's own clock.

KEYS of every script, all in one hash slot: the log (reservation ids by time), what each holds, the totals, the
provider's closed sign, the proxies seen. Times are microseconds. Amounts are requests, tokens.
"""

from __future__ import annotations

from typing import Final

from spillway.store.redis import Script

_COMMON: Final = """
local log, held, totals, closed, proxies = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local window = tonumber(ARGV[1])

local function add(id, amounts, sign)
  for i, amount in ipairs(amounts) do
    if amount ~= 0 then redis.call('HINCRBY', totals, i, sign * amount) end
  end
end

local function amounts_of(text)
  local found = {}
  for number in string.gmatch(text or '', '[^,]+') do found[#found + 1] = tonumber(number) end
  return found
end

local function enter(id, amounts)
  redis.call('ZADD', log, string.format('%.0f', now), id)
  redis.call('HSET', held, id, table.concat(amounts, ','))
  add(id, amounts, 1)
  local ttl = math.ceil(window / 1000) + 1000
  redis.call('PEXPIRE', log, ttl)
  redis.call('PEXPIRE', held, ttl)
  redis.call('PEXPIRE', totals, ttl)
end

local function forget()
  local past = string.format('%.0f', now - window)
  local gone = redis.call('ZRANGEBYSCORE', log, '-inf', past)
  for _, id in ipairs(gone) do
    add(id, amounts_of(redis.call('HGET', held, id)), -1)
    redis.call('HDEL', held, id)
  end
  if #gone > 0 then redis.call('ZREMRANGEBYSCORE', log, '-inf', past) end
end

local function total(i)
  return tonumber(redis.call('HGET', totals, i) or 0)
end
"""

RESERVE: Final = Script(
    _COMMON
    + """
-- ARGV: window, id, limits (-1: none) of requests and tokens, amounts of requests and tokens
-- returns: allowed, index of the limit that holds (0: closed by the provider), microseconds to wait (-1: never fits),
--          proxies seen
forget()
local id = ARGV[2]
local limits = {tonumber(ARGV[3]), tonumber(ARGV[4])}
local amounts = {tonumber(ARGV[5]), tonumber(ARGV[6])}
local seen = redis.call('ZCARD', proxies)
if redis.call('HEXISTS', held, id) == 1 then return {1, 0, 0, seen} end
local shut = redis.call('PTTL', closed)
if shut > 0 then return {0, 0, shut * 1000, seen} end

local left, short = {}, 0
for i, limit in ipairs(limits) do
  left[i] = total(i)
  if limit >= 0 and left[i] + amounts[i] > limit then
    if amounts[i] > limit then return {0, i, -1, seen} end
    if short == 0 then short = i end
  end
end
if short == 0 then
  enter(id, amounts)
  return {1, 0, 0, seen}
end

-- the wait is until enough of the oldest has left
local from, step = 0, 100
while true do
  local oldest = redis.call('ZRANGE', log, from, from + step - 1, 'WITHSCORES')
  if #oldest == 0 then return {0, short, window, seen} end
  for at = 1, #oldest, 2 do
    local freed, fits = amounts_of(redis.call('HGET', held, oldest[at])), true
    for i, limit in ipairs(limits) do
      left[i] = left[i] - (freed[i] or 0)
      if limit >= 0 and left[i] + amounts[i] > limit then fits = false end
    end
    if fits then return {0, short, tonumber(oldest[at + 1]) + window - now, seen} end
  end
  from = from + step
end
"""
)

SETTLE: Final = Script(
    _COMMON
    + """
-- ARGV: window, id, used requests and tokens, reserved requests and tokens (0 where the store did not reserve)
-- Setting what an id holds is the same however often it is done. One that has left the window has nothing to give
-- back; what it used beyond its reservation counts from now.
forget()
local id = ARGV[2]
local used = {tonumber(ARGV[3]), tonumber(ARGV[4])}
local before = redis.call('HGET', held, id)
if before then
  add(id, amounts_of(before), -1)
  add(id, used, 1)
  redis.call('HSET', held, id, table.concat(used, ','))
  return 1
end
local late = id .. ':late'
local excess = {math.max(0, used[1] - tonumber(ARGV[5])), math.max(0, used[2] - tonumber(ARGV[6]))}
if excess[1] + excess[2] > 0 and redis.call('HEXISTS', held, late) == 0 then enter(late, excess) end
return 0
"""
)

CLOSE: Final = Script(
    _COMMON
    + """
-- ARGV: window, milliseconds; the longest closing wins
if tonumber(ARGV[2]) > redis.call('PTTL', closed) then redis.call('SET', closed, 1, 'PX', ARGV[2]) end
return 1
"""
)

LOOK: Final = Script(
    _COMMON
    + """
-- ARGV: window, this proxy's name; returns: totals of requests and tokens, proxies seen within the window
forget()
redis.call('ZADD', proxies, string.format('%.0f', now), ARGV[2])
redis.call('ZREMRANGEBYSCORE', proxies, '-inf', string.format('%.0f', now - window))
redis.call('PEXPIRE', proxies, math.ceil(window / 1000) + 1000)
return {total(1), total(2), redis.call('ZCARD', proxies)}
"""
)


def keys(provider: str) -> list[str]:
    """Return KEYS for `provider`."""
    return [f"spillway:limits:{{{provider}}}:{name}" for name in ("log", "held", "totals", "closed", "proxies")]
