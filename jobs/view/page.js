// The run page. What a model wrote is only ever put into the document as text.
"use strict";

const COLORS = ["#3b73e0", "#e0832b", "#2a9d4e", "#b14fc5", "#d2485a", "#1f9fb0", "#8d8f2b", "#7a6ff0", "#c0699a", "#6b8792"];
const POLL_MS = 2000;
const view = document.getElementById("view");
const state = document.getElementById("state");
let stamp = "";

// An element with attributes and children; strings become text nodes.
function make(tag, attributes = {}, ...children) {
  const svg = ["svg", "path", "line", "text", "rect"].includes(tag);
  const element = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") Object.assign(element.style, value);
    else element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

async function ask(path, query = {}) {
  const response = await fetch(`${path}?${new URLSearchParams(query)}`);
  if (response.status === 204) return null;
  const body = await response.json();
  if (!response.ok) throw new Error(body.detail);
  return body;
}

function number(value, digits = 2) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  return size !== 0 && (size < 0.01 || size >= 1e5) ? value.toExponential(1) : value.toFixed(digits);
}

// ---- curves

function ticks(low, high, count) {
  const step = 10 ** Math.floor(Math.log10((high - low) / count));
  const wide = [1, 2, 5, 10].map((m) => m * step).find((s) => (high - low) / s <= count) ?? 10 * step;
  const found = [];
  for (let at = Math.ceil(low / wide) * wide; at <= high + wide * 1e-6; at += wide) found.push(at);
  return found;
}

function short(value) {
  return Math.abs(value) >= 1e4 || (value !== 0 && Math.abs(value) < 1e-3) ? value.toExponential(0) : String(+value.toPrecision(3));
}

function range(values) {
  let low = Infinity, high = -Infinity;
  for (const value of values) if (Number.isFinite(value)) { low = Math.min(low, value); high = Math.max(high, value); }
  if (low > high) return [0, 1];
  return low === high ? [low - 0.5, high + 0.5] : [low, high];
}

function chart(panel) {
  const [width, height, left, bottom, top] = [360, 190, 40, 20, 6];
  const [x0, x1] = range(panel.lines.flatMap((line) => [line.steps[0], line.steps[line.steps.length - 1]]));
  const [y0, y1] = range(panel.lines.flatMap((line) => line.values));
  const x = (step) => left + ((step - x0) / (x1 - x0)) * (width - left - 4);
  const y = (value) => height - bottom - ((value - y0) / (y1 - y0)) * (height - bottom - top);
  const svg = make("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": panel.title });
  for (const at of ticks(y0, y1, 5)) {
    svg.append(make("line", { class: "grid", x1: left, x2: width - 4, y1: y(at), y2: y(at) }));
    svg.append(make("text", { x: left - 5, y: y(at) + 3, "text-anchor": "end" }, short(at)));
  }
  for (const at of ticks(x0, x1, 6)) svg.append(make("text", { x: x(at), y: height - 5, "text-anchor": "middle" }, short(at)));
  panel.lines.forEach((line, i) => {
    const points = line.steps.map((step, j) => [step, line.values[j]]).filter(([, value]) => Number.isFinite(value));
    const path = points.map(([step, value], j) => `${j ? "L" : "M"}${x(step).toFixed(1)} ${y(value).toFixed(1)}`).join("");
    svg.append(make("path", { class: "curve", d: path, stroke: COLORS[i % COLORS.length] }));
  });
  const cursor = make("line", { class: "grid", y1: top, y2: height - bottom, visibility: "hidden" });
  svg.append(cursor);
  const legend = make("div", { class: "legend" });
  const say = (step) => legend.replaceChildren(
    ...(step === null ? [] : [`step ${step}`]),
    ...panel.lines.map((line, i) => {
      const at = step === null ? line.steps.length - 1 : nearest(line.steps, step);
      const mark = make("i", { style: { background: COLORS[i % COLORS.length] } });
      return make("span", {}, mark, `${line.name} ${number(line.values[at], 3)}`);
    }));
  svg.addEventListener("mousemove", (event) => {
    const box = svg.getBoundingClientRect();
    const step = Math.round(x0 + (((event.clientX - box.left) / box.width) * width - left) / (width - left - 4) * (x1 - x0));
    for (const end of ["x1", "x2"]) cursor.setAttribute(end, x(step));
    cursor.setAttribute("visibility", "visible");
    say(Math.max(x0, Math.min(x1, step)));
  });
  svg.addEventListener("mouseleave", () => { cursor.setAttribute("visibility", "hidden"); say(null); });
  say(null);
  return make("figure", {}, make("figcaption", {}, panel.title), svg, legend);
}

function nearest(steps, wanted) {
  let best = 0;
  steps.forEach((step, i) => { if (Math.abs(step - wanted) < Math.abs(steps[best] - wanted)) best = i; });
  return best;
}

async function curves() {
  const found = await ask("/api/curves", { stamp });
  if (found === null) return;
  stamp = found.stamp;
  state.textContent = `step ${found.step}`;
  if (route().page !== "curves") return;
  const panels = found.panels.map(chart);
  view.replaceChildren(panels.length ? make("div", { class: "panels" }, ...panels) : nothing("No step has been made yet."));
}

// ---- rollouts

function nothing(text) { return make("p", { class: "empty" }, text); }

function score(value) {
  const shade = value === null ? "transparent" : `rgb(42 157 78 / ${Math.max(0, Math.min(1, value)) * 0.45})`;
  return make("span", { class: "score", style: { background: shade } }, number(value));
}

function asked(prompt) {
  return typeof prompt === "string" ? prompt : prompt.map((message) => `${message.role}: ${message.content}`).join("\n");
}

async function rollouts(query) {
  const found = await ask("/api/groups", query);
  const form = document.getElementById("filter").content.cloneNode(true).querySelector("form");
  for (const field of form.elements) if (field.name) field.value = query[field.name] ?? "";
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    go("rollouts", Object.fromEntries([...new FormData(form)].filter(([, value]) => value !== "")));
  });
  const rows = found.groups.map((group) => {
    const link = make("a", { href: `#group?group=${group.group}` }, group.problem);
    return make("tr", { class: "row", onclick: () => go("group", { group: group.group }) },
      make("td", { class: "number" }, String(group.step)), make("td", {}, link),
      make("td", { class: "prompt" }, asked(group.prompt)), make("td", { class: "number" }, ...group.scores.map(score)),
      make("td", { class: "number" }, `${Math.min(...group.tokens)}–${Math.max(...group.tokens)}`));
  });
  const head = make("tr", {}, ...["step", "problem", "prompt", "rewards", "tokens"].map((name) => make("th", {}, name)));
  view.replaceChildren(form, rows.length ? make("table", {}, head, ...rows) : nothing("No group passes this filter."), pages(found, query));
}

function pages(found, query) {
  const last = Math.max(0, Math.ceil(found.total / found.size) - 1);
  const to = (page, text) => make("a", { href: `#rollouts?${new URLSearchParams({ ...query, page })}` }, text);
  return make("div", { class: "pages" }, `${found.total} groups, page ${found.page + 1} of ${last + 1}`,
    found.page > 0 ? to(found.page - 1, "newer") : null, found.page < last ? to(found.page + 1, "older") : null);
}

async function group(query) {
  const found = await ask("/api/group", query);
  const first = found.samples[0];
  view.replaceChildren(
    make("h2", {}, `Step ${first.step}, problem ${first.problem}`),
    make("div", { class: "prompt-text" }, asked(first.prompt)),
    make("h2", {}, `${found.samples.length} samples; the less likely a token was, the redder it is`),
    make("div", { class: "samples" }, ...found.samples.map(sample)),
    make("div", { class: "pages" },
      Number(query.group) > 0 ? make("a", { href: `#group?group=${Number(query.group) - 1}` }, "group before") : null,
      make("a", { href: `#group?group=${Number(query.group) + 1}` }, "group after")));
}

function sample(one) {
  const versions = one.versions.map(([version, count]) => (one.versions.length > 1 ? `${version} (${count})` : version)).join(", ");
  const facts = { reward: number(one.score), advantage: number(one.advantage), tokens: one.tokens, ended: one.finish_reason,
    weights: versions, trained: one.trained ? "yes" : "no", id: one.id };
  const parts = Object.entries(one.parts).map(([name, value]) => make("span", {}, `${name} `, make("b", {}, number(value))));
  return make("article", { class: "sample" },
    make("div", { class: "facts" }, ...Object.entries(facts).map(([name, value]) => make("span", {}, `${name} `, make("b", {}, String(value))))),
    make("div", { class: "facts" }, ...parts),
    tokens(one), verdicts(one));
}

function tokens(one) {
  const box = make("div", { class: "text" });
  if (!one.pieces.length) { box.textContent = one.text; return box; }
  one.pieces.forEach((piece, i) => {
    if (!piece) return;
    const p = Math.exp(one.logprobs[i]);
    box.append(make("span", { title: `token ${i}: log-probability ${one.logprobs[i]}, probability ${p.toFixed(3)}`,
      style: { background: `rgb(var(--low) / ${((1 - p) * 0.6).toFixed(2)})` } }, piece));
  });
  return box;
}

function verdicts(one) {
  const lines = (one.status === "ok" ? one.detail : `${one.status}: ${one.detail}`).split("\n").filter((line) => line);
  return make("ul", { class: "tests" }, ...lines.map((line) => {
    const test = /^test \d+: (\w+)/.exec(line);
    return make("li", { class: test ? test[1] : "note" }, line);
  }));
}

async function recipe() {
  view.replaceChildren(make("pre", { class: "recipe" }, (await ask("/api/run")).recipe || "This run has no recipe.toml."));
}

// ---- where we are

function route() {
  const [page, query] = location.hash.slice(1).split("?");
  return { page: page || "curves", query: Object.fromEntries(new URLSearchParams(query)) };
}

function go(page, query) { location.hash = `${page}?${new URLSearchParams(query)}`; }

async function show() {
  const { page, query } = route();
  for (const link of document.querySelectorAll("nav a")) link.classList.toggle("here", link.id === `to-${page === "group" ? "rollouts" : page}`);
  try {
    if (page === "rollouts") await rollouts(query);
    else if (page === "group") await group(query);
    else if (page === "recipe") await recipe();
    else { stamp = ""; await curves(); }
  } catch (error) { view.replaceChildren(make("p", { class: "fault" }, error.message)); }
}

async function follow() {
  try { await curves(); } catch { state.textContent = "the server is gone; its run directory is still there"; }
  setTimeout(follow, POLL_MS);
}

window.addEventListener("hashchange", show);
ask("/api/run").then((run) => { document.getElementById("name").textContent = run.name; document.title = run.name; });
show().then(() => setTimeout(follow, POLL_MS));
