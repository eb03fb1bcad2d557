/* The form that starts a run: every change is checked as the command line checks it. */

import { element, post, runPath } from "./ui.js";

const form = document.getElementById("start"), button = form.querySelector("button");
const mistake = document.getElementById("mistake"), preview = document.getElementById("preview");
let round = 0, timer = 0;

const asked = () => ({ recipe: form.recipe.value, overrides: form.overrides.value });

async function check() {
  const mine = ++round;
  try {
    const plan = await post("/api/plan", asked());
    if (mine !== round) return;  // it was changed meanwhile
    mistake.textContent = "";
    document.getElementById("picture").innerHTML = plan.picture;  // the server has escaped all that users wrote
    const facts = plan.facts.map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, value)));
    document.getElementById("facts").replaceChildren(...facts);
    document.getElementById("notes").textContent = plan.notes.join("; ");
    document.getElementById("command").textContent = plan.command;
    preview.hidden = false;
    button.disabled = false;
  } catch (error) {
    if (mine === round) mistake.textContent = error.message;
  }
}

form.addEventListener("input", () => {
  button.disabled = true;
  clearTimeout(timer);
  timer = setTimeout(check, 300);
});

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  if (button.disabled) return;
  button.disabled = true;
  button.textContent = "Starting…";
  try {
    const { run } = await post("/api/start", asked());
    location.assign(runPath("/runs/", run));
  } catch (error) {
    mistake.textContent = error.message;
    button.disabled = false;
    button.textContent = "Start";
  }
});

check();
