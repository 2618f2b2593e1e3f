// The page of the daemon: looks at one session by the API, and lays the operator's hand on it. No dependencies.

const LOOK_EVERY_MS = 1000;
const PLOTTED_S = 600;
const MOST_LINES = 200;
// A look takes milliseconds; closing an output a few seconds; an event stream without events has a comment every 15 s.
const LOOKED_WITHIN_MS = 5000;
const DONE_WITHIN_MS = 40_000;
const SILENT_MS = 40_000;

const $ = (id) => document.getElementById(id);
let token = sessionStorage.getItem("token") ?? "";
let name = "";
let follow = new AbortController();
// The newest event that has been heard of.
let last = "";

// ------------------------------------------------------------------------------------------ the API

class Refused extends Error {
  constructor(status, detail) { super(detail); this.status = status; }
}

function request(path, options = {}) {
  const headers = { ...options.headers };
  if (token) headers.Authorization = `Bearer ${token}`;
  return fetch(path, { ...options, headers });
}

async function call(method, path, body) {
  const options = { method, signal: AbortSignal.timeout(method === "GET" ? LOOKED_WITHIN_MS : DONE_WITHIN_MS) };
  if (body !== undefined) Object.assign(options, { body: JSON.stringify(body), headers: { "Content-Type": "application/json" } });
  const answer = await request(`v1/${path}`, options);
  if (answer.ok) return answer.status === 204 ? null : answer.json();
  const problem = await answer.json().catch(() => ({}));
  throw new Refused(answer.status, problem.detail ?? `HTTP ${answer.status}`);
}

const of = (path) => `sessions/${encodeURIComponent(name)}/${path}`;

// A button's deed: what goes wrong is said.
const deed = (work) => async (event) => {
  event?.preventDefault?.();
  try { await work(event); trouble("deed", ""); } catch (error) { trouble("deed", error.message); }
};

// What went wrong with the last deed stays until the next one; what looking finds, until the next look.
const troubles = { deed: "", look: "" };

function trouble(where, text) {
  troubles[where] = text;
  $("trouble").textContent = Object.values(troubles).filter(Boolean).join(" \u00b7 ");
  $("trouble").hidden = !$("trouble").textContent;
}

// ------------------------------------------------------------------------------------------ looking

// One look after the other: a daemon that hangs is not asked ever more often.
async function keepLooking() {
  for (;;) { await look(); await pause(LOOK_EVERY_MS); }
}

async function look() {
  try {
    const sessions = await call("GET", "sessions");
    $("sign-in").hidden = true;
    chooseAmong(sessions);
    const session = sessions.find((each) => each.name === name);
    if (session) show(session);
    else showNone();
  } catch (error) {
    if (error.status === 401) $("sign-in").hidden = false;
    badge("state", error.status ? "not allowed" : "daemon not reached", "bad");
    trouble("look", error.status && error.status !== 401 ? error.message : "");
  }
}

function chooseAmong(sessions) {
  const names = sessions.map((session) => session.name);
  if ([...$("session").options].map((option) => option.value).join() !== names.join()) {
    $("session").replaceChildren(...names.map((each) => new Option(each)));
    choose(names.includes(name) ? name : names[0] ?? "");
  }
}

function choose(wanted) {
  if (wanted === name) return;
  name = $("session").value = wanted;
  last = "";
  $("transcript").replaceChildren();
  Object.values(plots).forEach((plot) => plot.clear());
  attend();
}

// Be there for the session that is chosen, from now on; it may have been chosen before.
function attend() {
  follow.abort();
  follow = new AbortController();
  $("preview").srcObject = null;
  if (!name) return;
  recall(follow.signal);
  keepWatching(follow.signal);
  keepFollowing(follow.signal);
}

// What nobody has looked at; where it cannot be had, plots begin now.
async function recall(signal) {
  const trend = await call("GET", of("trend")).catch(() => null);
  if (!trend || signal.aborted) return;
  const past = (column, scale = 1) => trend.age_s.map((age_s, i) => [age_s, column[i] === null ? null : column[i] * scale]);
  plots.latency.recall(past(trend.added_latency_p99_s, 1000));
  plots.offset.recall(past(trend.av_offset_s, 1000));
  plots.rate.recall(past(trend.video_bps, 1e-6));
  plots.fps.recall(past(trend.fps));
  plots.freezes.recall(past(trend.freezes));
  plots.queue.recall(past(trend.queue_s, 1000));
}

function badge(id, text, kind = "") {
  $(id).textContent = text;
  $(id).className = `badge ${kind}`;
  $(id).hidden = !text;
}

const GOOD = { live: "good", publishing: "good", playing: "good", connecting: "warn", reconnecting: "warn", backing_off: "warn", held: "warn", slate: "warn", failed: "bad", rejected: "bad" };

function show(session) {
  const { media } = session;
  badge("state", session.state, GOOD[session.state]);
  const why = session.slate_reason || session.slate_cause;
  badge("on-air", `on air: ${session.on_air}${why ? ` (${why})` : ""}${session.is_muted ? ", muted" : ""}`, GOOD[session.on_air]);
  trouble("look", session.error);
  $("mute").ariaPressed = session.is_muted;
  $("slate").ariaPressed = Boolean(session.slate_reason);
  const can = new Set(session.capabilities);
  $("interrupt").disabled = !can.has("interrupt");
  for (const field of $("say").elements) field.disabled = !can.has("say");
  const microphone = session.inputs.find((input) => input.protocol === "whip");
  $("talk").hidden = !microphone;
  $("talk").dataset.input = microphone?.name ?? "";
  $("inputs").replaceChildren(...session.inputs.map(inputRow));
  keepRows($("outputs"), session.outputs, outputRow);
  plots.latency.add(ms(media.added_latency_p99_s));
  plots.offset.add(ms(media.av_offset_s));
  plots.rate.add(media.video_bps / 1e6);
  plots.fps.add(media.fps);
  plots.freezes.add(session.freezes);
  plots.queue.add(ms(Math.max(0, ...session.outputs.map((output) => output.queue_s))));
}

function showNone() {
  badge("state", "no session");
  badge("on-air", "");
  trouble("look", "");
  $("talk").hidden = true;
  $("inputs").replaceChildren();
  $("outputs").replaceChildren();
}

const ms = (s) => (s === null ? null : s * 1000);

function row(...cells) {
  const line = document.createElement("tr");
  for (const cell of cells) line.insertCell().append(...[cell].flat());
  return line;
}

function span(text, className = "") {
  const element = document.createElement("span");
  element.textContent = text;
  element.className = className;
  return element;
}

function withError(state, error) {
  const parts = [span(state.replace("_", " "), GOOD[state])];
  if (error) parts.push(document.createElement("br"), span(error, "error"));
  return parts;
}

function inputRow(input) {
  const meter = document.createElement("meter");
  Object.assign(meter, { min: -60, max: 0, high: -6, value: Math.max(-60, input.level_dbfs), title: `${input.level_dbfs.toFixed(0)} dBFS` });
  return row(input.name, withError(input.state, input.error), meter, `${(1000 * input.waiting_s).toFixed(0)} ms`);
}

// Rows with buttons are kept, so that focus and clicks are not lost once a second.
function keepRows(table, items, make) {
  const rows = new Map([...table.rows].map((each) => [each.dataset.name, each]));
  table.replaceChildren(...items.map((item) => make(item, rows.get(item.name))));
}

function outputRow(output, line) {
  if (!line) {
    const verbs = ["start", "stop", "restart"].map((verb) => {
      const button = Object.assign(document.createElement("button"), { type: "button", textContent: verb });
      button.addEventListener("click", deed(() => call("POST", of(`outputs/${encodeURIComponent(output.name)}/${verb}`))));
      return button;
    });
    line = row(`${output.name} (${output.protocol})`, "", "", "", verbs);
    line.dataset.name = output.name;
  }
  const isOff = ["stopped", "closed", "rejected"].includes(output.state);
  const [, state, sent, queue, verbs] = line.cells;
  state.replaceChildren(...withError(output.state, output.state === "publishing" ? "" : output.last_error));
  sent.textContent = `${(output.bytes_total / 1e6).toFixed(1)} MB`;
  queue.textContent = `${(1000 * output.queue_s).toFixed(0)} ms`;
  const [start, stop, restart] = verbs.children;
  start.disabled = !isOff;
  stop.disabled = restart.disabled = isOff;
  return line;
}

// ------------------------------------------------------------------------------------------ plots

class Plot {
  constructor(title, unit, digits) {
    this.unit = unit;
    this.digits = digits;
    this.figure = document.createElement("figure");
    this.figure.className = "plot";
    const caption = document.createElement("figcaption");
    caption.append(span(title), (this.newest = span("")));
    const picture = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    picture.setAttribute("preserveAspectRatio", "none");
    picture.setAttribute("viewBox", `0 0 ${PLOTTED_S} 100`);
    picture.append((this.line = document.createElementNS("http://www.w3.org/2000/svg", "polyline")));
    this.figure.append(caption, picture);
    $("plots").append(this.figure);
    this.clear();
  }

  clear() { this.points = []; this.value = null; this.draw(); }

  add(value) {
    if (value !== null) this.points.push([performance.now() / 1000, value]);
    this.value = value;
    this.draw();
  }

  // Values by their age, in place of what was seen up to the newest of them.
  recall(past) {
    const now_s = performance.now() / 1000;
    const since_s = now_s - Math.min(...past.map(([age_s]) => age_s));
    const known = past.filter(([, value]) => value !== null).map(([age_s, value]) => [now_s - age_s, value]);
    this.points = [...known, ...this.points.filter(([at_s]) => at_s > since_s)];
    this.draw();
  }

  draw() {
    const now_s = performance.now() / 1000;
    while (this.points.length && this.points[0][0] < now_s - PLOTTED_S) this.points.shift();
    const values = this.points.map((point) => point[1]);
    const low = Math.min(0, ...values), high = Math.max(...values, low + 1e-9);
    const x = (at_s) => PLOTTED_S - (now_s - at_s), y = (v) => 98 - (96 * (v - low)) / (high - low);
    this.line.setAttribute("points", this.points.map(([at_s, v]) => `${x(at_s).toFixed(1)},${y(v).toFixed(1)}`).join(" "));
    this.newest.textContent = this.value === null ? "" : `${this.value.toFixed(this.digits)} ${this.unit} (to ${high.toFixed(this.digits)})`;
  }
}

const plots = {
  latency: new Plot("Added latency, 99 %", "ms", 1),
  offset: new Plot("Sound before picture", "ms", 1),
  rate: new Plot("Video", "Mb/s", 2),
  fps: new Plot("Pictures", "a second", 1),
  freezes: new Plot("Freezes", "so far", 0),
  queue: new Plot("Longest queue", "ms", 0),
};

// ------------------------------------------------------------------------------------------ WebRTC

async function negotiate(peer, path, signal) {
  await peer.setLocalDescription();
  if (peer.iceGatheringState !== "complete") {
    await new Promise((resolve) => {
      peer.addEventListener("icegatheringstatechange", () => peer.iceGatheringState === "complete" && resolve());
      setTimeout(resolve, 500);
    });
  }
  const headers = { "Content-Type": "application/sdp" };
  const within = AbortSignal.any([signal, AbortSignal.timeout(DONE_WITHIN_MS)]);
  const answer = await request(path, { method: "POST", body: peer.localDescription.sdp, headers, signal: within });
  if (!answer.ok) {
    const problem = await answer.json().catch(() => ({}));
    throw new Refused(answer.status, problem.detail ?? `HTTP ${answer.status}`);
  }
  await peer.setRemoteDescription({ type: "answer", sdp: await answer.text() });
  return new URL(answer.headers.get("Location"), answer.url).pathname;
}

// The preview, again whenever it ends.
async function keepWatching(signal) {
  while (!signal.aborted) {
    try { await watch(signal); } catch { /* the session may not be on air yet */ }
    await pause(1000, signal);
  }
}

async function watch(signal) {
  const peer = new RTCPeerConnection();
  let location;
  try {
    peer.addTransceiver("video", { direction: "recvonly" });
    peer.addTransceiver("audio", { direction: "recvonly" });
    const stream = new MediaStream();
    peer.addEventListener("track", ({ track }) => { stream.addTrack(track); $("preview").srcObject = stream; });
    location = await negotiate(peer, `v1/${of("whep/preview")}`, signal);
    await new Promise((resolve) => {
      signal.addEventListener("abort", resolve);
      peer.addEventListener("connectionstatechange", () => ["failed", "closed", "disconnected"].includes(peer.connectionState) && resolve());
    });
  } finally {
    peer.close();
    if (location) request(location, { method: "DELETE", keepalive: true }).catch(() => {});
  }
}

let speaking = null;

async function startTalking() {
  if (speaking) return;
  $("talk").ariaPressed = true;
  const peer = new RTCPeerConnection();
  speaking = { peer, location: null, microphone: null };
  const mine = speaking;
  mine.microphone = await navigator.mediaDevices.getUserMedia({ audio: { echoCancellation: true } });
  for (const track of mine.microphone.getTracks()) peer.addTrack(track, mine.microphone);
  if (speaking !== mine) return hangUp(mine);
  mine.location = await negotiate(peer, `v1/${of(`whip/${encodeURIComponent($("talk").dataset.input)}`)}`, follow.signal);
  if (speaking !== mine) hangUp(mine);
}

function stopTalking() {
  $("talk").ariaPressed = false;
  if (speaking) hangUp(speaking);
  speaking = null;
}

function hangUp({ peer, location, microphone }) {
  peer.close();
  microphone?.getTracks().forEach((track) => track.stop());
  if (location) request(location, { method: "DELETE", keepalive: true }).catch(() => {});
}

// ------------------------------------------------------------------------------------------ events

const pause = (duration_ms, signal) => new Promise((resolve) => {
  const end = () => { clearTimeout(timer); signal?.removeEventListener("abort", end); resolve(); };
  const timer = setTimeout(end, duration_ms);
  signal?.addEventListener("abort", end);
});

// EventSource cannot carry a token, so the stream is read by hand.
async function keepFollowing(signal) {
  while (!signal.aborted) {
    const silent = new AbortController();
    let timer;
    const heard = () => { clearTimeout(timer); timer = setTimeout(() => silent.abort(), SILENT_MS); };
    try {
      heard();
      const headers = last ? { "Last-Event-ID": last } : {};
      const answer = await request(`v1/${of("events")}`, { headers, signal: AbortSignal.any([signal, silent.signal]) });
      if (answer.ok) {
        for await (const event of events(answer.body, heard)) { last = event.id ?? last; happened(event); }
      }
    } catch { /* it is tried again */ }
    clearTimeout(timer);
    await pause(2000, signal);
  }
}

async function* events(body, heard) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    heard();
    text += value;
    const blocks = text.split("\n\n");
    text = blocks.pop();
    for (const block of blocks) {
      const fields = Object.fromEntries(block.split("\n").map((line) => { const at = line.indexOf(": "); return [line.slice(0, at), line.slice(at + 2)]; }));
      if (fields.data) yield { type: fields.event, id: fields.id, data: JSON.parse(fields.data) };
    }
  }
}

let answer = null;

function happened({ type, data }) {
  switch (type) {
    case "user_transcript": line(data.text, "user", "You: "); break;
    case "response_started": answer = null; break;
    case "avatar_transcript_delta":
      answer ??= line("", "avatar", "Avatar: ");
      answer.append(data.text);
      $("transcript").scrollTop = $("transcript").scrollHeight;
      break;
    case "avatar_transcript":
      if (answer) answer.textContent = data.text ? `Avatar: ${data.text}` : answer.textContent;
      else line(data.text, "avatar", "Avatar: ");
      answer = null;
      break;
    case "tool_call": line(`${data.name} was asked for`, "note"); break;
    case "tool_result": line(`${data.name}: ${data.result}`, "note"); break;
    case "interrupted": line("interrupted", "note"); break;
    case "on_air": line(`on air: ${data.on_air} ${data.reason || data.cause}`, "note"); break;
    case "output": line(`${data.output}: ${data.state.replace("_", " ")} ${data.state === "publishing" ? "" : data.error}`, "note"); break;
    case "warning": case "ended": line(data.text, "note"); break;
  }
}

function line(text, className, who = "") {
  const item = document.createElement("li");
  item.className = className;
  item.textContent = who + text;
  $("transcript").append(item);
  while ($("transcript").children.length > MOST_LINES) $("transcript").firstChild.remove();
  $("transcript").scrollTop = $("transcript").scrollHeight;
  return item;
}

// ------------------------------------------------------------------------------------------ the operator's hand

$("session").addEventListener("change", () => choose($("session").value));
$("sign-in").addEventListener("submit", (event) => {
  event.preventDefault();
  token = $("token").value.trim();
  sessionStorage.setItem("token", token);
  $("token").value = "";
  look();
});
$("say").addEventListener("submit", deed(async () => {
  await call("POST", of("say"), { text: $("words").value });
  $("words").value = "";
}));
$("interrupt").addEventListener("click", deed(() => call("POST", of("interrupt"))));
$("mute").addEventListener("click", deed(() => call("POST", of("mute"), { on: $("mute").ariaPressed !== "true" })));
$("slate").addEventListener("click", deed(() => call("POST", of("slate"), { on: $("slate").ariaPressed !== "true", reason: "page" })));
$("listen").addEventListener("click", () => {
  const video = $("preview");
  video.muted = !video.muted;
  $("listen").textContent = video.muted ? "Unmute preview" : "Mute preview";
});

const talk = $("talk");
const isTalkKey = (event) => event.key === " " || event.key === "Enter";
const begin = deed(() => startTalking().catch((error) => { stopTalking(); throw error; }));
talk.addEventListener("pointerdown", (event) => { talk.setPointerCapture(event.pointerId); begin(event); });
talk.addEventListener("pointerup", stopTalking);
talk.addEventListener("pointercancel", stopTalking);
talk.addEventListener("keydown", (event) => isTalkKey(event) && !event.repeat && begin(event));
talk.addEventListener("keyup", (event) => isTalkKey(event) && stopTalking());
talk.addEventListener("blur", stopTalking);
addEventListener("pagehide", () => { follow.abort(); stopTalking(); });
// Back by the browser's history, as it was left: events go on after the last one that was heard of.
addEventListener("pageshow", (event) => event.persisted && attend());

keepLooking();
