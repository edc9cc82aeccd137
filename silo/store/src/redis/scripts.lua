-- Runs scripts on slots, in order, each by itself with its own verdict: D done, F fenced, B behind, O outdated.
-- The rules are those of slots.rs; a test compares the two. What is not done has written nothing.
--
-- KEYS: for each script the slot's row and its outbox; a commit adds the hashes of its cells.
-- ARGV: for each script its kind, how many keys and arguments follow, the arguments; at the end the server's run as
-- this connection knows it.
--
-- Numbers have up to 64 bits, so they stay the text they came as: Lua's own numbers end at 53 bits.
-- The row is written last: a call that Redis ends half-way has not moved the slot's number.
local OWNER, EPOCH, N, ID, RUN, EVERYONE, IDS, TRIES = 1, 2, 3, 4, 5, 6, 7, 8
local NEW = { '0', '0', '0', '', '0', '0', '', '0' }
local COUNT_MAX = 4294967295
local CHUNK = 6000 -- arguments of one command: Lua unpacks fewer than 8,000
local run = ARGV[#ARGV]

-- Decimal numbers without leading zeros.
local function less(a, b)
  if #a ~= #b then return #a < #b end
  return a < b
end

local function read(key)
  local row = redis.call('HMGET', key, 'owner', 'epoch', 'n', 'id', 'run', 'everyone', 'ids', 'tries')
  for i = 1, 8 do row[i] = row[i] or NEW[i] end
  return row
end

-- The listed ids that `keep` says yes to.
local function retain(ids, keep)
  local kept = {}
  for id in string.gmatch(ids, '%S+') do
    if keep(id) then kept[#kept + 1] = id end
  end
  return table.concat(kept, ' ')
end

local function whole(key)
  return { 'D', redis.call('HGETALL', key) }
end

-- The position noted last, the silo that noted it, how many did.
local function noted(key)
  local at, by, times = string.match(redis.call('HGET', key, 'noted') or '', '^(%S+) (%S+) (%S+)$')
  return at, by, tonumber(times)
end

-- me, expected owner, expected epoch, epoch, known run, transactional id, generation, revision
local function acquire(k, a)
  local key, me, epoch, id = KEYS[k], ARGV[a], ARGV[a + 3], ARGV[a + 5]
  local row = read(key)
  if ARGV[a + 4] ~= run then return 'F' end
  local others = retain(row[IDS], function(other) return other ~= id end)
  local is_listed = #others ~= #row[IDS]
  -- a row without its id was given to it: that is no acquire of its own, come before
  if row[OWNER] == me and row[EPOCH] == epoch and is_listed then return whole(key) end
  if row[OWNER] ~= ARGV[a + 1] or row[EPOCH] ~= ARGV[a + 2] or not less(row[EPOCH], epoch) then return 'F' end
  if less(ARGV[a + 6], redis.call('HGET', key, 'generation') or '0') then return 'O' end
  local everyone = row[EVERYONE]
  if row[RUN] ~= run and row[EPOCH] ~= '0' then everyone = '1' end
  local ids = row[IDS]
  if not is_listed then ids = ids == '' and id or ids .. ' ' .. id end
  -- only who takes it from another has seen a process end
  local taken = row[OWNER] == me and 0 or 1
  local tries = string.format('%.0f', math.min(tonumber(row[TRIES]) + taken, COUNT_MAX))
  redis.call('HSET', key, 'owner', me, 'epoch', epoch, 'run', run, 'everyone', everyone, 'ids', ids, 'tries', tries,
    'generation', ARGV[a + 6], 'revision', ARGV[a + 7])
  -- who acquires again what it had has not ended: it takes back what it noted
  local at, by, times = noted(key)
  if by == me then
    times = string.format('%.0f', times - 1)
    redis.call('HSET', key, 'noted', times ~= '0' and at .. ' 0 ' .. times or '')
  end
  return whole(key)
end

local function trim(out, covered)
  local first = redis.call('LINDEX', out, 0)
  while first and not less(covered, first) do
    redis.call('LPOP', out, 2)
    first = redis.call('LINDEX', out, 0)
  end
end

local function each(command, key, from, count)
  for i = from, from + count - 1, CHUNK do
    redis.call(command, key, unpack(ARGV, i, math.min(i + CHUNK, from + count) - 1))
  end
end

-- me, epoch, n - 1, n, commit id, positions, trim, outbox or nothing; then for each hash of cells how many arguments
-- write and how many delete, and these
local function commit(k, keys, a)
  local key, me, epoch, n, id = KEYS[k], ARGV[a], ARGV[a + 1], ARGV[a + 3], ARGV[a + 4]
  local row = read(key)
  if row[OWNER] ~= me or row[EPOCH] ~= epoch or row[RUN] ~= run then return 'F' end
  if row[N] == n and row[ID] == id then return 'D' end
  if row[N] ~= ARGV[a + 2] then return 'B' end
  local at = a + 8
  for cells = k + 2, k + keys - 1 do
    local puts, deletes = tonumber(ARGV[at]), tonumber(ARGV[at + 1])
    each('HSET', KEYS[cells], at + 2, puts)
    each('HDEL', KEYS[cells], at + 2 + puts, deletes)
    at = at + 2 + puts + deletes
  end
  local out, entries = KEYS[k + 1], ARGV[a + 7]
  trim(out, ARGV[a + 6])
  if entries ~= '' then redis.call('RPUSH', out, n, entries) end
  local mine = me .. '.'
  local ids = retain(row[IDS], function(other) return string.sub(other, 1, #mine) == mine end)
  redis.call('HSET', key, 'n', n, 'id', id, 'positions', ARGV[a + 5], 'everyone', '0', 'ids', ids,
    'tries', '0', 'noted', '')
  return 'D'
end

-- The row, if it belongs to the writer: me, epoch, known run.
local function owned(k, a)
  local row = read(KEYS[k])
  local is_mine = row[OWNER] == ARGV[a] and row[EPOCH] == ARGV[a + 1] and ARGV[a + 2] == run and row[RUN] == run
  return is_mine and row
end

-- me, epoch, known run, position
local function note(k, a)
  if not owned(k, a) then return 'F' end
  local me, at, times = ARGV[a], ARGV[a + 3], 0
  local known_at, known_by, known_times = noted(KEYS[k])
  if known_at == at then times = known_times end
  if known_at ~= at or known_by ~= me then times = math.min(times + 1, COUNT_MAX) end
  redis.call('HSET', KEYS[k], 'noted', at .. ' ' .. me .. ' ' .. string.format('%.0f', times))
  return 'D'
end

local function cover(k, a)
  if not owned(k, a) then return 'F' end
  trim(KEYS[k + 1], ARGV[a + 3])
  return 'D'
end

local function rebase(k, a)
  local row, n = owned(k, a), ARGV[a + 3]
  if not row then return 'F' end
  if less(n, row[N]) then n = row[N] end
  redis.call('HSET', KEYS[k], 'n', n, 'id', '')
  return 'D'
end

-- me, epoch, known run, covered, successor, transactional id. Outputs that nobody published stay with their owner.
local function give(k, a)
  local row, covered, id = owned(k, a), ARGV[a + 3], ARGV[a + 5]
  if not row then return 'F' end
  local last = redis.call('LINDEX', KEYS[k + 1], -2)
  if last and less(covered, last) then return 'F' end
  trim(KEYS[k + 1], covered)
  local ids = retain(row[IDS], function(other) return other ~= id end)
  redis.call('HSET', KEYS[k], 'owner', ARGV[a + 4], 'ids', ids, 'noted', '') -- nobody ended
  return 'D'
end

local RUN_SCRIPT = {
  acquire = function(k, _, a) return acquire(k, a) end,
  commit = commit,
  note = function(k, _, a) return note(k, a) end,
  trim = function(k, _, a) return cover(k, a) end,
  rebase = function(k, _, a) return rebase(k, a) end,
  give = function(k, _, a) return give(k, a) end,
}

local verdicts, k, a = {}, 1, 1
while a < #ARGV do
  local kind, keys, count = ARGV[a], tonumber(ARGV[a + 1]), tonumber(ARGV[a + 2])
  verdicts[#verdicts + 1] = RUN_SCRIPT[kind](k, keys, a + 3)
  k, a = k + keys, a + 3 + count
end
return verdicts
