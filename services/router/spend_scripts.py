"""What tenants have spent, as scripts: one atomic step each, by the store's own clock.

KEYS of every script, all in one hash slot: the totals of a tenant, its holds by the time they end, what each holds.
Amounts are 1e-9 USD, times microseconds. Every script returns whether it did what it was asked, what is spent this day
and this month, what is held, and how long the day and the month still last.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import quote

from spillway.store.redis import Script

CALENDAR: Final = """
-- Days since 1970 <-> months since March of the year 0 (Hinnant, chrono-compatible low-level date algorithms).
local function month_of(day)
  local z = day + 719468
  local era = math.floor(z / 146097)
  local doe = z - era * 146097
  local yoe = doe - math.floor(doe / 1460) + math.floor(doe / 36524) - math.floor(doe / 146096)
  yoe = math.floor(yoe / 365)
  local doy = doe - (365 * yoe + math.floor(yoe / 4) - math.floor(yoe / 100))
  return (yoe + era * 400) * 12 + math.floor((5 * doy + 2) / 153)
end

local function first_of(month)
  local year = math.floor(month / 12)
  local days = 365 * year + math.floor(year / 4) - math.floor(year / 100) + math.floor(year / 400)
  return days + math.floor((153 * (month % 12) + 2) / 5) - 719468
end
"""

_COMMON: Final = (
    CALENDAR
    + """
local totals, holds, amounts = KEYS[1], KEYS[2], KEYS[3]
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local DAY = 86400 * 1000000
local day = math.floor(time[1] / 86400)
local month = month_of(day)
local day_left = (day + 1) * DAY - now
local month_left = first_of(month + 1) * DAY - now

local function whole(number) return string.format('%.0f', number) end
local function total(name) return tonumber(redis.call('HGET', totals, name) or 0) end
local function add(name, amount)
  if tonumber(amount) ~= 0 then redis.call('HINCRBY', totals, name, whole(amount)) end
end

-- What an id holds; nothing once it is settled.
local function held(id) return tonumber(redis.call('HGET', amounts, id)) or 0 end

local function enter(id, amount, lasts)
  redis.call('HSET', amounts, id, amount)
  redis.call('ZADD', holds, whole(now + lasts), id)
end

local function answer(done)
  for _, key in ipairs(KEYS) do redis.call('PEXPIRE', key, whole(math.ceil((month_left + DAY) / 1000))) end
  return {done, total('day_spent'), total('month_spent'), total('held'), day_left, month_left}
end

if total('day') ~= day then redis.call('HSET', totals, 'day', day, 'day_spent', 0) end
if total('month') ~= month then redis.call('HSET', totals, 'month', month, 'month_spent', 0) end
local past = redis.call('ZRANGEBYSCORE', holds, '-inf', whole(now))
for _, id in ipairs(past) do
  add('held', -held(id))
  redis.call('HDEL', amounts, id)
end
if #past > 0 then redis.call('ZREMRANGEBYSCORE', holds, '-inf', whole(now)) end
"""
)

RESERVE: Final = Script(
    _COMMON
    + """
-- ARGV: id, amount, caps of day and month (-1: none), microseconds a hold lasts. The same id is held once.
if redis.call('HEXISTS', amounts, ARGV[1]) == 1 then return answer(1) end
local amount = tonumber(ARGV[2])
local before = total('held') + math.max(1, amount)
for at, name in ipairs({'day_spent', 'month_spent'}) do
  local cap = tonumber(ARGV[2 + at])
  if cap >= 0 and total(name) + before > cap then return answer(0) end
end
enter(ARGV[1], ARGV[2], tonumber(ARGV[5]))
add('held', amount)
return answer(1)
"""
)

SETTLE: Final = Script(
    _COMMON
    + """
-- ARGV: id, cost, microseconds it is remembered that the id is settled. One that has ended by itself is charged too.
if redis.call('HGET', amounts, ARGV[1]) == 'settled' then return answer(1) end
add('held', -held(ARGV[1]))
add('day_spent', ARGV[2])
add('month_spent', ARGV[2])
enter(ARGV[1], 'settled', tonumber(ARGV[3]))
return answer(1)
"""
)

LOOK: Final = Script(_COMMON + "return answer(1)")


def keys(tenant: str) -> list[str]:
    """Return KEYS for `tenant`."""
    return [f"spillway:spend:{{{quote(tenant, safe='')}}}:{name}" for name in ("totals", "holds", "amounts")]
