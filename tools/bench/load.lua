-- wrk: one POST as a stock client sends it (written to a file by the bench), and the run's totals as JSON
function init(args)
  local file = assert(io.open(args[1], "rb"))
  wrk_request = file:read("*a")
  file:close()
end

function request()
  return wrk_request
end

function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    '\n{"requests":%d,"duration_us":%d,"bad":%d,"p50_us":%d,"p99_us":%d}\n',
    summary.requests, summary.duration, e.connect + e.read + e.write + e.status + e.timeout,
    latency:percentile(50), latency:percentile(99)))
end
