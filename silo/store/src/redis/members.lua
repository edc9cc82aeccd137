-- Carries out one change of the member table. The rules are those of `Table::apply`; a test compares the two.
--
-- KEYS: the table, a hash: version, newest, seven fields `<incarnation>/...` of each member, and `move/<slot>`.
-- ARGV: the change, whose it is, and what else it needs.
-- Answers whether the change was made, and the whole table after it.
-- Numbers have up to 64 bits, so they stay the text they came as.
local FIELDS = { 'counter', 'standing', 'name', 'address', 'generation', 'log', 'load' }
local key, change, me = KEYS[1], ARGV[1], ARGV[2]

local function get(incarnation, field) return redis.call('HGET', key, incarnation .. '/' .. field) end

local function set(incarnation, field, value) redis.call('HSET', key, incarnation .. '/' .. field, value) end

local function less(a, b)
  if #a ~= #b then return #a < #b end
  return a < b
end

local function raise() redis.call('HINCRBY', key, 'version', 1) end

local function remove(incarnation)
  for _, field in ipairs(FIELDS) do
    redis.call('HDEL', key, incarnation .. '/' .. field)
  end
  raise()
end

local function namesake(name)
  local all = redis.call('HGETALL', key)
  for i = 1, #all, 2 do
    local other = string.match(all[i], '^(%d+)/name$')
    if other and all[i + 1] == name then return other end
  end
end

local function report(log, load)
  set(me, 'log', log)
  set(me, 'load', load)
end

-- counter, standing, name, address, who is replaced, the counter at which that one stood still, generation, log, load
local function join()
  if get(me, 'counter') then return 1 end
  if not less(redis.call('HGET', key, 'newest') or '0', me) then return 0 end
  local other = namesake(ARGV[5])
  if other then
    local stood_still = other == ARGV[7] and get(other, 'counter') == ARGV[8]
    if not stood_still and get(other, 'address') ~= ARGV[6] then return 0 end
    remove(other)
  end
  for i, field in ipairs({ 'counter', 'standing', 'name', 'address' }) do set(me, field, ARGV[i + 2]) end
  set(me, 'generation', ARGV[9])
  report(ARGV[10], ARGV[11])
  redis.call('HSET', key, 'newest', me)
  raise()
  return 1
end

-- counter, log, load, the least version
local function renew()
  local counter = get(me, 'counter')
  if not counter then return 0 end
  if less(redis.call('HGET', key, 'version') or '0', ARGV[6]) then redis.call('HSET', key, 'version', ARGV[6]) end
  if less(counter, ARGV[3]) then
    set(me, 'counter', ARGV[3])
    report(ARGV[4], ARGV[5])
  end
  return 1
end

local function declare()
  local counter = get(me, 'counter')
  if not counter then return 1 end
  if counter ~= ARGV[3] then return 0 end
  remove(me)
  return 1
end

local function another_reaches_log()
  local all = redis.call('HGETALL', key)
  for i = 1, #all, 2 do
    local other = string.match(all[i], '^(%d+)/log$')
    if other and other ~= me and all[i + 1] == 'reaches' and get(other, 'standing') == 'up' then return true end
  end
  return false
end

local function stand(standing)
  local before = get(me, 'standing')
  if not before or before == 'leaving' or get(me, 'counter') ~= ARGV[3] then return 0 end
  if before == standing then return 1 end
  if standing == 'unfit' and not another_reaches_log() then return 0 end
  set(me, 'standing', standing)
  raise()
  return 1
end

local function unfit() return stand('unfit') end

local function fit() return stand('up') end

-- The slot, the silo's name or nothing, how many slots may be placed.
local function move()
  local field, name, most = 'move/' .. ARGV[2], ARGV[3], tonumber(ARGV[4])
  if name == '' then
    if redis.call('HDEL', key, field) == 1 then raise() end
    return 1
  end
  local before, count = redis.call('HGET', key, field), 0
  for _, other in ipairs(redis.call('HKEYS', key)) do
    if string.sub(other, 1, 5) == 'move/' then count = count + 1 end
  end
  if not before and count >= most or not namesake(name) then return 0 end
  if before ~= name then
    redis.call('HSET', key, field, name)
    raise()
  end
  return 1
end

local function leave()
  local standing = get(me, 'standing')
  if not standing then return 0 end
  if standing ~= 'leaving' then
    set(me, 'standing', 'leaving')
    raise()
  end
  return 1
end

local function go()
  if get(me, 'counter') then remove(me) end
  return 1
end

local changes = {
  join = join, renew = renew, declare = declare, unfit = unfit, fit = fit, move = move, leave = leave, go = go,
}
return { changes[change](), redis.call('HGETALL', key) }
