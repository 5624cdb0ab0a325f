-- Adds events to a job's stream, one after the other, and publishes them as one message; returns the number of the last.
--
-- KEYS 1  the stream, and the name of the channel
-- ARGV 1  the floor: the numbers are above it
--      2  the caller's mark on them, unlike any other
--      3  how many events are kept
--      4  for how long, in milliseconds
--      5  1: nothing can have come before the first of them
--      6  when the job was made, in milliseconds since 1970
--      7  among how many newest events to look for the mark: more than 1 when this call may have been carried out before
--      8  and the rest: the events
--
-- An entry has the number of the event before it ("-": not known), the mark and the event. A message is the first event's number, the number before it,
-- and the events, of which the others have the numbers that follow; a line each, since no event has a line break.

-- Numbers go up to 2^53, which tostring would round.
local function text(number) return string.format('%.0f', number) end
local function number(id) return tonumber(string.match(id, '^%d+')) end

local stream, floor, mark, looked_through = KEYS[1], tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[7])
local newest = redis.call('XREVRANGE', stream, '+', '-', 'COUNT', looked_through)
if looked_through > 1 then
  for _, entry in ipairs(newest) do
    if entry[2][4] == mark then return number(entry[1]) end
  end
end

local before, seq
if newest[1] then
  local last = number(newest[1][1])
  before, seq = text(last), math.max(last, floor) + 1
elseif ARGV[5] == '1' then
  before, seq = '0', floor + 1
else
  -- The stream was lost. No job has had more than 65,536 events and one more in each millisecond since it was made, so this is
  -- above all that it has had; and below the next floor, which is 2^24 above this one.
  local time = redis.call('TIME')
  local age = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000) - tonumber(ARGV[6])
  before, seq = '-', floor + 65536 + math.min(math.max(age, 0), 15000000) + 1
end

local message = {text(seq) .. ' ' .. before .. ' ' .. ARGV[8]}
for index = 8, #ARGV do
  if index > 8 then
    before, seq = text(seq), seq + 1
    message[#message + 1] = ARGV[index]
  end
  redis.call('XADD', stream, 'MAXLEN', '~', ARGV[3], text(seq) .. '-0', 'before', before, 'mark', mark, 'event', ARGV[index])
end
redis.call('PEXPIRE', stream, ARGV[4])
redis.call('PUBLISH', stream, table.concat(message, '\n'))
return seq
