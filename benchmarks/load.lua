-- wrk's script. BENCH_LINES names a file with one header line per client: they send in turn, from BENCH_START on.
-- The requests are built in advance, since wrk shares the machine with what it measures.
local path = os.getenv("BENCH_LINES")
if path then
  local requests, count = {}, 0
  for line in io.lines(path) do
    count = count + 1
    local name, value = line:match("^([^:]+): (.*)$")
    requests[count] = { [name] = value }
  end
  local at = tonumber(os.getenv("BENCH_START")) % count
  function init()
    for i = 1, count do
      requests[i] = wrk.format("GET", wrk.path, requests[i])
    end
  end
  function request()
    at = at % count + 1
    return requests[at]
  end
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '\n{"requests": %d, "duration_us": %d, "refused": %d, "errors": %d, "p50_us": %d, "p99_us": %d}\n',
    summary.requests, summary.duration, errors.status,
    errors.connect + errors.read + errors.write + errors.timeout,
    latency:percentile(50), latency:percentile(99)))
end
