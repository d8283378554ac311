-- deny: tell the deny list again to a store that lost it. One that has a list, be it empty, keeps it.
--
-- KEYS     1 the deny list: a hash, network -> entry, and its version   2 the audit: a stream
-- ARGV     1 the new version   2 the audit's text   3 the channel   4 TTL in ms   5 audit length
--          then network and entry of each, opaque texts
-- returns  {1 if it was lost else 0}
-- TTL      ARGV 4

if redis.call('HEXISTS', KEYS[1], 'version') == 1 then
  return {0}
end
for i = 6, #ARGV, 2 do
  redis.call('HSETNX', KEYS[1], ARGV[i], ARGV[i + 1])
end
redis.call('HSET', KEYS[1], 'version', ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
redis.call('XADD', KEYS[2], 'MAXLEN', ARGV[5], '*', 'entry', ARGV[2])
redis.call('PEXPIRE', KEYS[2], ARGV[4])
redis.call('PUBLISH', ARGV[3], 'deny')
return {1}
