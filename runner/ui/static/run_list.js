/* The list of runs: filter, sort, tick to compare. Rows are made as they are scrolled to. */

import { duration, element, poll, runPath } from "./ui.js";

const PAGE = 100;  // rows that are added at once
const ENDED = ["finished", "failed", "stopped", "pruned", "killed", "damaged"];
const SVG = "http://www.w3.org/2000/svg";

const body = document.querySelector("#runs tbody"), filter = document.getElementById("filter");
const compare = document.getElementById("compare"), count = document.getElementById("count");
const known = new Map();  // name -> { run, text, row }
const ticked = new Set();
const address = new URL(location);
let revision = 0, most = PAGE;
let [by, descending] = [address.searchParams.get("by") ?? "started", address.searchParams.get("order") !== "up"];
filter.value = address.searchParams.get("filter") ?? "";

const VALUES = {
  run: (run) => run.run,
  state: (run) => run.state,
  progress: (run) => (run.total ? run.done / run.total : 0),
  loss: (run) => run.loss,
  result: (run) => run.score,
  seconds: (run) => run.seconds,
  started: (run) => run.started,
};

function sparkline(curve) {
  const width = 90, height = 22, low = Math.min(...curve), span = Math.max(...curve) - low || 1;
  const places = curve.map((loss, n) => {
    const x = n / Math.max(curve.length - 1, 1) * width;
    return `${x.toFixed(1)},${(1 + (1 - (loss - low) / span) * (height - 2)).toFixed(1)}`;
  });
  const svg = document.createElementNS(SVG, "svg"), line = document.createElementNS(SVG, "polyline");
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("class", "sparkline");
  svg.setAttribute("aria-hidden", "true");
  line.setAttribute("points", places.join(" "));
  line.setAttribute("class", "line adapter");
  svg.append(line);
  return svg;
}

const number = (value) => (value === null || value === undefined ? "" : String(Number(value.toPrecision(4))));

function progress(run) {
  if (ENDED.includes(run.state) || !run.stage) return [];
  if (!run.total) return [run.stage];
  const left = run.seconds_left === null ? "" : `, ${duration(run.seconds_left)} left`;
  const bar = element("progress", { max: run.total, value: run.done, "aria-label": run.stage });
  return [bar, element("span", { class: "note" }, `${run.stage} ${run.done}/${run.total} ${run.unit}${left}`)];
}

function cells(run) {
  const tick = element("input", { type: "checkbox", "aria-label": `compare ${run.run}` });
  tick.checked = ticked.has(run.run);
  tick.disabled = run.state === "damaged";
  tick.addEventListener("change", () => {
    ticked[tick.checked ? "add" : "delete"](run.run);
    showTicked();
  });
  const name = run.state === "damaged" ? run.run : element("a", { href: runPath("/runs/", run.run) }, run.run);
  const changes = (run.overrides ?? []).join(" ");
  const state = element("span", { class: `state ${run.state}` }, run.state);
  const why = run.reason ? element("span", { class: "note reason", title: run.reason }, run.reason) : null;
  const where = run.where && run.where !== "here" ? element("span", { class: "note" }, run.where) : null;
  return [
    element("td", { class: "tick-box" }, tick),
    element("td", { class: "name" }, name, element("span", { class: "note changes", title: changes }, changes)),
    element("td", { class: "state-cell" }, state, where, why),
    element("td", { class: "progress" }, ...progress(run)),
    element("td", { class: "loss number" }, ...(run.curve?.length > 1 ? [sparkline(run.curve)] : []), number(run.loss)),
    element("td", { class: "result" }, run.result ?? ""),
    element("td", { class: "number" }, run.seconds ? duration(run.seconds) : ""),
    element("td", { class: "started note" }, run.started.slice(0, 16).replace("T", " ")),
  ];
}

function text(run) {
  return [run.run, run.recipe, ...(run.overrides ?? []), run.state, run.where, run.stage, run.result, run.reason]
    .join(" ").toLowerCase();
}

/** Numbers by size, words by alphabet, what is missing always last. */
function order(a, b) {
  const [left, right] = [VALUES[by](a), VALUES[by](b)], missing = (value) => value === null || value === undefined;
  if (missing(left) || missing(right)) return missing(left) - missing(right);
  const sign = descending ? -1 : 1;
  return sign * (typeof left === "number" ? left - right : left.localeCompare(right, undefined, { numeric: true }));
}

function matching() {
  const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
  const entries = [...known.values()].filter((entry) => words.every((word) => entry.text.includes(word)));
  return entries.sort((a, b) => order(a.run, b.run));
}

function show() {
  const entries = matching(), rows = entries.slice(0, most).map((entry) => {
    entry.row ??= element("tr", {}, ...cells(entry.run));
    return entry.row;
  });
  const differs = rows.length !== body.rows.length || rows.some((row, n) => row !== body.rows[n]);
  if (differs) {
    const focused = document.activeElement;
    body.replaceChildren(...rows);
    if (body.contains(focused)) focused.focus({ preventScroll: true });
  }
  const of = entries.length === known.size ? "" : ` of ${known.size}`;
  count.textContent = `${entries.length}${of} ${known.size === 1 ? "run" : "runs"}`;
  document.getElementById("none").hidden = known.size > 0;
  document.getElementById("end").hidden = rows.length === entries.length;
  for (const heading of document.querySelectorAll("#runs th[data-by]")) {
    if (heading.dataset.by === by) heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
    else heading.removeAttribute("aria-sort");
  }
}

function showTicked() {
  compare.textContent = ticked.size > 1 ? `Compare ${ticked.size} runs` : "Tick runs to compare them";
  if (ticked.size > 1) compare.href = "/compare?" + new URLSearchParams([...ticked].map((name) => ["run", name]));
  else compare.removeAttribute("href");
}

/** What is chosen stays when the page is loaded again. */
function remember() {
  const chosen = { filter: filter.value, by: by === "started" ? "" : by, order: descending ? "" : "up" };
  for (const [name, value] of Object.entries(chosen)) {
    if (value) address.searchParams.set(name, value);
    else address.searchParams.delete(name);
  }
  history.replaceState(null, "", address);
  most = PAGE;
  show();
}

async function use(response) {
  const news = await response.json();
  revision = news.revision;
  for (const run of news.rows) {
    const tick = known.get(run.run)?.row?.querySelector("input");
    const focused = tick && tick === document.activeElement;
    const entry = { run, text: text(run), row: null };
    if (known.get(run.run)?.row) {
      entry.row = known.get(run.run).row;
      entry.row.replaceChildren(...cells(run));
      if (focused) entry.row.querySelector("input").focus({ preventScroll: true });
    }
    known.set(run.run, entry);
  }
  if (known.size > news.total - news.unread) {  // some were removed
    known.clear();
    revision = 0;
    return 0;
  }
  show();
  document.getElementById("unread").textContent = news.unread ? `(reading ${news.unread} more)` : "";
  return news.unread ? 0 : 2000;
}

filter.addEventListener("input", remember);
for (const heading of document.querySelectorAll("#runs th[data-by]")) {
  heading.firstElementChild.addEventListener("click", () => {
    [by, descending] = [heading.dataset.by, by === heading.dataset.by ? !descending : heading.dataset.by !== "run"];
    remember();
  });
}
new IntersectionObserver((seen) => {
  if (!seen.some((one) => one.isIntersecting)) return;
  most += PAGE;
  show();
}, { rootMargin: "600px" }).observe(document.getElementById("end"));

showTicked();
poll(() => `/api/runs?since=${revision}`, use);
