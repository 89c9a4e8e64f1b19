-- wrk script: sends one workload, with requests from all users in turn.
--
--     wrk … -s bench/load.lua URL -- WORKLOAD FOLDER OFFSET
--
-- FOLDER contains the files tokens and expired (one token per line, one per user), and
-- tasks and deletable (user number and task ID per line). OFFSET is the line in tasks at
-- which to start.

local threads = {}

function setup(thread)
    thread:set("number", #threads)
    threads[#threads + 1] = thread
end

local NEW = '{"title":"Water the plants","description":"The ones on the balcony too.","priority":"high","tags":["home","garden"]}'
local CHANGE = '{"title":"Feed the cat"}'

local function lines(path)
    local found = {}
    for line in io.lines(path) do found[#found + 1] = line end
    return found
end

-- The part of the request after the path, for each token. Built in advance, because wrk
-- runs on the same machine as the target.
local function suffixes(tokens, body)
    local found = {}
    for i, token in ipairs(tokens) do
        local head = " HTTP/1.1\r\nHost: " .. wrk.headers["Host"] .. "\r\n"
        if token ~= "" then head = head .. "Authorization: Bearer " .. token .. "\r\n" end
        if body then
            head = head .. "Content-Type: application/json\r\nContent-Length: " .. #body .. "\r\n"
        end
        found[i] = head .. "\r\n" .. (body or "")
    end
    return found
end

-- The same request from each user in turn.
local function by_user(method_and_path, tokens, body)
    local requests = {}
    for i, suffix in ipairs(suffixes(tokens, body)) do requests[i] = method_and_path .. suffix end
    -- Each thread starts at a different user.
    local turn = number * math.floor(#requests / 2)
    return function()
        turn = turn + 1
        return requests[turn % #requests + 1]
    end
end

-- A request for each task in a file in turn, from its owner.
local function by_task(method, file, offset, tokens, body)
    local tasks, ends = lines(file), suffixes(tokens, body)
    local head = method .. " /api/tasks/"
    -- Each thread starts at a different task, so that no task is deleted twice.
    local at = number * math.floor(#tasks / 2) + offset
    return function()
        at = at + 1
        local user, id = tasks[(at - 1) % #tasks + 1]:match("(%d+) (.+)")
        return head .. id .. ends[tonumber(user)]
    end
end

local workloads = {
    ["get one"] = function(folder, offset, tokens) return by_task("GET", folder .. "/tasks", offset, tokens) end,
    ["patch"] = function(folder, offset, tokens) return by_task("PATCH", folder .. "/tasks", offset, tokens, CHANGE) end,
    ["delete"] = function(folder, _, tokens) return by_task("DELETE", folder .. "/deletable", 0, tokens) end,
    ["create"] = function(_, _, tokens) return by_user("POST /api/tasks", tokens, NEW) end,
    ["list 20"] = function(_, _, tokens) return by_user("GET /api/tasks?limit=20", tokens) end,
    ["list 200"] = function(_, _, tokens) return by_user("GET /api/tasks?limit=200", tokens) end,
    ["401 no token"] = function() return by_user("GET /api/tasks?limit=20", { "" }) end,
    ["401 malformed"] = function() return by_user("GET /api/tasks?limit=20", { "a.b.c" }) end,
    ["401 expired"] = function(folder) return by_user("GET /api/tasks?limit=20", lines(folder .. "/expired")) end,
}

-- 70 % reads.
local MIX = { "get one", "get one", "get one", "get one", "list 20", "list 20", "list 20", "create", "patch", "patch" }

function workloads.mix(...)
    local turn, generators = 0, {}
    for _, name in ipairs(MIX) do generators[name] = generators[name] or workloads[name](...) end
    return function()
        turn = turn + 1
        return generators[MIX[turn % #MIX + 1]]()
    end
end

rejected = 0

function init(args)
    local workload, folder, offset = args[1], args[2], tonumber(args[3])
    request = workloads[workload](folder, offset, lines(folder .. "/tokens"))
    -- wrk counts every status above 399 as an error, so 401 responses are counted separately.
    if workload:sub(1, 3) == "401" then
        function response(status)
            if status == 401 then rejected = rejected + 1 end
        end
    end
end

function done(summary, latency, requests)
    local errors, total_rejected = summary.errors, 0
    for _, thread in ipairs(threads) do total_rejected = total_rejected + thread:get("rejected") end
    print(string.format(
        '{"requests":%d,"seconds":%f,"p50":%f,"p99":%f,"statuses":%d,"rejected":%d,"broken":%d}',
        summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
        errors.status, total_rejected, errors.connect + errors.read + errors.write + errors.timeout))
end
