"use strict";

/* Shows the values of every line at the step that the pointer, or an arrow key, is on. */
const readout = document.createElement("div");
readout.className = "readout";
readout.hidden = true;
document.body.append(readout);

function nearest(places, x) {
  let best = 0;
  places.forEach((place, n) => { if (Math.abs(place - x) < Math.abs(places[best] - x)) best = n; });
  return best;
}

function show(svg, data, n) {
  const cursor = svg.querySelector(".cursor");
  cursor.setAttribute("x1", data.x[n]);
  cursor.setAttribute("x2", data.x[n]);
  readout.replaceChildren();
  const heading = document.createElement("b");
  heading.textContent = "step " + data.at[n];
  readout.append(heading);
  for (const series of data.series) {
    if (series.text[n] === null) continue;
    const line = document.createElement("div");
    const swatch = document.createElement("span");
    swatch.className = "swatch " + series.colour;
    const value = document.createElement("b");
    value.textContent = series.text[n];
    line.append(swatch, value);
    if (data.series.length > 1) line.append(" " + series.name);
    readout.append(line);
  }
  const box = svg.getBoundingClientRect();
  const left = box.left + data.x[n] / svg.viewBox.baseVal.width * box.width;
  readout.hidden = false;
  const flip = left + readout.offsetWidth + 24 > document.documentElement.clientWidth;
  readout.style.left = window.scrollX + Math.max(0, left + (flip ? -readout.offsetWidth - 12 : 12)) + "px";
  /* Within the plot, so that no title is covered: of many lines, the first that fit. */
  const top = cursor.getBoundingClientRect().top;
  while (readout.offsetHeight > box.bottom - top && readout.childElementCount > 2) readout.lastChild.remove();
  readout.style.top = window.scrollY + top + "px";
}

function hide(svg) {
  readout.hidden = true;
  for (const end of ["x1", "x2"]) svg.querySelector(".cursor").setAttribute(end, -9);
}

/* Listens for all charts and tables at once: `runner ui` replaces them while a run is in progress. */
let chart = null, at = 0;

function leave() {
  if (chart) hide(chart);
  chart = null;
}

function enter(target) {
  const found = target instanceof Element ? target.closest("svg[data-points]") : null;
  if (found !== chart) {
    leave();
    at = 0;
  }
  chart = found;
  return found && JSON.parse(found.dataset.points);
}

document.addEventListener("pointermove", (event) => {
  const data = enter(event.target);
  if (!data) return;
  const box = chart.getBoundingClientRect();
  at = nearest(data.x, (event.clientX - box.left) / box.width * chart.viewBox.baseVal.width);
  show(chart, data, at);
});
document.addEventListener("keydown", (event) => {
  const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  const data = by && enter(event.target);
  if (!data) return;
  event.preventDefault();
  at = Math.max(0, Math.min(data.x.length - 1, at + by));
  show(chart, data, at);
});
document.addEventListener("pointerout", leave);
document.addEventListener("focusout", leave);

/* Sorts a table by the column whose heading is clicked: as numbers where they are, else as words. */
function sort(table, column, descending) {
  const rows = [...table.tBodies[0].rows];
  const value = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent;
  const sign = descending ? -1 : 1;
  rows.sort((a, b) => sign * value(a).localeCompare(value(b), undefined, { numeric: true }));
  if (rows.every((row) => !isNaN(value(row)))) rows.sort((a, b) => sign * (value(a) - value(b)));
  table.tBodies[0].append(...rows);
}

document.addEventListener("click", (event) => {
  const heading = event.target.closest(".ranking.sortable th");
  if (!heading || !event.target.closest("button")) return;
  const descending = heading.getAttribute("aria-sort") === "ascending";
  for (const other of heading.parentElement.cells) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
  sort(heading.closest("table"), heading.cellIndex, descending);
});

/* Paper has no folds. */
window.addEventListener("beforeprint", () => {
  for (const fold of document.querySelectorAll("details")) fold.open = true;
});
