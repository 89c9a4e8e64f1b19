-- What wrk sends: one kind of work, by a thousand users in turn.
--
--     wrk … -s bench/load.lua URL -- WORK FOLDER FIRST
--
-- FOLDER has tokens and expired (one token of each user a line), and tasks and
-- doomed (number of its user and id a line); FIRST says where in tasks to begin.

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

-- What follows the path, one text for each token: made once, because wrk shares
-- the machine with what it measures.
local function endings(tokens, body)
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

-- The same request by each user in turn.
local function whole(method_and_path, tokens, body)
    local found = {}
    for i, ending in ipairs(endings(tokens, body)) do found[i] = method_and_path .. ending end
    -- Each thread begins elsewhere.
    local turn = number * math.floor(#found / 2)
    return function()
        turn = turn + 1
        return found[turn % #found + 1]
    end
end

-- A request for each task of a file in turn, by the user whose it is.
local function each(method, file, first, tokens, body)
    local tasks, tails = lines(file), endings(tokens, body)
    local head = method .. " /api/tasks/"
    -- Each thread begins elsewhere, so that no task is deleted twice.
    local at = number * math.floor(#tasks / 2) + first
    return function()
        at = at + 1
        local user, id = tasks[(at - 1) % #tasks + 1]:match("(%d+) (.+)")
        return head .. id .. tails[tonumber(user)]
    end
end

local works = {
    ["get one"] = function(folder, first, tokens) return each("GET", folder .. "/tasks", first, tokens) end,
    ["patch"] = function(folder, first, tokens) return each("PATCH", folder .. "/tasks", first, tokens, CHANGE) end,
    ["delete"] = function(folder, _, tokens) return each("DELETE", folder .. "/doomed", 0, tokens) end,
    ["create"] = function(_, _, tokens) return whole("POST /api/tasks", tokens, NEW) end,
    ["list 20"] = function(_, _, tokens) return whole("GET /api/tasks?limit=20", tokens) end,
    ["list 200"] = function(_, _, tokens) return whole("GET /api/tasks?limit=200", tokens) end,
    ["401 no token"] = function() return whole("GET /api/tasks?limit=20", { "" }) end,
    ["401 malformed"] = function() return whole("GET /api/tasks?limit=20", { "a.b.c" }) end,
    ["401 expired"] = function(folder) return whole("GET /api/tasks?limit=20", lines(folder .. "/expired")) end,
}

-- 70 of 100 read.
local MIXTURE = { "get one", "get one", "get one", "get one", "list 20", "list 20", "list 20", "create", "patch", "patch" }

function works.mix(...)
    local turn, makers = 0, {}
    for _, name in ipairs(MIXTURE) do makers[name] = makers[name] or works[name](...) end
    return function()
        turn = turn + 1
        return makers[MIXTURE[turn % #MIXTURE + 1]]()
    end
end

refused = 0

function init(args)
    local work, folder, first = args[1], args[2], tonumber(args[3])
    request = works[work](folder, first, lines(folder .. "/tokens"))
    -- wrk counts whatever is above 399; only here another such status would not show.
    if work:sub(1, 3) == "401" then
        function response(status)
            if status == 401 then refused = refused + 1 end
        end
    end
end

function done(summary, latency, requests)
    local errors, refusals = summary.errors, 0
    for _, thread in ipairs(threads) do refusals = refusals + thread:get("refused") end
    print(string.format(
        '{"requests":%d,"seconds":%f,"p50":%f,"p99":%f,"statuses":%d,"refusals":%d,"broken":%d}',
        summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
        errors.status, refusals, errors.connect + errors.read + errors.write + errors.timeout))
end
