-- What wrk sends: one kind of work, by a thousand users in turn.
--
--     wrk … -s bench/load.lua URL -- WORK FOLDER
--
-- FOLDER has tokens (one of each user a line) and tasks (number of its user and id a line).

local threads = 0

function setup(thread)
    thread:set("number", threads)
    threads = threads + 1
end

local function lines(path)
    local found = {}
    for line in io.lines(path) do found[#found + 1] = line end
    return found
end

local NEW = '{"title":"Water the plants","description":"The ones on the balcony too.","priority":"high","tags":["home","garden"]}'
local CHANGE = '{"title":"Feed the cat"}'

function init(args)
    work = args[1]
    tokens = lines(args[2] .. "/tokens")
    tasks = lines(args[2] .. "/tasks")
    -- Each thread begins elsewhere, so that no task is deleted twice.
    at = number * math.floor(#tasks / 2) + tonumber(args[3])
    turn = 0
end

local function next_task()
    at = at + 1
    local user, id = tasks[(at - 1) % #tasks + 1]:match("(%d+) (.+)")
    return tonumber(user), "/api/tasks/" .. id
end

local function send(method, path, user, body)
    return wrk.format(method, path, {
        ["Authorization"] = "Bearer " .. tokens[user],
        ["Content-Type"] = body and "application/json" or nil,
    }, body)
end

local works = {}

function works.get() local user, path = next_task() return send("GET", path, user) end
function works.patch() local user, path = next_task() return send("PATCH", path, user, CHANGE) end
function works.delete() local user, path = next_task() return send("DELETE", path, user) end
function works.create() turn = turn + 1 return send("POST", "/api/tasks", turn % #tokens + 1, NEW) end
function works.list20() turn = turn + 1 return send("GET", "/api/tasks?limit=20", turn % #tokens + 1) end
function works.list200() turn = turn + 1 return send("GET", "/api/tasks?limit=200", turn % #tokens + 1) end
function works.refused() return wrk.format("GET", "/api/tasks?limit=20", { ["Authorization"] = "Bearer a.b.c" }) end

-- 70 of 100 read.
local mixture = { "get", "get", "get", "get", "list20", "list20", "list20", "create", "patch", "patch" }
function works.mix() turn = turn + 1 return works[mixture[turn % #mixture + 1]]() end

function request() return works[work]() end

function done(summary, latency, requests)
    local errors = summary.errors
    print(string.format(
        '{"requests":%d,"seconds":%f,"p50":%f,"p99":%f,"statuses":%d,"broken":%d}',
        summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
        errors.status, errors.connect + errors.read + errors.write + errors.timeout))
end
