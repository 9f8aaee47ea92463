-- Takes, looks and returns of many requests at once, each atomic, all at one moment of this server's clock. When that is
-- set back, time goes on from where it was: else what was taken before would count until the clock is there again.
--
-- ARGV[1]  JSON: a list of operations
--            {"op": "take" | "look", "id": text, "least": n, "tokens": n, "scopes": [{name, requests, tokens, places, strict}]}
--            {"op": "back", "id": text, "used": n, "taken": n, "scopes": [...]}
--            {"op": "note", "id": text, "scopes": [...]}              was taken elsewhere: requests and tokens of each
--                                                                     scope are in its "taken", a pair
--            {"op": "keep", "ids": [[scope name, id], ...]}           calls that still run: these have their places
--            {"op": "free", "ids": [[scope name, id], ...]}           calls that do not run any more
-- ARGV[2]  the prefix of all keys   ARGV[3]  the name of this node
-- Returns  the number of nodes that called within a minute, and an answer for each take and look:
--            {0, requests limit, remaining, reset, tokens limit, remaining, reset}                     taken
--            {1 requests | 2 tokens | 3 tokens, hopeless | 4 concurrency, the same six, limit, wait}   refused
--          limits of -1 are none; times are microseconds.
--
-- A strict limit is a sorted set of what was taken in the last minute ("id:amount" by time) and its sum; any other is
-- the time when its bucket is full again. Places are a sorted set of ids by the time when they expire.

local MINUTE, PLACE_TTL, FULL_RETRY = 60000000, 90000000, 1000000
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local prefix = ARGV[2]

local function number(key)
  return tonumber(redis.call('GET', key) or '0')
end

local function text(value)
  return string.format('%.0f', value)
end

local function amount_of(member)
  return tonumber(string.match(member, ':(%-?%d+)$'))
end

local function set(key, value, ttl)
  redis.call('SET', key, text(value), 'PX', math.max(1, math.ceil(ttl / 1000)))
end

-- What a counter is: its key, its limit, whether it is strict.

local function add_to_sum(counter, known, amount)
  -- Both keys go together, and only when nothing is left in either: a sum without its log would never shrink again.
  set(counter.key .. ':sum', known + amount, MINUTE + 1000000)
  redis.call('PEXPIRE', counter.key .. ':log', (MINUTE + 1000000) / 1000)
end

local function sum_of(members)
  local sum = 0
  for _, member in ipairs(members) do
    sum = sum + amount_of(member)
  end
  return sum
end

local function used(counter)
  local log = counter.key .. ':log'
  local old = redis.call('ZRANGEBYSCORE', log, '-inf', text(now - MINUTE))
  if #old > 0 then
    redis.call('ZREMRANGEBYSCORE', log, '-inf', text(now - MINUTE))
  end
  if redis.call('EXISTS', log) == 0 then
    return 0
  end
  local sum = redis.call('GET', counter.key .. ':sum')
  if not sum then
    return sum_of(redis.call('ZRANGE', log, 0, -1))
  end
  sum = tonumber(sum)
  if #old > 0 then
    local gone = sum_of(old)
    add_to_sum(counter, sum, -gone)
    return sum - gone
  end
  return sum
end

local function wait(counter, amount)
  if not counter.strict then
    local full_at = math.max(number(counter.key), now)
    return math.max(0, full_at + amount * MINUTE / counter.limit - now - MINUTE - 1)
  end
  local over = used(counter) + amount - counter.limit
  local log, first = counter.key .. ':log', 0
  while over > 0 do
    local entries = redis.call('ZRANGE', log, first, first + 99, 'WITHSCORES')
    if #entries == 0 then
      return MINUTE
    end
    for index = 1, #entries, 2 do
      over = over - amount_of(entries[index])
      if over <= 0 then
        return math.max(1, tonumber(entries[index + 1]) + MINUTE - now)
      end
    end
    first = first + 100
  end
  return 0
end

local function take(counter, id, amount)
  if counter.strict then
    local before = used(counter)
    redis.call('ZADD', counter.key .. ':log', text(now), id .. ':' .. text(amount))
    add_to_sum(counter, before, amount)
  else
    local full_at = math.max(number(counter.key), now) + amount * MINUTE / counter.limit
    set(counter.key, full_at, full_at - now)
  end
end

local function correct(counter, id, taken, difference)
  if difference == 0 then
    return
  end
  if not counter.strict then
    local full_at = math.max(number(counter.key), now) + difference * MINUTE / counter.limit
    if full_at > now then
      set(counter.key, full_at, full_at - now)
    else
      redis.call('DEL', counter.key)
    end
    return
  end
  local log, member = counter.key .. ':log', id .. ':' .. text(taken)
  local when = redis.call('ZSCORE', log, member)
  if when and tonumber(when) > now - MINUTE then
    local before = used(counter)
    redis.call('ZREM', log, member)
    redis.call('ZADD', log, when, id .. ':' .. text(taken + difference))
    add_to_sum(counter, before, difference)
  end
end

local function room(counter)
  if not counter.strict then
    local empty = math.max(0, number(counter.key) - now)
    return { counter.limit, math.max(0, math.floor((MINUTE - empty) * counter.limit / MINUTE + 0.000001)), empty }
  end
  local last = redis.call('ZRANGE', counter.key .. ':log', -1, -1, 'WITHSCORES')
  local reset = #last > 0 and math.max(0, tonumber(last[2]) + MINUTE - now) or 0
  return { counter.limit, math.max(0, counter.limit - used(counter)), reset }
end

local function counter_of(scope, kind)
  local limit = scope[kind]
  if type(limit) ~= 'number' then
    return nil
  end
  return { key = prefix .. scope.name .. ':' .. kind, limit = limit, strict = scope.strict }
end

local function tightest(scopes, kind)
  local found = { -1, -1, -1 }
  for _, scope in ipairs(scopes) do
    local counter = counter_of(scope, kind)
    if counter then
      local here = room(counter)
      if found[1] < 0 or here[2] < found[2] then
        found = here
      end
    end
  end
  return found
end

local function answer(verdict, scopes, limit, wait_us)
  local requests, tokens = tightest(scopes, 'requests'), tightest(scopes, 'tokens')
  return {
    verdict, requests[1], requests[2], math.ceil(requests[3]), tokens[1], tokens[2], math.ceil(tokens[3]),
    limit or 0, math.ceil(wait_us or 0),
  }
end

-- By the limit that is in the way longest, so that who waits as long as it says is refused by no other.
local function refusal(op)
  local longest, verdict, limit = 0, 0, 0
  local function weigh(wait_us, as, of)
    if wait_us > longest then
      longest, verdict, limit = wait_us, as, of
    end
  end
  for _, scope in ipairs(op.scopes) do
    local tokens, requests = counter_of(scope, 'tokens'), counter_of(scope, 'requests')
    if tokens then
      if op.least > tokens.limit then
        return answer(3, op.scopes, tokens.limit, MINUTE)
      end
      weigh(wait(tokens, math.min(op.tokens, tokens.limit)), 2, tokens.limit)
    end
    if requests then
      weigh(wait(requests, 1), 1, requests.limit)
    end
    if type(scope.places) == 'number' then
      local places = prefix .. scope.name .. ':places'
      redis.call('ZREMRANGEBYSCORE', places, '-inf', text(now))
      if redis.call('ZCARD', places) >= scope.places then
        weigh(FULL_RETRY, 4, scope.places)
      end
    end
  end
  return longest > 0 and answer(verdict, op.scopes, limit, longest) or nil
end

local function place(scope_name, id)
  local places = prefix .. scope_name .. ':places'
  redis.call('ZADD', places, text(now + PLACE_TTL), id)
  redis.call('PEXPIRE', places, PLACE_TTL / 1000)
end

local function take_all(op)
  for _, scope in ipairs(op.scopes) do
    local requests, tokens = counter_of(scope, 'requests'), counter_of(scope, 'tokens')
    if requests then
      take(requests, op.id, 1)
    end
    if tokens then
      take(tokens, op.id, math.min(op.tokens, tokens.limit))
    end
    if type(scope.places) == 'number' then
      place(scope.name, op.id)
    end
  end
end

local function give_back(op)
  for _, scope in ipairs(op.scopes) do
    local tokens = counter_of(scope, 'tokens')
    if tokens then
      local taken = math.min(op.taken, tokens.limit)
      correct(tokens, op.id, taken, op.used - taken)
    end
    redis.call('ZREM', prefix .. scope.name .. ':places', op.id)
  end
end

local function note(op)
  for _, scope in ipairs(op.scopes) do
    for index, kind in ipairs({ 'requests', 'tokens' }) do
      local counter, amount = counter_of(scope, kind), scope.taken[index]
      if counter and amount > 0 then
        take(counter, op.id, amount)
      end
    end
  end
end

local function keep(op)
  for _, pair in ipairs(op.ids) do
    place(pair[1], pair[2])
  end
end

local function free(op)
  for _, pair in ipairs(op.ids) do
    redis.call('ZREM', prefix .. pair[1] .. ':places', pair[2])
  end
end

local silent = { back = give_back, note = note, keep = keep, free = free }

local ahead = number(prefix .. 'ahead')
local latest = redis.call('ZRANGE', prefix .. 'nodes', -1, -1, 'WITHSCORES')
now = now + ahead
if #latest > 0 and tonumber(latest[2]) > now then
  ahead, now = ahead + tonumber(latest[2]) - now, tonumber(latest[2])
  redis.call('SET', prefix .. 'ahead', text(ahead))
end

redis.call('ZADD', prefix .. 'nodes', text(now), ARGV[3])
redis.call('ZREMRANGEBYSCORE', prefix .. 'nodes', '-inf', text(now - MINUTE))
local answers = { redis.call('ZCARD', prefix .. 'nodes') }
for _, op in ipairs(cjson.decode(ARGV[1])) do
  if silent[op.op] then
    silent[op.op](op)
  else
    local refused = refusal(op)
    if not refused and op.op == 'take' then
      take_all(op)
    end
    answers[#answers + 1] = refused or answer(0, op.scopes)
  end
end
return answers
