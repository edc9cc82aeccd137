-- Carries out one change of the member table. The rules are those of `Table::apply`; a test compares the two.
--
-- KEYS: the table, a hash: version, newest, and four fields `<incarnation>/...` of each member.
-- ARGV: the change, whose it is, and what else it needs.
-- Answers whether the change was made, and the whole table after it.
-- Numbers have up to 64 bits, so they stay the text they came as.
local key, change, me = KEYS[1], ARGV[1], ARGV[2]

local function get(incarnation, field) return redis.call('HGET', key, incarnation .. '/' .. field) end

local function set(incarnation, field, value) redis.call('HSET', key, incarnation .. '/' .. field, value) end

local function less(a, b)
  if #a ~= #b then return #a < #b end
  return a < b
end

local function remove(incarnation)
  for _, field in ipairs({ 'counter', 'standing', 'name', 'address' }) do
    redis.call('HDEL', key, incarnation .. '/' .. field)
  end
  redis.call('HINCRBY', key, 'version', 1)
end

local function namesake(name)
  local all = redis.call('HGETALL', key)
  for i = 1, #all, 2 do
    local other = string.match(all[i], '^(%d+)/name$')
    if other and all[i + 1] == name then return other end
  end
end

-- counter, standing, name, address, who is replaced, the counter at which that one stood still
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
  redis.call('HSET', key, 'newest', me)
  redis.call('HINCRBY', key, 'version', 1)
  return 1
end

local function renew()
  local counter = get(me, 'counter')
  if not counter then return 0 end
  if less(counter, ARGV[3]) then set(me, 'counter', ARGV[3]) end
  return 1
end

local function declare()
  local counter = get(me, 'counter')
  if not counter then return 1 end
  if counter ~= ARGV[3] then return 0 end
  remove(me)
  return 1
end

local function leave()
  local standing = get(me, 'standing')
  if not standing then return 0 end
  if standing == 'up' then
    set(me, 'standing', 'leaving')
    redis.call('HINCRBY', key, 'version', 1)
  end
  return 1
end

local function go()
  if get(me, 'counter') then remove(me) end
  return 1
end

local changes = { join = join, renew = renew, declare = declare, leave = leave, go = go }
return { changes[change](), redis.call('HGETALL', key) }
