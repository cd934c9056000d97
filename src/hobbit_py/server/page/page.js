"use strict";

const POLL_MS = 500;
const N_SAMPLES = 240; // two minutes
const STATES = ["absent", "loading", "low precision", "high precision"];
const COLOURS = ["--absent", "--loading", "--lo", "--hi"];

const byId = (id) => document.getElementById(id);
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

let apiKey = "";

function ask(path, options = {}) {
  const headers = { "Content-Type": "application/json" };
  if (apiKey) {
    headers.Authorization = `Bearer ${apiKey}`;
  }
  return fetch(path, { ...options, headers });
}

function askForKey() {
  if (byId("key-form").hidden) {
    byId("key-form").hidden = false;
    byId("key").focus();
  }
}

byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  apiKey = byId("key").value;
  byId("key-form").hidden = true;
  byId("message").focus();
  poll();
});

// The chat

let messages = []; // of the conversation; replaced when a new one begins
let running = null; // AbortController of the answer in progress

function addTurn(who, text) {
  const turn = document.createElement("div");
  turn.className = "turn";
  const name = document.createElement("b");
  name.textContent = who;
  const body = document.createElement("span");
  body.textContent = text;
  turn.append(name, body);
  byId("log").append(turn);
  byId("log").scrollTop = byId("log").scrollHeight;
  return body;
}

// The chunks of an answer, as they come: server-sent events, each one line "data: JSON" and an empty line.
async function* chunksOf(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let pending = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) {
      return;
    }
    const events = (pending + value).split("\n\n");
    pending = events.pop();
    for (const event of events) {
      const data = event.replace(/^data: /, "");
      if (data !== "[DONE]") {
        yield JSON.parse(data);
      }
    }
  }
}

async function answer(body) {
  const response = await ask("/v1/chat/completions", {
    method: "POST",
    body: JSON.stringify({ messages, stream: true }),
    signal: running.signal,
  });
  if (!response.ok) {
    if (response.status === 401) {
      askForKey();
    }
    throw new Error((await response.json()).error.message);
  }
  for await (const chunk of chunksOf(response)) {
    if (chunk.error) {
      throw new Error(chunk.error.message);
    }
    const log = byId("log");
    const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
    body.textContent += chunk.choices[0].delta.content ?? "";
    if (atEnd) {
      log.scrollTop = log.scrollHeight;
    }
  }
}

function setRunning(controller) {
  running = controller;
  byId("send").disabled = controller !== null;
  byId("stop").disabled = controller === null;
}

async function send(text) {
  const conversation = messages;
  conversation.push({ role: "user", content: text });
  addTurn("You", text);
  const body = addTurn("Model", "");
  setRunning(new AbortController());
  try {
    await answer(body);
    byId("announcer").textContent = body.textContent; // at once: a screen reader cannot follow the pieces
  } catch (error) {
    if (error.name !== "AbortError") {
      body.parentElement.classList.add("failed");
      body.textContent += `\n${error.message}`;
      byId("announcer").textContent = `The answer failed: ${error.message}`;
    } else {
      byId("announcer").textContent = "Stopped.";
    }
  }
  if (body.parentElement.classList.contains("failed") || body.textContent === "") {
    conversation.pop(); // the question can be asked again
  } else {
    conversation.push({ role: "assistant", content: body.textContent });
  }
  setRunning(null);
}

function submit() {
  const text = byId("message").value.trim();
  if (text && running === null) {
    byId("message").value = "";
    send(text);
  }
}

byId("chat-form").addEventListener("submit", (event) => {
  event.preventDefault();
  submit();
});
byId("message").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    submit();
  }
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && running !== null) {
    running.abort();
  }
});
byId("stop").addEventListener("click", () => {
  running?.abort();
  byId("message").focus();
});
byId("clear").addEventListener("click", () => {
  running?.abort();
  messages = [];
  byId("log").replaceChildren();
  byId("message").focus();
});

// The heat map

let state = null;
const cursor = { row: 0, column: 0 };

function drawHeat() {
  const heat = byId("heat");
  const rows = state.layers;
  const n_columns = Math.max(1, ...rows.map((row) => row.length));
  heat.hidden = rows.length === 0;
  if (heat.hidden) {
    return;
  }
  // A cell is a few device pixels, with a gap of one where there is room for it.
  const ratio = window.devicePixelRatio || 1;
  const size = Math.max(2, Math.min(24, Math.floor((heat.clientWidth * ratio) / n_columns)));
  const gap = size >= 6 ? 1 : 0;
  heat.width = size * n_columns;
  heat.height = size * rows.length;
  heat.style.width = `${heat.width / ratio}px`;
  const context = heat.getContext("2d");
  const fills = COLOURS.map(colour);
  rows.forEach((row, y) => {
    for (let x = 0; x < row.length; x++) {
      context.fillStyle = fills[row[x]];
      context.fillRect(x * size, y * size, size - gap, size - gap);
    }
  });
  if (document.activeElement === heat) {
    context.strokeStyle = colour("--accent");
    context.lineWidth = Math.max(2, size / 6);
    context.strokeRect(cursor.column * size, cursor.row * size, size, size);
  }
}

function tellCell() {
  const row = state.layers[cursor.row];
  byId("cell").textContent = `Layer ${state.layer_idxs[cursor.row]}, expert ${cursor.column}: ${STATES[row[cursor.column]]}.`;
}

function moveTo(row, column) {
  if (state === null || state.layers.length === 0) {
    return;
  }
  cursor.row = Math.max(0, Math.min(state.layers.length - 1, row));
  cursor.column = Math.max(0, Math.min(state.layers[cursor.row].length - 1, column));
  tellCell();
  drawHeat();
}

byId("heat").addEventListener("keydown", (event) => {
  const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
  const step = steps[event.key];
  if (step) {
    event.preventDefault();
    moveTo(cursor.row + step[0], cursor.column + step[1]);
  }
});
byId("heat").addEventListener("focus", () => moveTo(cursor.row, cursor.column));
byId("heat").addEventListener("blur", () => state && drawHeat());
byId("heat").addEventListener("pointermove", (event) => {
  const heat = byId("heat");
  if (state === null || state.layers.length === 0) {
    return;
  }
  const n_columns = Math.max(...state.layers.map((row) => row.length));
  const row = Math.floor((event.offsetY / heat.clientHeight) * state.layers.length);
  moveTo(row, Math.floor((event.offsetX / heat.clientWidth) * n_columns));
});

// The curves

const curves = { speed: [], hits: [], read: [] };

function sample(before, now, seconds) {
  const tokens = now.n_tokens - before.n_tokens;
  const hits = now.n_hits - before.n_hits;
  const wanted = hits + now.n_misses - before.n_misses;
  push("speed", (now.n_generated_tokens - before.n_generated_tokens) / seconds);
  // Nothing was wanted, nothing read: a gap in the curve.
  push("hits", wanted > 0 ? hits / wanted : null);
  push("read", tokens > 0 ? (now.read_bytes - before.read_bytes) / 1e9 / tokens : null);
}

function push(name, value) {
  curves[name].push(value);
  if (curves[name].length > N_SAMPLES) {
    curves[name].shift();
  }
}

const lastOf = (values) => values.findLast((value) => value !== null);

function drawCurve(name, text, top) {
  const values = curves[name];
  const last = lastOf(values);
  byId(`${name}-now`).textContent = last === undefined ? "–" : text(last);
  const canvas = byId(name);
  const ratio = window.devicePixelRatio || 1;
  canvas.width = canvas.clientWidth * ratio;
  canvas.height = canvas.clientHeight * ratio;
  const context = canvas.getContext("2d");
  const scale = top ?? Math.max(...values.map((value) => value ?? 0), 1e-9);
  context.strokeStyle = colour("--accent");
  context.lineWidth = 1.5 * ratio;
  context.beginPath();
  let pen = false;
  values.forEach((value, i) => {
    if (value === null) {
      pen = false;
      return;
    }
    const x = ((i + N_SAMPLES - values.length) / (N_SAMPLES - 1)) * canvas.width;
    const y = (1 - 0.92 * (value / scale) - 0.04) * canvas.height;
    pen ? context.lineTo(x, y) : context.moveTo(x - ratio, y);
    context.lineTo(x, y);
    pen = true;
  });
  context.stroke();
}

function draw() {
  if (state === null) {
    return;
  }
  const percent = (value) => `${Math.round(100 * value)} %`;
  const all = state.layers.join("");
  const n_here = [...all].filter((digit) => digit >= "2").length;
  const waiting = state.n_waiting ? ` ${state.n_waiting} requests wait.` : "";
  byId("model").textContent = `${state.model}, ${state.precision}`;
  byId("summary").textContent = all
    ? `${n_here} of ${all.length} experts, ${(state.resident_bytes / 1e9).toFixed(2)} of ${(state.expert_memory_bytes / 1e9).toFixed(2)} GB.${waiting}`
    : `This model has no experts.${waiting}`;
  drawHeat();
  drawCurve("speed", (value) => `${value.toFixed(1)} tok/s`);
  drawCurve("hits", percent, 1);
  drawCurve("read", (value) => `${value.toFixed(3)} GB per token`);
}

// What the page shows is asked for, again and again, while it can be seen.

let time = 0;
let timer = 0;

async function poll() {
  clearTimeout(timer);
  try {
    const response = await ask("/state");
    if (response.ok) {
      const now = await response.json();
      const at = performance.now();
      if (state !== null && at - time < 5 * POLL_MS) {
        sample(state, now, (at - time) / 1000);
      }
      [state, time] = [now, at];
      byId("connection").textContent = "";
      draw();
    } else if (response.status === 401) {
      byId("connection").textContent = apiKey ? "The API key is wrong." : "This server asks for a key.";
      askForKey();
      return; // goes on with the key
    } else {
      byId("connection").textContent = `The server answers ${response.status}.`;
    }
  } catch {
    byId("connection").textContent = "The server does not answer.";
  }
  if (!document.hidden) {
    timer = setTimeout(poll, POLL_MS);
  }
}

document.addEventListener("visibilitychange", () => document.hidden || poll());
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
window.addEventListener("resize", draw);
poll();
byId("message").focus();
