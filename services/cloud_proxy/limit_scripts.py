"""The rules of limits.py as scripts: one atomic step on the shared store, by the store's own clock.

KEYS, all in one hash slot: what the call holds; the counts of each scope; the leases of running calls of each scope
where their number is limited.
Of a scope's counts, `state` holds the totals, one field per slice what counts in it, `learned` what the provider told.
Numbers travel packed, as little-endian doubles, exact up to 2^53. Times are microseconds.
"""

from __future__ import annotations

from typing import Final

from services.cloud_proxy.limits import CONCURRENCY_WAIT_S, KEPT
from spillway.store.redis import Script

CONCURRENCY_WAIT_US: Final = round(CONCURRENCY_WAIT_S * 1e6)
LIMIT_HOLDS_US: Final = 600 * 10**6
"""A limit that the provider told holds so long, unless it tells it again."""

_COMMON: Final = (
    f"""
local KEPT, CONCURRENCY_WAIT, LIMIT_HOLDS, DAY = {KEPT}, {CONCURRENCY_WAIT_US}, {LIMIT_HOLDS_US}, 86400000000
"""
    + """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local day = math.floor(now / DAY)
local slice_us, lease_us, requests, input, output, nano_usd = struct.unpack('<dddddd', ARGV[1])
local slice = math.floor(now / slice_us)
local scope_count = string.len(ARGV[2]) / 48
local next_leases = 1 + scope_count

-- Amounts and limits of the window: requests, tokens, tokens of prompts, tokens of answers.
local function windowed(requests, input, output) return {requests, input + output, input, output} end

local function open_scope(at)
  local key, leases = KEYS[1 + at], false
  local found = redis.call('HMGET', key, 'state', slice, 'learned')
  local head, total, of_input, of_output, all, all_input, all_output = slice, 0, 0, 0, 0, 0, 0
  local of_day, usd, closed, now_requests, now_input, now_output = day, 0, 0, 0, 0, 0
  if found[1] then
    head, total, of_input, of_output, all, all_input, all_output, of_day, usd, closed =
      struct.unpack('<dddddddddd', found[1])
    if of_day ~= day then of_day, usd = day, 0 end
  end
  if found[2] then now_requests, now_input, now_output = struct.unpack('<ddd', found[2]) end
  local limits = {struct.unpack('<dddddd', ARGV[2], (at - 1) * 48 + 1)}
  if limits[5] >= 0 then
    next_leases = next_leases + 1
    leases = KEYS[next_leases]
  end
  -- made at once: a table that grows field by field costs more than all else here
  local s = {
    key = key, leases = leases, limits = limits, fresh = not found[2],
    dirty = false, counted = false, told = false, slices = false,
    learned = found[3] and {struct.unpack('<dddddddddddddddddddd', found[3])},
    head = head, requests = total, input = of_input, output = of_output,
    all_requests = all, all_input = all_input, all_output = all_output,
    day = of_day, usd = usd, closed = closed,
    now_requests = now_requests, now_input = now_input, now_output = now_output,
  }
  local first = slice - KEPT
  if head < first then
    local names, gone = {}, {}
    for old = head, math.min(first - 1, head + KEPT) do names[#names + 1] = old end
    for at, counted in ipairs(redis.call('HMGET', key, unpack(names))) do
      if counted then
        local requests, input, output = struct.unpack('<ddd', counted)
        s.requests, s.input, s.output = s.requests - requests, s.input - input, s.output - output
        gone[#gone + 1] = names[at]
      end
    end
    if #gone > 0 then redis.call('HDEL', key, unpack(gone)) end
    s.head, s.dirty = first, true
  end
  return s
end

local function packed(s)
  return struct.pack('<dddddddddd', s.head, s.requests, s.input, s.output, s.all_requests, s.all_input, s.all_output,
    s.day, s.usd, s.closed)
end

-- Set right what a slice counts that may not be the present one.
local function adjust(s, at, requests, input, output)
  if at == slice then
    s.now_requests, s.now_input, s.now_output = s.now_requests + requests, s.now_input + input, s.now_output + output
    s.counted = true
  else
    local before = redis.call('HGET', s.key, at)
    local a, b, c = 0, 0, 0
    if before then a, b, c = struct.unpack('<ddd', before) end
    redis.call('HSET', s.key, at, struct.pack('<ddd', a + requests, b + input, c + output))
    s.dirty = true
  end
end

local function keep(s)
  if s.counted then
    redis.call('HSET', s.key, 'state', packed(s), slice,
      struct.pack('<ddd', s.now_requests, s.now_input, s.now_output))
  elseif s.dirty then
    redis.call('HSET', s.key, 'state', packed(s))
  end
  if s.learned and s.told then
    redis.call('HSET', s.key, 'learned', struct.pack('<dddddddddddddddddddd', unpack(s.learned)))
  end
  if s.fresh or s.told then
    local lasts = 2 * KEPT * slice_us + lease_us
    if s.limits[6] >= 0 then lasts = math.max(lasts, (day + 1) * DAY - now) end
    if s.learned then
      for at = 0, 3 do lasts = math.max(lasts, s.learned[at * 5 + 2] - now, s.learned[at * 5 + 4] - now) end
    end
    lasts = math.max(lasts, s.closed - now)
    redis.call('PEXPIRE', s.key, math.ceil(lasts / 1000))
  end
end

local function count(s, requests, input, output)
  s.requests, s.input, s.output = s.requests + requests, s.input + input, s.output + output
  s.all_requests, s.all_input, s.all_output = s.all_requests + requests, s.all_input + input, s.all_output + output
  s.now_requests, s.now_input, s.now_output = s.now_requests + requests, s.now_input + input, s.now_output + output
  s.counted = true
end

local function lease(s, id)
  if s.limits[5] >= 0 then
    redis.call('ZADD', s.leases, now + lease_us, id)
    redis.call('PEXPIRE', s.leases, math.ceil(2 * lease_us / 1000))
  end
end

local function running(s)
  redis.call('ZREMRANGEBYSCORE', s.leases, '-inf', now)
  return redis.call('ZCARD', s.leases)
end

local function remember(...)
  redis.call('SET', KEYS[1], struct.pack('<dddddddddd', ...), 'PX', math.ceil(lease_us / 1000))
end

-- What counts, slice by slice, the oldest first.
local function slices_of(s)
  if s.slices then return s.slices end
  local names = {}
  for at = s.head, slice do names[#names + 1] = at end
  s.slices = {}
  for at, counted in ipairs(redis.call('HMGET', s.key, unpack(names))) do
    if counted then s.slices[#s.slices + 1] = {names[at], windowed(struct.unpack('<ddd', counted))} end
  end
  return s.slices
end

-- Until `need` of the limit `at` has left the window.
local function leaves_in(s, at, need)
  local freed = 0
  for _, one in ipairs(slices_of(s)) do
    freed = freed + one[2][at]
    if freed >= need then return (one[1] + KEPT + 1) * slice_us - now end
  end
  return (KEPT + 1) * slice_us
end

-- The limit of the window in force, and whether the provider told it.
local function limit_of(s, at)
  local limit, told = s.limits[at], false
  if s.learned then
    local learned, until_then = s.learned[at * 5 - 4], s.learned[at * 5 - 3]
    if learned >= 0 and until_then > now and (limit < 0 or learned < limit) then limit, told = learned, true end
  end
  return limit, told
end

-- What the provider leaves to calls after the one whose answer told it; and for how long that holds.
local function room_of(s, at)
  local ends = s.learned[at * 5 - 1]
  if ends > now then
    local all = windowed(s.all_requests, s.all_input, s.all_output)
    return math.max(0, s.learned[at * 5 - 2] - all[at]), ends - now
  end
end
"""
)

RESERVE: Final = Script(
    _COMMON
    + """
-- ARGV: slice, lease and amounts; limits of every scope, 6 each (-1: none); id; scope that learns (0: none)
-- returns: allowed, limit that holds (0: closed by the provider), microseconds to wait (-1: never fits), its scope
if redis.call('EXISTS', KEYS[1]) == 1 then return {1, 0, 0, 0} end
local scopes = {}
local hold, wait, whose = nil, 0, 0
local function short(limit, lasts, scope)
  if wait >= 0 and (not hold or lasts < 0 or lasts > wait) then hold, wait, whose = limit, lasts, scope end
end
local function fits(s, at, name, taken, amount)
  local limit = limit_of(s, name)
  if limit >= 0 and taken + amount > limit then
    short(name, amount > limit and -1 or leaves_in(s, name, taken + amount - limit), at)
  end
  if s.learned then
    local room, lasts = room_of(s, name)
    if room and amount > room then short(name, lasts, at) end
  end
end
for at = 1, scope_count do
  local s = open_scope(at)
  scopes[at] = s
  if s.closed > now then short(0, s.closed - now, at) end
  fits(s, at, 1, s.requests, requests)
  fits(s, at, 2, s.input + s.output, input + output)
  fits(s, at, 3, s.input, input)
  fits(s, at, 4, s.output, output)
  if s.limits[5] >= 0 and running(s) + 1 > s.limits[5] then short(5, CONCURRENCY_WAIT, at) end
  if s.limits[6] >= 0 and s.usd + nano_usd > s.limits[6] then
    short(6, nano_usd > s.limits[6] and -1 or (day + 1) * DAY - now, at)
  end
end
if hold then
  for _, s in ipairs(scopes) do keep(s) end
  return {0, hold, wait, whose}
end
for _, s in ipairs(scopes) do
  count(s, requests, input, output)
  if s.limits[6] >= 0 then s.usd = s.usd + nano_usd end
  lease(s, ARGV[3])
  keep(s)
end
local learner = scopes[tonumber(ARGV[4])] or scopes[1]
remember(slice, now, requests, input, output, nano_usd, day,
  learner.all_requests, learner.all_input, learner.all_output)
return {1, 0, 0, 0}
"""
)

CHANGE: Final = Script(
    _COMMON
    + """
-- ARGV: slice, lease and new amounts; limits of every scope; id; scope that learns (0: none); 1: the call has ended;
--       what it reserved (0 where the store did not reserve); what the provider told: name, remaining, limit (-1:
--       none), microseconds until its reset, for each; microseconds that it came to the provider late
-- What counts for an id is set, not added: the same however often it is done. What it takes more counts from now; what
-- it gives back is taken from where it counted, if that has not left.
local was = redis.call('GET', KEYS[1])
if was == 'ended' then return 0 end
local since, at_us, had, had_usd, had_day, seen = nil, nil, {0, 0, 0}, 0, day, nil
if was then
  local a, b, c, d, e, f, g, h, i, j = struct.unpack('<dddddddddd', was)
  since, at_us, had, had_usd, had_day, seen = a, b, {c, d, e}, f, g, windowed(h, i, j)
else
  had = {struct.unpack('<ddd', ARGV[6])}
  had_usd = struct.unpack('<d', ARGV[6], 25)
end
local wanted, more, less, gives = {requests, input, output}, {0, 0, 0}, {0, 0, 0}, false
for at = 1, 3 do
  local by = wanted[at] - had[at]
  if by > 0 then more[at] = by elseif by < 0 and was then less[at], gives = by, true end
end
local usd = nano_usd - had_usd
local since_then = since and math.min(slice, math.max(since, math.floor((at_us + tonumber(ARGV[8])) / slice_us)))
local takes = more[1] + more[2] + more[3] > 0
local learner = tonumber(ARGV[4])
for at = 1, scope_count do
  local s = open_scope(at)
  if takes then count(s, more[1], more[2], more[3]) end
  if since and since_then > since and since_then >= s.head then  -- it counts from when it came
    if since >= s.head then
      adjust(s, since, -had[1], -had[2], -had[3])
    else
      s.requests, s.input, s.output = s.requests + had[1], s.input + had[2], s.output + had[3]
    end
    adjust(s, since_then, had[1], had[2], had[3])
  end
  if gives and since_then >= s.head then
    s.requests, s.input, s.output = s.requests + less[1], s.input + less[2], s.output + less[3]
    adjust(s, since_then, less[1], less[2], less[3])
  end
  if s.limits[6] >= 0 and (usd > 0 or (was and had_day == day)) then s.usd, s.dirty = s.usd + usd, true end
  if ARGV[5] == '1' then
    if s.limits[5] >= 0 then redis.call('ZREM', s.leases, ARGV[3]) end
  else
    lease(s, ARGV[3])
    s.fresh = true
  end
  if at == learner and was and #ARGV[7] > 0 then
    s.told = true
    if not s.learned then
      s.learned = {}
      for place = 1, 20 do s.learned[place] = -1 end
    end
    for place = 1, #ARGV[7], 32 do
      local name, remaining, limit, resets = struct.unpack('<dddd', ARGV[7], place)
      local first = name * 5 - 4
      local ceiling, ends = seen[name] + remaining, now + resets
      if at_us >= s.learned[first + 4] then
        if limit >= 0 then s.learned[first], s.learned[first + 1] = limit, now + LIMIT_HOLDS end
        s.learned[first + 2], s.learned[first + 3], s.learned[first + 4] = ceiling, ends, at_us
      elseif s.learned[first + 3] > now then
        s.learned[first + 2] = math.min(s.learned[first + 2], ceiling)
      end
    end
  end
  keep(s)
end
if ARGV[5] == '1' then
  redis.call('SET', KEYS[1], 'ended', 'PX', math.ceil(lease_us / 1000))
else
  local all = seen and {seen[1], seen[3], seen[4]} or {0, 0, 0}
  remember(since_then or slice, at_us or 0, requests, input, output, nano_usd, had_day, all[1], all[2], all[3])
end
return 1
"""
)

CLOSE: Final = Script(
    _COMMON
    + """
-- ARGV: as ever; limits of the one scope; microseconds; why. The longest closing wins.
local s = open_scope(1)
local ends = now + tonumber(ARGV[3])
if ends > s.closed then
  s.closed, s.dirty, s.fresh = ends, true, true
  redis.call('HSET', s.key, 'why', ARGV[4])
  keep(s)
end
return 1
"""
)

LOOK: Final = Script(
    _COMMON
    + """
-- KEYS[1]: the proxies seen. ARGV: as ever; limits of every scope; this proxy's name
-- returns: proxies seen within the window; then of every scope: requests, tokens of prompts and of answers, running,
--          1e-9 USD, microseconds it is closed, why; and of every limit of the window: the limit in force (-1: none),
--          whether the provider told it, what it leaves (-1: it does not say), microseconds until something is free
redis.call('ZADD', KEYS[1], now, ARGV[3])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - KEPT * slice_us)
redis.call('PEXPIRE', KEYS[1], math.ceil(KEPT * slice_us / 1000))
local found = {redis.call('ZCARD', KEYS[1])}
for at = 1, scope_count do
  local s = open_scope(at)
  keep(s)
  local closed = math.max(0, s.closed - now)
  local why = closed > 0 and redis.call('HGET', s.key, 'why') or ''
  local one = {s.requests, s.input, s.output, s.limits[5] >= 0 and running(s) or 0, s.usd, closed, why}
  for name = 1, 4 do
    local limit, told = limit_of(s, name)
    local room, lasts
    if s.learned then room, lasts = room_of(s, name) end
    local free = -1
    if limit >= 0 then
      local taken = windowed(s.requests, s.input, s.output)[name]
      if taken > 0 then free = leaves_in(s, name, 1) end
      if room and room < limit - taken then free = lasts end
    end
    for _, value in ipairs({limit, told and 1 or 0, room or -1, free}) do one[#one + 1] = value end
  end
  found[#found + 1] = one
end
return found
"""
)
