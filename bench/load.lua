-- wrk script: sends one workload, with requests from all users in turn.
--
--     wrk … -s bench/load.lua URL -- WORKLOAD FOLDER OFFSET [QUERY]
--
-- FOLDER contains the files tokens and expired (one token per line, one per user), tags (the
-- entity tag of each user's list), tasks, deletable and deleted (user number and task ID per
-- line), and versions (the same, and the task's version). OFFSET is the line in tasks at which
-- to start, and differs between runs. QUERY is for the filtered list.

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
-- runs on the same machine as the target. `extra` are more header fields, of all users or one
-- per user.
local function suffixes(tokens, body, extra)
    local found = {}
    for i, token in ipairs(tokens) do
        local head = " HTTP/1.1\r\nHost: " .. wrk.headers["Host"] .. "\r\n"
        if token ~= "" then head = head .. "Authorization: Bearer " .. token .. "\r\n" end
        if extra then head = head .. (type(extra) == "table" and extra[i] or extra) end
        if body then
            head = head .. "Content-Type: application/json\r\nContent-Length: " .. #body .. "\r\n"
        end
        found[i] = head .. "\r\n" .. (body or "")
    end
    return found
end

-- The same request from each user in turn.
local function by_user(method_and_path, tokens, body, extra)
    local requests = {}
    for i, suffix in ipairs(suffixes(tokens, body, extra)) do requests[i] = method_and_path .. suffix end
    -- Each thread starts at a different user.
    local turn = number * math.floor(#requests / 2)
    return function()
        turn = turn + 1
        return requests[turn % #requests + 1]
    end
end

-- The same request from each user in turn, with a UUID in place of UNIQUE that occurs in no other request.
local UNIQUE = "00000000-0000-4000-8000-000000000000"
local UNIQUE_PATTERN = UNIQUE:gsub("-", "%%-")
local function unique_by_user(method_and_path, tokens, body, extra, offset)
    local next_request, turn = by_user(method_and_path, tokens, body, extra), 0
    return function()
        turn = turn + 1
        return (next_request():gsub(UNIQUE_PATTERN, ("%08x-%04x-4000-8000-%012x"):format(offset, number, turn), 1))
    end
end

-- A request for each task in a file in turn, from its owner. `extra` is a header field that
-- contains what follows the ID in the file.
local function by_task(method, file, offset, tokens, body, action, extra)
    local tasks, ends = lines(file), suffixes(tokens, body, extra)
    local head = method .. " /api/tasks/"
    -- Each thread starts at a different task, so that no task is deleted twice.
    local at = number * math.floor(#tasks / 2) + offset
    return function()
        at = at + 1
        local user, id, version = tasks[(at - 1) % #tasks + 1]:match("(%d+) (%S+) ?(%d*)")
        local rest = ends[tonumber(user)]
        if extra then rest = rest:gsub("VERSION", version, 1) end
        return head .. id .. (action or "") .. rest
    end
end

local IF_MATCH, KEY = 'If-Match: "VERSION"\r\n', "Idempotency-Key: " .. UNIQUE .. "\r\n"
local NEW_WITH_ID = '{"id":"' .. UNIQUE .. '",' .. NEW:sub(2)

local function if_none_match(tags)
    local found = {}
    for i, tag in ipairs(tags) do found[i] = "If-None-Match: " .. tag .. "\r\n" end
    return found
end

local workloads = {
    ["get one"] = function(folder, offset, tokens) return by_task("GET", folder .. "/tasks", offset, tokens) end,
    ["patch"] = function(folder, offset, tokens) return by_task("PATCH", folder .. "/tasks", offset, tokens, CHANGE) end,
    ["patch, If-Match"] = function(folder, _, tokens)
        return by_task("PATCH", folder .. "/versions", 0, tokens, CHANGE, nil, IF_MATCH)
    end,
    ["delete"] = function(folder, _, tokens) return by_task("DELETE", folder .. "/deletable", 0, tokens) end,
    ["restore"] = function(folder, _, tokens) return by_task("POST", folder .. "/deleted", 0, tokens, nil, "/restore") end,
    ["create"] = function(_, _, tokens) return by_user("POST /api/tasks", tokens, NEW) end,
    ["create, with a key"] = function(_, offset, tokens) return unique_by_user("POST /api/tasks", tokens, NEW, KEY, offset) end,
    ["create, with an ID"] = function(_, offset, tokens) return unique_by_user("POST /api/tasks", tokens, NEW_WITH_ID, nil, offset) end,
    ["list 20"] = function(_, _, tokens) return by_user("GET /api/tasks?limit=20", tokens) end,
    ["list 20, by due date"] = function(_, _, tokens) return by_user("GET /api/tasks?limit=20&sort=due", tokens) end,
    ["list 20, filtered"] = function(_, _, tokens, query) return by_user("GET /api/tasks?limit=20&" .. query, tokens) end,
    ["list 20, unchanged"] = function(folder, _, tokens)
        return by_user("GET /api/tasks?limit=20", tokens, nil, if_none_match(lines(folder .. "/tags")))
    end,
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

-- The status that a workload must get, where a wrong one could be below 400: wrk counts every
-- status above 399 as an error, and no other.
local EXPECTED = {
    ["401 no token"] = 401,
    ["401 malformed"] = 401,
    ["401 expired"] = 401,
    ["list 20, unchanged"] = 304,
    ["create, with an ID"] = 201,
}
expected, checked = 0, false

function init(args)
    local workload, folder, offset, query = args[1], args[2], tonumber(args[3]), args[4]
    request = workloads[workload](folder, offset, lines(folder .. "/tokens"), query)
    local wanted = EXPECTED[workload]
    if wanted then
        checked = true
        function response(status)
            if status == wanted then expected = expected + 1 end
        end
    end
end

function done(summary, latency, requests)
    local errors, wrong = summary.errors, summary.errors.status
    if threads[1]:get("checked") then
        wrong = summary.requests
        for _, thread in ipairs(threads) do wrong = wrong - thread:get("expected") end
    end
    print(string.format(
        '{"requests":%d,"seconds":%f,"p50":%f,"p99":%f,"wrong_status":%d,"broken":%d}',
        summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
        wrong, errors.connect + errors.read + errors.write + errors.timeout))
end
