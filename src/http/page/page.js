// The page of one door. Everything it shows comes from the JSON API; text is only ever put in as text.
"use strict";

const $ = (id) => document.getElementById(id);
const make = (tag, text, ...classes) => {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  element.classList.add(...classes.filter(Boolean));
  return element;
};
const svg = (tag, attributes = {}, text) => {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== undefined) element.textContent = text;
  return element;
};

let csrf = "";
let status = {};
let news = null;
let people = [];

class Problem extends Error {}

async function api(method, path, body, type = "application/json") {
  const headers = {};
  if (method !== "GET") headers["X-CSRF-Token"] = csrf;
  if (body !== undefined) headers["Content-Type"] = type;
  const payload = body === undefined || type !== "application/json" ? body : JSON.stringify(body);
  let response;
  try {
    response = await fetch(path, { method, headers, body: payload });
  } catch {
    throw new Problem("facelatch does not answer");
  }
  const answer = await response.json().catch(() => ({}));
  if (response.status === 401 && path !== "/api/login") begin();
  if (!response.ok) throw new Problem(answer.error || `the request failed (${response.status})`);
  return answer;
}

function complain(error) {
  if (!(error instanceof Problem)) console.error(error);
  $("message").textContent = error.message;
  $("message").hidden = false;
  clearTimeout(complain.timer);
  complain.timer = setTimeout(() => ($("message").hidden = true), 6000);
}

const quietly = (task) => task().catch(complain);

// Log in

async function begin() {
  stopLooking();
  const session = await api("GET", "/api/session").catch((error) => {
    complain(error);
    setTimeout(begin, 3000);
  });
  if (!session) return;
  csrf = session.csrf || "";
  $("login").hidden = session.authenticated;
  $("door").hidden = !session.authenticated;
  $("logout").hidden = !(session.authenticated && session.password);
  if (!session.authenticated) return $("password").focus();
  look();
  await quietly(refresh);
}

$("login-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  $("login-problem").textContent = "";
  try {
    await api("POST", "/api/login", { password: $("password").value });
    $("password").value = "";
    await begin();
  } catch (error) {
    $("login-problem").textContent = error.message;
  }
});

$("logout").addEventListener("click", () => quietly(async () => {
  await api("POST", "/api/logout");
  await begin();
}));

// The live view

function look() {
  stopLooking();
  if (document.hidden || $("door").hidden) return;
  $("picture").src = `/api/stream?${Date.now()}`;
  news = new EventSource("/api/live");
  news.addEventListener("faces", (event) => showFaces(JSON.parse(event.data)));
  news.addEventListener("event", (event) => happened(JSON.parse(event.data)));
  news.addEventListener("missed", () => quietly(loadVisits));
}

function stopLooking() {
  if (news) news.close();
  news = null;
  $("picture").removeAttribute("src");
}

$("picture").addEventListener("error", () => {
  if ($("picture").hasAttribute("src")) setTimeout(look, 2000);
});
document.addEventListener("visibilitychange", () => {
  if (document.hidden) return stopLooking();
  if (!$("door").hidden) {
    look();
    quietly(refresh);
  }
});

function showFaces({ width, height, faces }) {
  $("dark").hidden = true;
  $("screen").style.aspectRatio = `${width} / ${height}`;
  const overlay = $("overlay");
  overlay.setAttribute("viewBox", `0 0 ${width} ${height}`);
  overlay.replaceChildren();
  // So that writing is as large on a phone as on a screen.
  const unit = width / Math.max(overlay.clientWidth, 1);
  for (const face of faces) {
    const [x1, y1, x2, y2] = face.bounding_box;
    const group = svg("g", { class: face.state });
    group.append(svg("rect", { class: "box", x: x1, y: y1, width: x2 - x1, height: y2 - y1, rx: 8 * unit }));
    for (const [x, y] of face.landmarks) group.append(svg("circle", { cx: x, cy: y, r: 2.5 * unit }));
    const distance = face.distance === null ? "" : ` ${face.distance.toFixed(2)}`;
    const text = svg("text", { "font-size": 15 * unit }, (face.name || (face.state === "unknown" ? "unknown" : "…")) + distance);
    overlay.append(group);
    group.append(text);
    const [w, h] = [text.getBBox().width + 14 * unit, 24 * unit];
    const [x, y] = [Math.min(Math.max(x1, 0), Math.max(width - w, 0)), Math.max(y1 - h - 4 * unit, 0)];
    group.insertBefore(svg("rect", { class: "label", x, y, width: w, height: h, rx: 6 * unit }), text);
    text.setAttribute("x", x + 7 * unit);
    text.setAttribute("y", y + 17 * unit);
  }
  listFaces(faces);
}

function listFaces(faces) {
  const list = $("faces");
  const known = new Map([...list.children].map((item) => [item.dataset.track, item]));
  const items = faces.map((face) => {
    const item = known.get(String(face.track)) || newFace(face.track);
    item.className = face.state;
    const limit = face.distance === null ? "" : ` · ${face.distance.toFixed(2)} of ${face.limit.toFixed(2)}`;
    item.querySelector("b").textContent = face.name || (face.state === "unknown" ? "Unknown" : "Somebody");
    item.querySelector("small").textContent = ` ${face.text}${limit}`;
    return item;
  });
  if (items.length === 0) items.push(make("li", "Nobody in view", "none"));
  list.replaceChildren(...items);
}

function newFace(track) {
  const item = make("li");
  item.dataset.track = track;
  const line = make("span");
  const button = make("button", "This is …", "quiet");
  line.append(make("b"), make("small"));
  item.append(line, button);
  button.addEventListener("click", () => ask({
    title: "Who is this?",
    text: "Look into the camera: three good looks are taken, which is done in a few seconds.",
    name: true,
    yes: "Enrol",
    act: async (name) => verdicts(await api("POST", `/api/faces/${track}/name`, { name })),
  }));
  return item;
}

function verdicts({ name, verdicts }) {
  quietly(refresh);
  const taken = verdicts.filter((verdict) => verdict.enrolled);
  const lines = verdicts.map((verdict) => verdict.enrolled
    ? make("li", `✓ ${verdict.enrolled}`, "good")
    : make("li", `✗ ${verdict.refused}`, "bad"));
  const title = taken.length ? `${name} is enrolled` : `${name} could not be enrolled`;
  return { title, lines };
}

function happened(event) {
  const [kind, detail] = kindOf(event);
  if (kind === "granted") decide(`${detail.name} ${detail.pulsed ? "let in" : "counted in"} · ${detail.distance.toFixed(2)}`, "known");
  if (kind === "denied") decide(`Nobody let in: ${detail.reason}`, "unknown");
  if (kind === "opened") decide("The door was opened by hand", "known");
  quietly(loadVisits);
  if (["enrolled", "forgotten", "renamed"].includes(kind)) later(refresh);
  if (kind === "denied") later(loadUnknown);
  if (kind === "granted") [loadPeople, loadDay].forEach(later);
  if (["granted", "camera_lost", "camera_back", "folder_lost", "folder_back", "opened", "relay_stuck", "relay_freed"].includes(kind)) later(loadStatus);
}

// Several events at once lead to one request.
const due = new Map();
function later(task) {
  clearTimeout(due.get(task));
  due.set(task, setTimeout(() => quietly(task), 500));
}

function decide(text, state) {
  const banner = $("decision");
  banner.textContent = text;
  banner.className = `shown ${state}`;
  clearTimeout(decide.timer);
  decide.timer = setTimeout(() => (banner.className = state), 5000);
}

// Lists

const kindOf = ({ kind }) => (typeof kind === "string" ? [kind, {}] : Object.entries(kind)[0]);
const clock = (ms) => new Date(ms).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
const when = (ms) => {
  const today = new Date().toDateString() === new Date(ms).toDateString();
  return today ? clock(ms) : `${new Date(ms).toLocaleDateString([], { day: "numeric", month: "short" })} ${clock(ms)}`;
};

const TOLD = {
  granted: (d) => ["✓", d.name, `${d.pulsed ? "let in" : "counted in"}, distance ${d.distance.toFixed(2)}, ${d.frames} frames`],
  denied: (d) => ["✗", "Nobody let in", d.reason],
  opened: (d) => ["→", "Opened by hand", d.by],
  camera_lost: (d) => ["!", "Camera lost", d.problem],
  camera_back: () => ["✓", "Camera back", ""],
  denied_more: (d) => ["✗", "Nobody let in", `${d.count} more times, not listed one by one`],
  store_damaged: (d) => ["!", "The store was damaged", d.problem],
  folder_lost: (d) => ["!", "Enroll folder lost", d.problem],
  folder_back: () => ["✓", "Enroll folder back", ""],
  clock_set: () => ["·", "The clock was set", ""],
  shut_out: (d) => ["!", "Not let in", d.reason],
  relay_stuck: (d) => ["!", "Relay stuck", d.problem],
  relay_freed: () => ["✓", "Relay released", ""],
  refused: (d) => ["–", `Picture refused`, `${d.picture}: ${d.reason}`],
};

async function loadVisits() {
  const { events } = await api("GET", "/api/events?limit=60");
  const rows = events.reverse().map((event) => {
    const [kind, detail] = kindOf(event);
    if (!TOLD[kind]) return null;
    const [mark, title, text] = TOLD[kind](detail);
    const row = make("li", undefined, kind);
    const time = make("time", when(event.at_ms));
    row.append(make("span", mark, "mark"), make("b", title), time, make("small", text));
    return row;
  });
  const shown = rows.filter(Boolean).slice(0, 12);
  $("visit-list").replaceChildren(...(shown.length ? shown : [make("li", "No visit yet", "dim")]));
}

async function loadPeople() {
  people = (await api("GET", "/api/people")).people;
  const calibration = await api("GET", "/api/calibration");
  const weak = new Map(calibration.weak.map((weakness) => [weakness.person, weakness]));
  $("people-list").replaceChildren(...people.map((person) => {
    const row = make("li");
    const enough = person.pictures >= 3 && !weak.has(person.name);
    const dots = make("span", "●".repeat(Math.min(person.pictures, 5)), "dots", enough ? "" : "few");
    dots.title = `${person.pictures} pictures`;
    const seen = person.last_seen_ms === null ? "not seen yet" : `seen ${when(person.last_seen_ms)}`;
    row.append(make("b", person.name), dots);
    row.append(make("small", `${person.pictures} ${person.pictures === 1 ? "picture" : "pictures"}, smallest face ${person.smallest_face_px} px, ${seen}`));
    const weakness = weak.get(person.name);
    person.advice.forEach((advice) => row.append(make("small", advice, "remedy")));
    if (weakness) row.append(make("small", `${weakness.problem}: ${weakness.remedy}`, "remedy"));
    return row;
  }));
  if (!people.length) $("people-list").append(make("li", "Nobody is enrolled yet: stand before the camera and say who you are, or add a picture.", "dim"));
  $("names").replaceChildren(...people.map((person) => {
    const option = make("option");
    option.value = person.name;
    return option;
  }));
  showThreshold(calibration);
}

function showThreshold(calibration) {
  const rate = status.false_match_rate;
  const sure = rate
    ? `Of ${Math.round(1 / rate).toLocaleString()} strangers who come to this door, one may be taken for somebody.`
    : "How many strangers would be taken for somebody was not measured for this distance.";
  const basis = status.limit_basis ? ` This limit is ${status.limit_basis}.` : "";
  $("threshold-text").textContent = people.length
    ? `A face is taken for a person when it is at most ${calibration.limit.toFixed(2)} away from that person's pictures. ${sure}${basis}`
    : "With nobody enrolled, nobody is let in.";
  const chart = $("distances");
  const [same, other] = [calibration.genuine_distances, calibration.impostor_distances];
  chart.replaceChildren();
  chart.classList.toggle("empty", !people.length);
  const [bins, width, bottom] = [same.length, 600, 145];
  const x = (distance) => (distance / (bins * 0.02)) * width;
  for (const [counts, name] of [[other, "other"], [same, "same"]]) {
    const most = Math.max(...counts, 1);
    const points = counts.map((count, i) => `L${x(i * 0.02)} ${bottom - (count / most) * 125}H${x((i + 1) * 0.02)}`);
    chart.append(svg("path", { class: name, d: `M0 ${bottom}${points.join("")}V${bottom}Z` }));
  }
  chart.append(svg("line", { class: "axis", x1: 0, x2: width, y1: bottom, y2: bottom }));
  for (const tick of [0, 0.6, 1.2, 1.8]) {
    chart.append(svg("text", { x: x(tick) + (tick === 0 ? 0 : -9) - (tick === 1.8 ? 18 : 0), y: bottom + 18 }, tick.toFixed(1) + (tick === 1.8 ? "+" : "")));
  }
  chart.append(svg("line", { x1: x(calibration.limit), x2: x(calibration.limit), y1: 8, y2: bottom }));
  const risks = calibration.at_risk.slice(0, 3).map((risk) => make("li", `${risk.picture} could be taken for ${risk.person} (${risk.distance.toFixed(2)})`));
  $("weak").replaceChildren(...risks);
}

async function loadUnknown() {
  $("unknown").hidden = !status.keeps_unknown;
  if (!status.keeps_unknown) return;
  const { faces } = await api("GET", "/api/unknown");
  $("unknown-list").replaceChildren(...faces.map((face) => {
    const tile = make("li");
    const picture = make("img");
    picture.src = `/api/unknown/${face.id}/pictures/0`;
    picture.alt = "An unknown face";
    picture.loading = "lazy";
    const visits = face.visits === 1 ? "one visit" : `${face.visits} visits`;
    const nearest = face.nearest ? `, nearest ${face.nearest} ${face.distance.toFixed(2)}` : "";
    const row = make("div", undefined, "row");
    const name = make("button", "Name", "quiet");
    const forget = make("button", "Forget", "quiet");
    name.addEventListener("click", () => ask({
      title: "Name this person",
      text: "The pictures go into the enroll folder and are judged like any others.",
      picture: picture.src,
      name: true,
      yes: "Enrol",
      act: async (text) => verdicts(await api("POST", `/api/unknown/${face.id}/name`, { name: text })),
    }));
    forget.addEventListener("click", () => quietly(async () => {
      await api("DELETE", `/api/unknown/${face.id}`);
      await loadUnknown();
    }));
    row.append(name, forget);
    tile.append(picture, make("small", `${visits}, last ${when(face.last_ms)}${nearest}`), row);
    return tile;
  }));
  if (!faces.length) $("unknown-list").append(make("li", "Nobody unknown came to the door.", "dim"));
}

async function loadStatus() {
  status = await api("GET", "/api/status");
  document.title = `facelatch · ${location.hostname}`;
  const lights = [
    ["camera", status.camera_ok],
    [status.mode === "unlock" ? (status.relay_active ? "door released" : "door locked") : "attendance", !status.relay_problem],
  ];
  $("lights").replaceChildren(...lights.map(([text, good]) => make("li", text, good ? "good" : "bad")));
  $("open").hidden = !(status.can_open && status.mode === "unlock");
  $("dark").hidden = status.camera_ok;
  const counters = status.counters;
  const hours = Math.floor(status.uptime_s / 3600);
  const rows = [
    ["Camera", status.camera_ok ? status.camera : `lost: ${status.camera}`],
    ["Relay", `${status.relay}${status.relay_problem ? `, stuck: ${status.relay_problem}` : status.relay_active ? ", active" : ""}`],
    ["Model", status.model],
    ["Calculated as", status.precision],
    ["Enrolled", status.enroll_problem || `${status.people} people, ${status.templates} pictures`],
    ...status.problems.map((problem) => ["Not let in", problem]),
    ...status.advice.map((advice) => ["To better", advice]),
    ["Frames", `${(counters.frames || 0).toLocaleString()} seen, ${counters.frames_dropped || 0} left out, ${counters.frames_broken || 0} broken, ${counters.frames_torn || 0} torn, ${counters.frames_late || 0} late`],
    ["Decided", `${counters.granted || 0} let in, ${counters.denied || 0} not`],
    ["Events lost", counters.events_lost || 0],
    ["Running for", hours ? `${hours} h ${Math.floor((status.uptime_s % 3600) / 60)} min` : `${Math.floor(status.uptime_s / 60)} min`],
    ["Version", status.version],
  ];
  $("health-list").replaceChildren(...rows.flatMap(([name, value]) => [make("dt", name), make("dd", value)]));
}

// Attendance

const iso = (date) => `${date.getFullYear()}-${String(date.getMonth() + 1).padStart(2, "0")}-${String(date.getDate()).padStart(2, "0")}`;
const lasting = (seconds) => `${Math.floor(seconds / 3600)}:${String(Math.floor((seconds % 3600) / 60)).padStart(2, "0")}`;

async function loadDay() {
  // A day may begin at another hour than midnight: the door knows which one it is.
  if (!$("day").value) $("day").value = (await api("GET", "/api/attendance")).to;
  const day = $("day").value;
  $("csv").href = `/api/attendance.csv?from=${day.slice(0, 8)}01&to=${day}`;
  const { days } = await api("GET", `/api/attendance?from=${day}&to=${day}`);
  $("day-list").replaceChildren(...days.map((entry) => {
    const row = make("tr");
    const cells = [entry.person, entry.first_in, entry.last_out, entry.visits, entry.present_s === null ? "" : lasting(entry.present_s)];
    row.append(...cells.map((cell) => make("td", cell === null ? "" : /T/.test(cell) && cell.length > 15 ? cell.slice(11, 16) : cell)));
    return row;
  }));
  if (!days.length) {
    const cell = make("td", "Nobody was counted on this day.", "dim");
    cell.colSpan = 5;
    const row = make("tr");
    row.append(cell);
    $("day-list").append(row);
  }
}

function turnDay(by) {
  const [year, month, day] = $("day").value.split("-").map(Number);
  $("day").value = iso(new Date(year, month - 1, day + by));
  quietly(loadDay);
}
$("day").addEventListener("change", () => quietly(loadDay));
$("day-before").addEventListener("click", () => turnDay(-1));
$("day-after").addEventListener("click", () => turnDay(1));

async function refresh() {
  await loadStatus();
  await Promise.all([loadVisits(), loadPeople(), loadUnknown(), loadDay()]);
}
setInterval(() => {
  if (!document.hidden && !$("door").hidden) loadStatus().catch(() => {});
}, 5000);

// Questions

function ask({ title, text, name, yes, picture, danger, act }) {
  const dialog = $("ask");
  $("ask-title").textContent = title;
  $("ask-text").textContent = text;
  $("ask-label").hidden = !name;
  $("ask-name").required = !!name;
  $("ask-name").value = "";
  $("ask-picture").hidden = !picture;
  if (picture) $("ask-picture").src = picture;
  $("ask-result").replaceChildren();
  $("ask-yes").textContent = yes;
  $("ask-yes").className = danger ? "danger" : "";
  $("ask-yes").disabled = false;
  $("ask-yes").hidden = false;
  $("ask-no").textContent = "Cancel";
  ask.act = act;
  dialog.showModal();
}

$("ask-no").addEventListener("click", () => $("ask").close());
$("ask").querySelector("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const button = $("ask-yes");
  button.disabled = true;
  button.textContent = "…";
  try {
    const result = await ask.act($("ask-name").value.trim());
    if (!result) return $("ask").close();
    $("ask-title").textContent = result.title;
    $("ask-text").textContent = "";
    $("ask-label").hidden = true;
    $("ask-result").replaceChildren(...result.lines);
  } catch (error) {
    $("ask-result").replaceChildren(make("li", error.message, "bad"));
  }
  button.hidden = true;
  $("ask-no").textContent = "Close";
});

$("open").addEventListener("click", () => ask({
  title: "Open the door now?",
  text: "The relay is pulsed once. It is recorded that it was done from the page.",
  yes: "Open",
  danger: true,
  act: async () => void (await api("POST", "/api/open")),
}));

$("add-file").addEventListener("change", () => quietly(async () => {
  const [file, name] = [$("add-file").files[0], $("add-name").value.trim()];
  $("add-file").value = "";
  if (!file) return;
  if (!name) throw new Problem("Say first whose picture it is");
  await api("POST", `/api/people/${encodeURIComponent(name)}/pictures?file=${encodeURIComponent(file.name)}`, file, file.type);
  $("add-name").value = "";
  await refresh();
}));

begin();
