// The operator's page. It asks only the admin routes beside it, shows text as text (textContent, never as HTML), and
// keeps the token in memory only. The numbers come from /live, one state each second.

const CLASSES = [["host", "Hosts"], ["member", "Members"], ["guest", "Guests"]];
const HISTORY_S = 15 * 60;
const SILENCE_MS = 6000; // a state comes each second: after this much silence the connection is given up
const FIRST_RETRY_MS = 500;
const LONGEST_RETRY_MS = 15000;

const session = { token: null, actor: "", state: null, receivedAt: 0, goneSince: null, stream: null, undo: null, denyUndo: null };

// --- small tools

const el = (id) => document.getElementById(id);
const number = (value) => new Intl.NumberFormat("en", { maximumFractionDigits: value < 10 ? 1 : 0 }).format(value);
const counted = (value, noun) => `${number(value)} ${noun}${value === 1 ? "" : "s"}`;
const total = (byClass) => byClass.host + byClass.member + byClass.guest;
const clock = (seconds) => new Date(seconds * 1000).toLocaleTimeString("en-GB");
const percent = (value) => `${value % 1 ? value.toFixed(1) : value} %`;

/** Set a text only if it has changed, so that a screen reader and a selection are left alone. */
function write(target, text) {
  const node = typeof target === "string" ? el(target) : target;
  if (node.textContent !== text) node.textContent = text;
}

function show(id, isShown) {
  if (el(id).hidden === isShown) el(id).hidden = !isShown;
}

function node(tag, text, className) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

function row(cells, ...more) {
  const made = node("tr");
  cells.forEach(([text, className], place) => {
    const cell = node(place ? "td" : "th", text, className);
    if (!place) cell.scope = "row";
    made.append(cell);
  });
  made.append(...more);
  return made;
}

/** Replace the children only if what they say has changed: otherwise the focus and a selection would be lost. */
function fill(id, key, make) {
  const target = el(id);
  const text = JSON.stringify(key);
  if (target.dataset.key === text) return;
  target.dataset.key = text;
  target.replaceChildren(...make());
}

/** The time by the store's clock, in Unix seconds: the last state may be some seconds old. */
const storeNow = () => session.state.status.now + (Date.now() - session.receivedAt) / 1000;

/** Take out what was filled in. */
function empty(target) {
  target.replaceChildren();
  delete target.dataset.key;
}

function items(id, texts) {
  fill(id, texts, () => texts.map((text) => node("li", text)));
}

function span(seconds) {
  const left = Math.max(0, Math.round(seconds));
  const [h, m, s] = [Math.floor(left / 3600), Math.floor(left / 60) % 60, left % 60];
  if (h >= 48) return `${Math.floor(h / 24)} days`;
  const two = (value) => String(value).padStart(2, "0");
  return h ? `${h}:${two(m)}:${two(s)}` : `${m}:${two(s)}`;
}

/** Tell a screen reader, once. */
function say(text) {
  write("said", text);
}

// --- asking the routes

class Refused extends Error {
  constructor(status, problem, retryAfter) {
    super(problem.detail || `The server answered ${status}.`);
    this.status = status;
    this.current = problem.current;
    this.retryAfter = retryAfter;
  }
}

function headers(more) {
  const named = session.actor ? { "Shield-Actor": session.actor } : {};
  return { Authorization: `Bearer ${session.token}`, ...named, ...more };
}

async function refusal(answer) {
  let problem = {};
  try {
    problem = await answer.json();
  } catch {
    // not the shield's own answer: a proxy's, perhaps
  }
  return new Refused(answer.status, problem, answer.headers.get("retry-after"));
}

/**
 * Ask a route; the parsed answer, or null for 204. Throws Refused, or an Error in plain words.
 *
 * What comes after the operator has signed out goes nowhere: it may be more than the next one may see.
 */
async function ask(method, path, body, more = {}) {
  const { stream } = session;
  let told;
  try {
    told = await answered(method, path, body, more);
  } catch (error) {
    if (session.stream === stream) throw error;
  }
  return session.stream === stream ? told : new Promise(() => {});
}

async function answered(method, path, body, more) {
  const content = body === undefined ? {} : { "Content-Type": "application/json" };
  let answer;
  try {
    answer = await fetch(path, {
      method,
      headers: headers({ ...content, ...more }),
      body: body === undefined ? undefined : JSON.stringify(body),
      cache: "no-store",
      signal: AbortSignal.timeout(10000),
    });
  } catch {
    const doubt = method === "GET" ? "" : " It may be done all the same: look at the last changes.";
    throw new Error(`The server did not answer.${doubt}`);
  }
  if (!answer.ok) throw await refusal(answer);
  return answer.status === 204 ? null : answer.json();
}

// --- the stream of states

async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    buffer += value;
    const parts = buffer.split("\n\n");
    buffer = parts.pop();
    for (const part of parts) {
      const [, kind = "state", data] = /^(?:event: (\w+)\n)?data: (.*)$/.exec(part) ?? [];
      if (data) yield { kind, data: JSON.parse(data) };
    }
  }
}

/** Read states until the connection ends. Returns whether any came. Throws Refused if there is no access. */
async function readOnce(stream) {
  const aborted = new AbortController();
  stream.abort = () => aborted.abort();
  let watch = setTimeout(stream.abort, SILENCE_MS);
  let came = false;
  try {
    const answer = await fetch("live", { headers: headers(), cache: "no-store", signal: aborted.signal });
    if (!answer.ok) throw await refusal(answer);
    for await (const { kind, data } of events(answer)) {
      if (stream.ended) break;
      clearTimeout(watch);
      watch = setTimeout(stream.abort, SILENCE_MS);
      came = true;
      if (kind === "state") received(data);
      else data.forEach(remember);
    }
  } catch (error) {
    if (error instanceof Refused) throw error;
  } finally {
    clearTimeout(watch);
  }
  return came;
}

/** Follow the fleet until the operator signs out, connecting again with growing, jittered pauses. */
async function follow() {
  const stream = { abort: () => {}, wake: () => {}, ended: false };
  session.stream = stream;
  followTop(stream);
  let pauseMs = FIRST_RETRY_MS;
  while (!stream.ended) {
    try {
      if (await readOnce(stream)) pauseMs = FIRST_RETRY_MS;
    } catch (error) {
      if (stream.ended) return;
      if (error.status === 401 || (!session.state && error.status < 500)) return signedOut(accessProblem(error));
      if (error.retryAfter) pauseMs = Math.max(pauseMs, Math.min(60, Number(error.retryAfter) || 1) * 1000);
    }
    if (stream.ended) return;
    session.goneSince ??= Date.now();
    const waitMs = pauseMs * (0.75 + Math.random() / 2);
    stream.nextAt = Date.now() + waitMs;
    gone();
    await new Promise((resolve) => {
      const timer = setTimeout(resolve, waitMs);
      stream.wake = () => { clearTimeout(timer); resolve(); };
    });
    pauseMs = Math.min(LONGEST_RETRY_MS, pauseMs * 2);
  }
}

function accessProblem(error) {
  if (error.status === 401) return "The token is wrong. After three wrong ones there is a pause.";
  if (error.status === 429) return `${error.message} Try again in ${error.retryAfter || "some"} s.`;
  return error.message;
}

function received(state) {
  const isFirst = !session.state;
  session.state = state;
  session.receivedAt = Date.now();
  if (session.goneSince) say("Connected again.");
  session.goneSince = null;
  if (isFirst) signedIn();
  draw(state);
}

function gone() {
  const since = session.goneSince;
  show("gone", since !== null && session.state !== null);
  if (since !== null) unknown(since);
  el("board").classList.toggle("stale", since !== null);
  el("link").classList.toggle("off", since !== null);
  if (since === null) return;
  const left = Math.max(0, Math.ceil((session.stream.nextAt - Date.now()) / 1000));
  write("gone-text", `No answer from the server since ${clock(since / 1000)}. The numbers below are of then. Next attempt in ${left} s.`);
  write("link-text", `No answer since ${clock(since / 1000)}`);
  document.title = "? no answer · shieldmw";
  icon("?", "#6b7280");
  if (!session.state) write("sign-in-error", "The server does not answer. Trying again…");
}

// --- signing in and out

function signedIn() {
  show("sign-in", false);
  for (const id of ["board", "tools", "link"]) show(id, true);
  el("token").value = "";
  el("main").focus();
}

function signedOut(why) {
  if (session.stream) {
    session.stream.ended = true;
    session.stream.abort();
    session.stream.wake();
  }
  if (el("flip").open) el("flip").close();
  Object.assign(session, { token: null, state: null, goneSince: null, stream: null, undo: null, denyUndo: null });
  listeners.clear();
  traffic.clear();
  Object.assign(totals, { at: 0, values: null });
  for (const id of ["board", "tools", "link", "gone", "top"]) show(id, false);
  document.querySelectorAll("[data-key]").forEach(empty);
  denied("");
  el("deny-form").reset();
  show("sign-in", true);
  write("mode-note", "");
  write("sign-in-error", why);
  document.title = "Sign in · shieldmw";
  icon("", "#6b7280");
  el("token").focus();
}

function signIn(event) {
  event.preventDefault();
  const token = el("token").value.trim();
  if (!/^[!-~ ]+$/.test(token)) return write("sign-in-error", "The token has characters that no token has.");
  write("sign-in-error", "");
  if (session.stream) { session.stream.ended = true; session.stream.abort(); session.stream.wake(); }
  session.token = token;
  session.actor = el("actor").value.trim();
  return follow();
}

// --- drawing

function draw(state) {
  gone();
  const { status } = state;
  const isViewer = state.role === "viewer";
  show("viewer", isViewer);
  show("dry", status.dry_run);
  write("link-text", `Live, ${clock(status.now)}`);
  drawVerdict(state);
  drawMode(state);
  drawSeats(state);
  drawHealth(state);
  drawDenied(state);
  drawAudit(state);
  drawCharts(state);
  drawDone(state);
  for (const id of ["to-emergency", "to-normal", "to-other", "undo", "deny", "deny-undo"]) lock(el(id), isViewer);
  if (isViewer) write("mode-note", "The buttons need the admin token: sign out, and in again with it.");
}

function lock(button, isViewer) {
  button.disabled = isViewer;
  button.title = isViewer ? "Needs the admin token; you signed in with the view token." : "";
}

/** Without an answer nobody knows: an old "Yes" must not be mistaken for a new one. */
function unknown(since) {
  el("served").className = "card verdict";
  write("served-sign", "?");
  write("served-word", "Unknown");
  write("served-number", "");
  write("served-why", `The server has not answered since ${clock(since / 1000)}.`);
  empty(el("served-facts"));
}

const VERDICTS = { yes: ["✓", "Yes", "#0b6b31"], no: ["✗", "NO", "#b0121b"], idle: ["–", "Nobody asks", "#6b7280"] };

function drawVerdict({ members, status }) {
  const [sign, word, colour] = VERDICTS[members.served];
  const before = el("served-word").textContent;
  el("served").className = `card verdict ${members.served}`;
  write("served-sign", sign);
  write("served-word", word);
  write("served-number", members.percent === null ? "" : percent(members.percent));
  const why = `${members.why.charAt(0).toUpperCase()}${members.why.slice(1)}.`;
  write("served-why", why);
  drawFacts(status, members);
  const mode = status.mode === "emergency" ? `EMERGENCY ${span(status.seconds_left)}` : "normal";
  const served = { yes: "members served", no: "members NOT served", idle: "no member asks" }[members.served];
  document.title = `${sign} ${mode} · ${served}`;
  icon(status.mode === "emergency" ? "E" : sign, colour, status.mode === "emergency");
  if (before && before !== word) say(`Are members being served? ${word}. ${why}`);
}

function drawFacts({ seats, demand }, members) {
  const seated = seats.host + seats.member;
  const facts = [
    ["members with a seat", number(seated)], ["without", demand ? number(Math.max(0, demand.host + demand.member - seated)) : "?"],
    ["their requests/s let in", number(members.let_in)], ["refused", number(members.refused)],
  ];
  fill("served-facts", facts, () => facts.map(([name, value]) => {
    const fact = node("div");
    fact.append(node("dt", name), node("dd", value));
    return fact;
  }));
}

let lastIcon = "";

/** The tab's icon: a disc in normal mode, a square in an emergency, with a sign on it. */
function icon(sign, colour, isSquare = false) {
  const wanted = `${sign}${colour}${isSquare}`;
  if (wanted === lastIcon) return;
  lastIcon = wanted;
  const shape = isSquare ? `<rect width="32" height="32" fill="${colour}"/>` : `<circle cx="16" cy="16" r="16" fill="${colour}"/>`;
  const text = `<text x="16" y="24" font-family="sans-serif" font-weight="bold" font-size="22" fill="white" text-anchor="middle">${sign}</text>`;
  el("icon").href = `data:image/svg+xml,${encodeURIComponent(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32">${shape}${text}</svg>`)}`;
}

function drawMode({ status, obedience, switch: other }) {
  const isEmergency = status.mode === "emergency";
  const word = isEmergency ? "EMERGENCY" : "Normal";
  const before = el("mode-word").textContent;
  el("mode").className = `card mode ${status.mode}`;
  write("mode-word", word);
  write("mode-clock", isEmergency ? `ends in ${span(status.seconds_left)}` : status.since ? `since ${clock(status.since)}` : "");
  write("mode-who", changeText(status));
  write("mode-obeyed", obeyedText(obedience, status));
  write("would-title", isEmergency ? "Ending it now would" : "Switching now would");
  items("would", effects(other));
  show("to-emergency", !isEmergency);
  show("to-normal", isEmergency);
  show("to-other", isEmergency);
  if (session.undo && status.version > session.undo.version) {
    session.undo = null;
    if (el("flip").open && flip.sentVersion !== null) {
      show("flip-undo", false);
      write("flip-error", `Since then ${changedBy(status)} What you did is no longer in force, so there is nothing to undo.`);
    }
  }
  show("undo", session.undo !== null);
  if (session.undo) write("undo", session.undo.label);
  if (before && before !== word) say(`The mode is ${word} now.`);
}

function changeText(status) {
  if (!status.version) return "Never switched.";
  const why = status.reason ? `: “${status.reason}”` : ", without a reason";
  const until = status.until ? ` Ends by itself at ${clock(status.until)}.` : "";
  return `By ${status.actor}${why}.${until}`;
}

function obeyedText(obedience, status) {
  const { follow: following, behind, silent } = obedience;
  const all = following + behind.length;
  if (status.store !== "up") return "Which workers follow is not known while the store is away; each keeps the mode it has.";
  if (!all) return status.workers ? `${counted(status.workers, "worker")}; they do not report whether they follow (SHIELD_OVERLOAD=off).` : "";
  const late = behind.length ? ` NOT yet: ${behind.join("; ")}.` : "";
  const quiet = silent ? ` ${counted(silent, "worker")} silent.` : "";
  return `${following} of ${counted(all, "worker")} ${following === 1 ? "follows" : "follow"}.${late}${quiet}`;
}

/** What a change would do, in a few lines; the numbers are the server's. */
function effects(preview) {
  const { stay, leave, come, wait } = preview;
  const lines = [];
  const favoured = leave.host + leave.member;
  if (favoured) lines.push(`send away ${counted(favoured, "member")}: there would be too few seats`);
  else lines.push(stay.host + stay.member ? `let all ${counted(stay.host + stay.member, "member")} stay` : "touch no member: none has a seat");
  if (leave.guest) lines.push(`send ${stay.guest ? `${number(leave.guest)} of ${counted(stay.guest + leave.guest, "guest")}` : `all ${counted(leave.guest, "guest")}`} to the recording`);
  else if (stay.guest) lines.push(`let all ${counted(stay.guest, "guest")} stay`);
  const comers = CLASSES.filter(([name]) => come[name]).map(([name]) => counted(come[name], name));
  if (comers.length) lines.push(`let in, of those who wait now: ${comers.join(", ")}`);
  if (wait.host + wait.member) lines.push(`leave ${counted(wait.host + wait.member, "member")} waiting`);
  lines.push(preview.guest_limit === "off" ? "put no limit on a guest's address" : `limit each guest's address to ${preview.guest_limit}`);
  if (preview.guests_limit !== "off") lines.push(`limit all guests together to ${preview.guests_limit}`);
  const refused = Math.ceil(preview.refused_at_most);
  lines.push(refused ? `refuse up to ${counted(refused, "request")} a second of those let in now` : "refuse none of the requests let in now");
  if (preview.members_only.length) lines.push(`close to guests: ${preview.members_only.join(", ")}`);
  if (preview.closed.length) lines.push(`close to everyone: ${preview.closed.join(", ")}`);
  return lines;
}

function drawSeats({ status, waiting_room: room, lists }) {
  const limit = status.capacity === null ? "no limit" : `${number(status.capacity)}, of which guests may hold ${number(status.guest_seats)}`;
  const scope = status.counted === "fleet" ? "" : " Of this worker only: the store is away.";
  write("seats-line", `Taken ${number(total(status.seats))}; capacity: ${limit}.${scope}`);
  const rows = CLASSES.map(([name, label]) => {
    const without = status.demand ? Math.max(0, status.demand[name] - status.seats[name]) : null;
    return [label, number(status.seats[name]), number(status.leased[name]), without === null ? "?" : number(without)];
  });
  fill("seats-rows", rows, () => rows.map((cells) => row(cells.map((text, place) => [text, place ? "num" : ""]))));
  const old = lists === "stale" ? " (as last known)" : "";
  const none = lists === "stale" ? "Not known while the store is away." : "Not used: no path holds seats.";
  write("room", room === null ? none : room.waiting ? `${counted(room.waiting, "member")} waiting with a number; ${number(room.called)} called so far${old}.` : `Nobody waits${old}.`);
}

function drawHealth({ status, obedience, lists }) {
  const checks = [];
  const add = (kind, text) => checks.push([kind, text]);
  add(status.store === "up" ? "" : "bad", status.store === "up" ? "The store answers" : "The STORE IS AWAY: each worker decides alone, the mode stays, nothing can be changed here");
  if (obedience.behind.length) add("bad", `Does not follow the mode: ${obedience.behind.join("; ")}`);
  else if (obedience.follow) add("", `Every worker that reports follows the mode (${number(obedience.follow)})`);
  if (obedience.silent) add("bad", `${counted(obedience.silent, "worker")} silent for 7 s: hangs, or does not reach the store`);
  const workers = status.overload.workers;
  const turn = Math.max(0, ...workers.map((worker) => worker.turn_ms));
  const shed = workers.reduce((sum, worker) => sum + total(worker.shed_per_second), 0);
  const waiting = workers.reduce((sum, worker) => sum + total(worker.waiting), 0);
  add(turn > 100 ? "bad" : turn > 20 ? "warn" : "", `Longest turn of an event loop: ${number(turn)} ms${turn > 100 ? ": something blocks it" : ""}`);
  add(shed ? "warn" : "", shed || waiting ? `The app is overloaded: ${number(waiting)} wait for it, ${number(shed)} a second are told to come later` : "The app keeps up");
  if (lists === "stale") add("bad", "Deny list, waiting room and last changes are as last known");
  fill("health", checks, () => checks.map(([kind, text]) => node("li", text, kind)));
  const rows = workers.map((worker) => [
    `${worker.host}, process ${worker.pid}`, `${number(worker.turn_ms)} ms`, `${worker.in_flight} of ${worker.in_flight_limit}`,
    number(total(worker.waiting)), number(total(worker.shed_per_second)),
    worker.mode_version === null ? "?" : worker.mode_version < obedience.version ? `behind: version ${worker.mode_version}` : "follows",
  ]);
  fill("workers-rows", rows, () => rows.map((cells) => row(cells.map((text, place) => [text, place && place < 5 ? "num" : ""]))));
}

function drawDenied({ denied, denied_count: count, role, lists }) {
  const old = lists === "stale" ? " as last known" : "";
  write("deny-count", (count > denied.length ? `${number(denied.length)} of ${number(count)}` : number(count)) + old);
  const isViewer = role === "viewer";
  const key = [isViewer, denied.map((entry) => [entry.cidr, entry.until, entry.actor, entry.reason])];
  fill("deny-rows", key, () => denied.map((entry) => {
    const lift = node("button", "Lift", "small");
    lift.type = "button";
    lift.setAttribute("aria-label", `Lift the denial of ${entry.cidr}`);
    lock(lift, isViewer);
    lift.addEventListener("click", () => undeny(entry));
    const cell = node("td");
    cell.append(lift);
    return row([[entry.cidr], ["", "time"], [entry.reason ? `${entry.actor}: ${entry.reason}` : entry.actor]], cell);
  }));
  [...el("deny-rows").rows].forEach((shown, place) => write(shown.cells[1], span(denied[place].seconds_left)));
}

// --- who is busiest

const TOP_MS = 10000;
const TOPS = [["networks", "Network"], ["addresses", "Address"], ["subjects", "Member"], ["paths", "Path"], ["user_agents", "User agent"]];

/** Ask from time to time while the page is seen. A server without that route has no such section. */
async function followTop(stream) {
  while (!stream.ended) {
    if (session.state && !session.goneSince && !document.hidden) {
      try {
        drawTop(await ask("GET", "top?count=8"));
      } catch (error) {
        if (error.status === 404) return show("top", false);
        write("top-scope", `as last known: ${error.message}`);
      }
    }
    await new Promise((resolve) => setTimeout(resolve, session.state ? TOP_MS : 500));
  }
}

/** A count that is only known to lie between two numbers. */
const between = (least, most) => (most > least ? `${number(least)}–${number(most)}` : number(least));

function drawTop(top) {
  show("top", true);
  write("top-scope", `of ${counted(top.requests, "request")}, ${number(top.refused)} refused, in the last ${number(top.seconds)} s on ${counted(top.workers, "worker")}`);
  fill("top-tables", top, () => TOPS.filter(([kind]) => top[kind].length).map(([kind, label]) => topTable(kind, label, top[kind])));
}

function topTable(kind, label, entries) {
  const table = node("table");
  const head = node("tr");
  for (const [text, className] of [[label], ["requests", "num"], ["refused", "num"]]) {
    const cell = node("th", text, className);
    cell.scope = "col";
    head.append(cell);
  }
  table.createTHead().append(head);
  const isDeniable = kind === "networks" && session.state.role === "admin";
  table.createTBody().append(...entries.map((entry) => {
    const refused = entry.refused === undefined ? "" : between(entry.refused, entry.refused_at_most);
    const made = row([[entry.name || "(none)"], [between(entry.requests, entry.requests_at_most), "num"], [refused, "num"]]);
    if (isDeniable) made.cells[0].append(" ", denyButton(entry.name));
    return made;
  }));
  return table;
}

/** Writes a network into the form for denying: nothing is denied by this click alone. */
function denyButton(cidr) {
  const button = node("button", "Deny…", "small");
  button.type = "button";
  button.setAttribute("aria-label", `Deny ${cidr}…`);
  button.addEventListener("click", () => {
    el("deny-cidr").value = cidr;
    el("deny-reason").focus();
  });
  return button;
}

function drawAudit({ audit }) {
  fill("audit-rows", audit, () => audit.map((entry) => {
    const change = [entry.from, entry.to].filter(Boolean).join(" → ").replace(/\buntil (\d{10})\b/g, (_, at) => `until ${clock(at)}`);
    return row([[clock(entry.when), "time"], [entry.who], [change ? `${entry.what}: ${change}` : entry.what], [entry.why]]);
  }));
}

// --- charts

/** A chart of the last 15 minutes; without uPlot its legend still tells the last values. */
class Chart {
  constructor(name, series) {
    this.name = name;
    this.series = series; // [label, colour number, is dashed]
    this.clear();
  }

  clear() {
    this.data = [[], ...this.series.map(() => [])];
    if (this.plot) this.plot.destroy();
    this.plot = null;
  }

  add(at, values) {
    if (this.data[0].at(-1) >= at) return;
    this.data[0].push(at);
    values.forEach((value, place) => this.data[place + 1].push(value));
    while (this.data[0][0] < at - HISTORY_S) this.data.forEach((column) => column.shift());
  }

  draw() {
    const last = this.data.slice(1).map((column) => column.at(-1));
    const texts = this.series.map(([label], place) => `${label} ${last[place] === null || last[place] === undefined ? "–" : number(last[place])}`);
    fill(`${this.name}-legend`, texts, () => texts.map((text, place) => node("li", text, `c${this.series[place][1]}${this.series[place][2] ? " dashed" : ""}`)));
    const chart = el(`${this.name}-chart`);
    chart.setAttribute("aria-label", `${el(`${this.name}-title`).textContent}. Now: ${texts.join(", ")}`);
    if (!globalThis.uPlot || document.hidden || !chart.clientWidth) return;
    if (!this.plot) this.plot = this.make(chart);
    const now = this.data[0].at(-1);
    this.plot.setData(this.data, false);
    const highest = Math.max(1, ...this.data.slice(1).flatMap((column) => Math.max(0, ...column.filter((value) => value !== null))));
    this.plot.batch(() => {
      this.plot.setScale("x", { min: Math.max(now - HISTORY_S, Math.min(this.data[0][0], now - 120)), max: now });
      this.plot.setScale("y", { min: 0, max: highest * 1.1 });
    });
  }

  make(chart) {
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name).trim();
    const axis = { stroke: colour("--muted"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false }, font: "12px system-ui, sans-serif" };
    return new globalThis.uPlot({
      width: chart.clientWidth, height: chart.clientHeight,
      legend: { show: false }, cursor: { show: false },
      scales: { x: { time: true, auto: false }, y: { auto: false } },
      axes: [
        { ...axis, size: 28, values: (_plot, splits, _axis, _space, step) => splits.map((at) => clock(at).slice(0, step < 60 ? 8 : 5)) },
        { ...axis, size: 62, values: (_, splits) => splits.map(number) },
      ],
      series: [{}, ...this.series.map(([label, place, isDashed]) => ({
        label, stroke: colour(`--s${place}`), width: 2, dash: isDashed ? [6, 5] : undefined, points: { show: false }, spanGaps: false,
      }))],
    }, this.data, chart);
  }

  resize() {
    const chart = el(`${this.name}-chart`);
    if (this.plot && chart.clientWidth) this.plot.setSize({ width: chart.clientWidth, height: chart.clientHeight });
  }
}

const listeners = new Chart("listeners", [["Members with a seat", 1], ["Guests with a seat", 5], ["Without a seat", 3], ["Capacity", 6, true]]);
const traffic = new Chart("traffic", [["Offered", 6, true], ["Let in", 1], ["Over a limit", 2], ["Turned away", 4], ["App overloaded", 3], ["Denied", 5]]);

const OUTCOMES = ["let_in", "over_limit", "sent_away", "overload", "denied"];
const totals = { at: 0, values: null };

/** Add requests a second since the totals before; a gap where they cannot be compared: another server, or a restart. */
function addTraffic(at, values) {
  const seconds = at - totals.at;
  if (seconds <= 0) return;
  const more = totals.values && values.map((value, place) => (value - totals.values[place]) / seconds);
  Object.assign(totals, { at, values });
  if (!more) return;
  const rates = more.some((rate) => rate < 0) || seconds > 30 ? more.map(() => null) : more;
  const offered = rates[0] === null ? null : rates.reduce((sum, rate) => sum + rate, 0);
  traffic.add(at, [offered, ...rates]);
}

/** Take in a sample of the time before the page was opened. */
function remember([at, ...values]) {
  addTraffic(at, values.slice(0, OUTCOMES.length));
  listeners.add(at, values.slice(OUTCOMES.length));
}

function drawCharts({ status, traffic: now }) {
  const unseated = status.demand ? Math.max(0, total(status.demand) - total(status.seats)) : null;
  listeners.add(status.now, [status.seats.host + status.seats.member, status.seats.guest, unseated, status.capacity]);
  listeners.draw();
  addTraffic(status.now, OUTCOMES.map((name) => now.totals[name]));
  traffic.draw();
  const scope = status.workers !== null && now.workers < status.workers ? `last 15 minutes, on ${number(now.workers)} of ${number(status.workers)} workers` : "last 15 minutes";
  write("traffic-scope", scope);
}

// --- the switch

const flip = { kind: null, version: 0, timer: null, asked: 0, sentVersion: null };

/** The change that the dialogue describes. A field that is left empty is as configured. */
function wanted() {
  const reason = el("flip-reason").value.trim();
  if (flip.kind === "normal") return { mode: "normal", reason };
  const change = { mode: "emergency", for_seconds: Math.round(Number(el("flip-minutes").value) * 60), reason };
  if (el("flip-capacity").value !== "") change.capacity = Number(el("flip-capacity").value);
  if (el("flip-share").value !== "") change.guest_share = Number(el("flip-share").value) / 100;
  return change;
}

function openFlip(kind) {
  const { status, switch: other } = session.state;
  Object.assign(flip, { kind, version: status.version, sentVersion: null });
  const isEmergency = status.mode === "emergency";
  write("flip-title", kind === "normal" ? "End the emergency" : isEmergency ? "Change the emergency" : "Switch to emergency");
  write("flip-do", kind === "normal" ? "End the emergency" : isEmergency ? "Change it" : "Switch to emergency");
  show("flip-emergency", kind === "emergency");
  for (const input of el("flip-emergency").querySelectorAll("input")) input.disabled = kind === "normal";
  el("flip-minutes").value = 30;
  el("flip-capacity").value = "";
  el("flip-share").value = "";
  el("flip-reason").value = "";
  el("flip-capacity").placeholder = isEmergency ? "as configured" : other.capacity === null ? "as configured: no limit" : `as configured: ${other.capacity}`;
  el("flip-share").placeholder = isEmergency ? "as configured" : `as configured: ${other.guest_share * 100}`;
  for (const id of ["flip-error", "mode-note"]) write(id, "");
  write("flip-close", "Cancel");
  for (const id of ["flip-fields", "flip-do"]) show(id, true);
  for (const id of ["flip-done", "flip-undo"]) show(id, false);
  lock(el("flip-do"), session.state.role === "viewer");
  el("flip").showModal();
  (kind === "normal" ? el("flip-reason") : el("flip-minutes")).focus();
  preview();
}

/** Ask the server what the change would do; the answer to the latest question counts. */
async function preview() {
  clearTimeout(flip.timer);
  if (!el("flip").open || flip.sentVersion !== null) return;
  const question = ++flip.asked;
  const change = wanted();
  const query = new URLSearchParams({ mode: change.mode });
  for (const name of ["capacity", "guest_share"]) if (change[name] !== undefined) query.set(name, change[name]);
  try {
    const told = await ask("GET", `mode/preview?${query}`);
    if (question !== flip.asked || flip.sentVersion !== null) return;
    drawPreview(told);
    if (el("flip-error").dataset.of === "preview") write("flip-error", "");
  } catch (error) {
    if (question !== flip.asked) return;
    write("flip-would", "");
    el("flip-error").dataset.of = "preview";
    write("flip-error", error.message.replace(/^Nothing was changed\. /, ""));
  }
  flip.timer = setTimeout(preview, 3000); // listeners come and go while the operator thinks
}

function drawPreview(told) {
  const lines = effects(told);
  const members = told.leave.host + told.leave.member;
  const guests = told.leave.guest;
  const both = `${counted(members, "member")}${guests ? ` and ${counted(guests, "guest")}` : ""} must leave.`;
  write("flip-would", members ? both : guests ? `No member has to leave; ${counted(guests, "guest")} must.` : "Nobody has to leave.");
  el("flip-would").classList.toggle("error", members > 0);
  const rows = CLASSES.map(([name, label]) => [label, ...["stay", "leave", "come", "wait"].map((what) => number(told[what][name]))]);
  fill("flip-rows", rows, () => rows.map((cells) => row(cells.map((text, place) => [text, place ? "num" : ""]))));
  const asked = Object.values(session.state.traffic.lately).reduce((sum, rate) => sum + rate.guest, 0);
  const seats = told.capacity === null ? "no limit of seats" : `${counted(told.capacity, "seat")}, of which guests may hold ${number(told.guest_seats)}`;
  items("flip-notes", [seats, ...lines.filter((line) => /^(limit|put|close|refuse)/.test(line)), `guests make ${counted(asked, "request")} a second now`, ...(told.counted === "worker" ? ["counted on this worker only: the store is away"] : [])]);
}

/** The change that restores a mode as it was, for as long as it would have lasted; null if it is over by then. */
function restoring(status) {
  if (status.mode === "normal") return { mode: "normal" };
  const given = { capacity: status.requested_capacity, guest_share: status.requested_guest_share };
  const asked = Object.fromEntries(Object.entries(given).filter(([, value]) => value !== null));
  return { mode: "emergency", until: status.until, ...asked };
}

async function doFlip(event) {
  event.preventDefault();
  if (flip.sentVersion !== null || !el("flip-form").reportValidity()) return;
  clearTimeout(flip.timer);
  el("flip-error").dataset.of = "flip";
  write("flip-error", "");
  el("flip-do").disabled = true;
  const before = session.state.status;
  try {
    done(await ask("PUT", "mode", wanted(), { "If-Match": `"${flip.version}"` }), restoring(before));
  } catch (error) {
    write("flip-error", overtaken(error));
    if (error.current) flip.version = error.current.version;
    flip.timer = setTimeout(preview, 100);
  } finally {
    el("flip-do").disabled = false;
  }
}

function overtaken(error) {
  if (error.status !== 412) return error.message;
  return `Somebody was faster: ${changedBy(error.current ?? {})} Nothing was changed. If you still want it, press again.`;
}

function changedBy({ actor, mode, reason, version }) {
  return `${actor || "another operator"} has set the mode to ${mode}${reason ? ` (“${reason}”)` : ""}, version ${version}.`;
}

/** Show who obeys, and offer the way back. */
function done(status, undo) {
  session.undo = { version: status.version, change: undo, label: undo.mode === "normal" ? "Undo: back to normal" : "Undo: back to the emergency before" };
  flip.sentVersion = status.version;
  for (const id of ["flip-fields", "flip-do"]) show(id, false);
  for (const id of ["flip-done", "flip-undo"]) show(id, true);
  write("flip-title", status.mode === "emergency" ? "Emergency is on" : "Back to normal");
  write("flip-undo", session.undo.label);
  write("flip-close", "Close");
  el("flip-close").focus();
  write("flip-obeyed", "Waiting for the workers…");
  write("flip-behind", "");
  el("flip-progress").removeAttribute("value");
}

function drawDone({ obedience }) {
  if (!el("flip").open || flip.sentVersion === null || obedience.version < flip.sentVersion) return;
  const { follow: following, behind, silent } = obedience;
  const all = following + behind.length + silent;
  el("flip-progress").max = Math.max(1, all);
  el("flip-progress").value = following;
  write("flip-obeyed", all && following === all ? `✓ All ${counted(all, "worker")} follow.` : `${following} of ${counted(all, "worker")} follow…`);
  write("flip-behind", [behind.length ? `Not yet: ${behind.join("; ")}.` : "", silent ? `${counted(silent, "worker")} silent.` : ""].join(" ").trim());
}

async function undoFlip() {
  const { version, change } = session.undo ?? {};
  if (version === undefined) return;
  const { until, ...rest } = change;
  const left = until === undefined || until === null ? null : Math.round(until - storeNow());
  const sent = left === null ? rest : left > 0 ? { ...rest, for_seconds: left } : { mode: "normal" };
  const where = el("flip").open ? "flip-error" : "mode-note";
  write(where, "");
  try {
    await ask("PUT", "mode", { ...sent, reason: "undo" }, { "If-Match": `"${version}"` });
    session.undo = null;
    el("flip").close();
    say("Undone.");
  } catch (error) {
    if (error.status === 412) session.undo = null;
    show("flip-undo", session.undo !== null);
    write(where, overtaken(error).replace(" If you still want it, press again.", ""));
  }
}

// --- the deny list

async function deny(event) {
  event.preventDefault();
  const cidr = el("deny-cidr").value.trim();
  const body = { for_seconds: Math.round(Number(el("deny-minutes").value) * 60), reason: el("deny-reason").value.trim() };
  if (!/^[0-9A-Fa-f:.]+(\/\d{1,3})?$/.test(cidr)) return denied(`“${cidr}” is no network: write it like 203.0.113.0/24.`);
  try {
    const entry = await putDeny(cidr, body);
    denied(`Denied ${entry.cidr} for ${span(body.for_seconds)}, on every worker.`, () => ask("DELETE", `deny/${entry.cidr}`), `${entry.cidr} is no longer denied.`);
    el("deny-form").reset();
    el("deny-cidr").focus();
  } catch (error) {
    denied(error.message);
  }
}

/** Deny a network; if it contains the operator's own address, only once that is confirmed. */
async function putDeny(cidr, body) {
  try {
    return await ask("PUT", `deny/${cidr}`, body);
  } catch (error) {
    const told = error.message.replace(/ To deny it all the same:.*/, "");
    if (told === error.message) throw error;
    if (!confirm(`${told} You may be locked out until it ends. Deny it all the same?`)) throw new Error(`${told} Nothing was denied.`);
    return ask("PUT", `deny/${cidr}`, { ...body, force: true });
  }
}

async function undeny(entry) {
  try {
    await ask("DELETE", `deny/${entry.cidr}`);
    const seconds = Math.min(entry.seconds_left, Math.floor(entry.until - storeNow()));
    const left = { for_seconds: Math.max(1, seconds), reason: entry.reason };
    denied(`${entry.cidr} is no longer denied.`, () => putDeny(entry.cidr, left), `Denied ${entry.cidr} again.`);
  } catch (error) {
    denied(error.message);
  }
}

/** Say what was done, and offer to undo it. */
function denied(says, undo = null, saysUndone = "") {
  write("deny-note", says);
  session.denyUndo = undo === null ? null : { undo, saysUndone };
  show("deny-undo", undo !== null);
}

async function undoDeny() {
  const { undo, saysUndone } = session.denyUndo ?? {};
  if (!undo) return;
  try {
    await undo();
    denied(saysUndone);
  } catch (error) {
    denied(error.message);
  }
}

// --- a line for the chat

function chatLine({ status, members, obedience }) {
  const mode = status.mode === "emergency" ? `EMERGENCY until ${clock(status.until)} (${status.actor}${status.reason ? `: ${status.reason}` : ""})` : "normal mode";
  const served = { yes: `members are served${members.percent === null ? "" : ` (${percent(members.percent)})`}`, no: `members are NOT served: ${members.why}`, idle: "no member asks" }[members.served];
  const seats = `${counted(status.seats.host + status.seats.member, "member")} and ${counted(status.seats.guest, "guest")} on${status.capacity === null ? "" : `, ${number(status.capacity)} seats`}`;
  const all = obedience.follow + obedience.behind.length;
  const workers = all ? `; ${obedience.follow} of ${counted(all, "worker")} follow` : "";
  return `${clock(status.now)} ${mode}; ${served}; ${seats}${workers}${status.store === "up" ? "" : "; the store is away"}.`;
}

async function copyLine() {
  const line = chatLine(session.state);
  try {
    await navigator.clipboard.writeText(line);
    note("Copied");
  } catch {
    globalThis.prompt("Copy this line:", line); // no permission, or no HTTPS
  }
}

function note(text) {
  write("copy", text);
  say(text);
  setTimeout(() => write("copy", "Copy for the chat"), 1500);
}

// --- the page

function redrawCharts() {
  for (const chart of [listeners, traffic]) {
    if (chart.plot) chart.plot.destroy();
    chart.plot = null;
    if (session.state && chart.data[0].length) chart.draw();
  }
}

write("place", location.host);
el("sign-in-form").addEventListener("submit", signIn);
el("sign-out").addEventListener("click", () => signedOut("You are signed out."));
el("retry").addEventListener("click", () => session.stream && session.stream.wake());
el("copy").addEventListener("click", copyLine);
el("to-emergency").addEventListener("click", () => openFlip("emergency"));
el("to-other").addEventListener("click", () => openFlip("emergency"));
el("to-normal").addEventListener("click", () => openFlip("normal"));
el("undo").addEventListener("click", undoFlip);
el("flip-undo").addEventListener("click", undoFlip);
el("flip-close").addEventListener("click", () => el("flip").close());
el("flip-form").addEventListener("submit", doFlip);
el("flip-fields").addEventListener("input", () => { clearTimeout(flip.timer); flip.timer = setTimeout(preview, 250); });
el("flip").addEventListener("close", () => clearTimeout(flip.timer));
el("deny-form").addEventListener("submit", deny);
el("deny-undo").addEventListener("click", undoDeny);
setInterval(() => session.goneSince !== null && gone(), 1000);
new ResizeObserver(() => { listeners.resize(); traffic.resize(); }).observe(el("board"));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redrawCharts);
document.addEventListener("visibilitychange", () => !document.hidden && session.state && redrawCharts());
icon("", "#6b7280");
el("token").focus();
