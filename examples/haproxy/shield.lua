-- http-request lua.ask_shield: asks the shield about a request before HAProxy forwards it to the app.
-- Refused: its answer goes to the client. Allowed: txn.shield_passes is set, and the headers for the client are in other
-- txn.shield_* variables. After an error in here neither is so, and haproxy.cfg denies the request.
-- It asks through the frontend "shield" of haproxy.cfg, which holds the time-outs and the address.

local ROUTE = "http://shield/-/shield/authorize/haproxy"
local DOOR = "abns@shield-door"
local TIMEOUT_MS = 1000 -- the frontend answers sooner

-- What a question may hold: less than a buffer of HAProxy (tune.bufsize), and than what the shield's server accepts.
-- A request beyond that gets a 431, since it could not be asked about.
local MOST_LINES, MOST_BYTES = 80, 12000

-- The client's headers that a question does not repeat: those of the connection and of the body, and ours.
local NOT_SENT = {
    ["connection"] = true, ["content-length"] = true, ["expect"] = true, ["host"] = true, ["keep-alive"] = true,
    ["proxy-connection"] = true, ["te"] = true, ["trailer"] = true, ["transfer-encoding"] = true, ["upgrade"] = true,
    ["x-forwarded-for"] = true, ["x-forwarded-host"] = true, ["x-forwarded-method"] = true,
    ["x-forwarded-proto"] = true, ["x-forwarded-uri"] = true,
}

local FOR_CLIENTS = {
    ["ratelimit"] = "txn.shield_ratelimit", ["ratelimit-policy"] = "txn.shield_ratelimit_policy",
    ["set-cookie"] = "txn.shield_cookie", ["shield-ticket"] = "txn.shield_ticket",
}

local function question_of(txn)
    local target = txn.f:pathq() or txn.f:url() -- there is no path in OPTIONS *
    local headers, lines, bytes = {}, 0, #target
    for name, values in pairs(txn.http:req_get_headers()) do
        if not NOT_SENT[name] then
            local sent = {}
            for at = 0, #values do
                sent[at + 1] = values[at]
                lines, bytes = lines + 1, bytes + #name + #values[at] + 4
            end
            headers[name] = sent
        end
    end
    headers["x-forwarded-method"] = { txn.f:method() }
    headers["x-forwarded-uri"] = { target }
    headers["x-forwarded-host"] = { txn.f:req_hdr("host") or "" }
    headers["x-forwarded-proto"] = { txn.f:ssl_fc() == 1 and "https" or "http" }
    headers["x-forwarded-for"] = { txn.f:src() }
    return headers, lines <= MOST_LINES and bytes <= MOST_BYTES
end

local function refuse(txn, status, headers, body)
    local reply = txn:reply{ status = status }
    for name, values in pairs(headers) do
        if name ~= "content-length" and name ~= "connection" and name ~= "date" and name ~= "server" then
            for at = 0, #values do
                reply:add_header(name, values[at])
            end
        end
    end
    reply:set_body(txn.f:method() ~= "HEAD" and body or "")
    txn:done(reply)
end

core.register_action("ask_shield", { "http-req" }, function(txn)
    local headers, is_askable = question_of(txn)
    if not is_askable then
        return refuse(txn, 431, {}, "")
    end
    local answer = core.httpclient():get{ url = ROUTE, dst = DOOR, headers = headers, timeout = TIMEOUT_MS }
    local away = answer.headers["shield-is-away"]
    if away ~= nil then
        if away[0] ~= "pass" then
            return refuse(txn, 503, {}, "")
        end
        return txn:set_var("txn.shield_passes", "away")
    end
    if answer.status ~= 200 then
        return refuse(txn, answer.status, answer.headers, answer.body)
    end
    txn:set_var("txn.shield_passes", "allowed")
    for name, variable in pairs(FOR_CLIENTS) do
        if answer.headers[name] ~= nil then
            txn:set_var(variable, answer.headers[name][0])
        end
    end
end, 0)
