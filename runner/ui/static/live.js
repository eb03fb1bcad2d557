/* A page of runs in progress: replaces the parts that changed, shows the log, sends what buttons say. */

import { element, poll, post, runPath, say } from "./ui.js";

const parts = document.getElementById("parts");
const shown = new Map();  // name of a part -> its HTML

/** The parts in their order; what the reader has focused or scrolled to stays if its part did not change. */
function show(news) {
  let before = null;
  for (const [name, html] of Object.entries(news.parts)) {
    let place = parts.querySelector(`:scope > [data-part="${name}"]`);
    if (!place) {
      place = element("div", { "data-part": name });
      if (before) before.after(place); else parts.prepend(place);
    }
    if (shown.get(name) !== html) place.innerHTML = html;  // the server has escaped all that users wrote
    shown.set(name, html);
    before = place;
  }
  for (const place of parts.querySelectorAll(":scope > [data-part]")) {
    if (!(place.dataset.part in news.parts)) place.remove();
  }
  return news.active ? 2000 : null;
}

let logRound = 0;

/** Show the last lines of the chosen stage's log, again and again while the run is in progress. */
function showLog() {
  const round = ++logRound, select = () => document.getElementById("log-stage");
  if (!select()) return;
  const write = (text) => {
    const place = document.getElementById("log-lines");
    const follows = place.scrollTop + place.clientHeight >= place.scrollHeight - 8;
    place.textContent = text;
    if (follows) place.scrollTop = place.scrollHeight;
  };
  const path = () => `${runPath("/api/log/", select().dataset.run)}?stage=${encodeURIComponent(select().value)}`;
  const use = async (response) => {
    const log = await response.json();
    if (round !== logRound) return null;  // another stage was chosen meanwhile
    write(log.lines.join("\n") || "no output");
    return select().dataset.active ? 3000 : null;
  };
  poll(path, use, 3000, (problem) => { if (problem) write(problem); });
}

document.addEventListener("change", (event) => {
  if (event.target.id === "log-stage") showLog();
});

document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-post]");
  if (!button || !confirm(button.dataset.confirm)) return;
  button.disabled = true;
  try {
    await post(button.dataset.post);
  } catch (error) {
    say(error.message);
    button.disabled = false;
  }
});

showLog();
if (parts.dataset.live) poll(() => parts.dataset.live, async (response) => show(await response.json()));
