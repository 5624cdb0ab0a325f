-- Adds an event to a job's stream and publishes it; returns its number.
--
-- KEYS 1  the stream, and the name of the channel
-- ARGV 1  the floor: the number is above it
--      2  the event
--      3  the caller's mark on it, unlike any other
--      4  how many events are kept
--      5  for how long, in milliseconds
--      6  1: nothing can have come before this event
--      7  when the job was made, in milliseconds since 1970
--      8  among how many newest events to look for the mark: more than 1 when this call may have been carried out before
--
-- An entry has the number of the event before it ("-": not known), the mark and the event. A message is number, number before, event.

-- Numbers go up to 2^53, which tostring would round.
local function text(number) return string.format('%.0f', number) end
local function number(id) return tonumber(string.match(id, '^%d+')) end

local stream, floor, looked_through = KEYS[1], tonumber(ARGV[1]), tonumber(ARGV[8])
local newest = redis.call('XREVRANGE', stream, '+', '-', 'COUNT', looked_through)
if looked_through > 1 then
  for _, entry in ipairs(newest) do
    if entry[2][4] == ARGV[3] then return number(entry[1]) end
  end
end

local before, seq
if newest[1] then
  local last = number(newest[1][1])
  before, seq = text(last), math.max(last, floor) + 1
elseif ARGV[6] == '1' then
  before, seq = '0', floor + 1
else
  -- The stream was lost. No job has had more than 65,536 events and one more in each millisecond since it was made, so this is
  -- above all that it has had; and below the next floor, which is 2^24 above this one.
  local time = redis.call('TIME')
  local age = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000) - tonumber(ARGV[7])
  before, seq = '-', floor + 65536 + math.min(math.max(age, 0), 15000000) + 1
end

redis.call('XADD', stream, 'MAXLEN', '~', ARGV[4], text(seq) .. '-0', 'before', before, 'mark', ARGV[3], 'event', ARGV[2])
redis.call('PEXPIRE', stream, ARGV[5])
redis.call('PUBLISH', stream, text(seq) .. ' ' .. before .. ' ' .. ARGV[2])
return seq
