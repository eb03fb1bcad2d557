/* The models answer side by side as they are asked; a chat keeps the conversation of each. */
import { element } from "/static/ui.js";

const MOST_WORDS = 1500;  // of an answer that is compared; the time grows with their square
const question = document.querySelector("#question");
const said = document.querySelector("#said"), stop = document.querySelector("#stop");
const exchanges = document.querySelector("#exchanges");
let turns = {};  // of each model's conversation
let example = null, next = 0, asking = null;  // what was taken, the next one's number, what ends the request

/** Which words of `text` are not in `other`: [piece, differs] pairs that make up the text. */
export function differing(text, other) {
  const cut = (side) => side.match(/[\p{L}\p{N}_]+|\s+|[^\p{L}\p{N}_\s]/gu) ?? [];
  const a = cut(text), b = cut(other);
  if (a.length > MOST_WORDS || b.length > MOST_WORDS) return [[text, false]];
  const common = Array.from({ length: a.length + 1 }, () => new Uint16Array(b.length + 1));
  for (let i = a.length - 1; i >= 0; i--) {
    for (let j = b.length - 1; j >= 0; j--) {
      common[i][j] = a[i] === b[j] ? common[i + 1][j + 1] + 1 : Math.max(common[i + 1][j], common[i][j + 1]);
    }
  }
  const pieces = [];
  for (let i = 0, j = 0; i < a.length;) {
    const same = j < b.length && a[i] === b[j];
    if (!same && j < b.length && common[i][j + 1] >= common[i + 1][j]) { j++; continue; }
    if (pieces.length && pieces.at(-1)[1] === !same) pieces.at(-1)[0] += a[i];
    else pieces.push([a[i], !same]);
    i++;
    if (same) j++;
  }
  return pieces;
}

/** The column of one model's answer. */
class Answer {
  constructor(model) {
    this.model = model;
    this.text = "";
    this.ended = false;
    this.note = element("span", { class: "note" });
    this.shown = element("pre", { class: "waiting", tabindex: "0", "aria-label": `Answer of ${model ?? "the reference"}` });
    this.results = element("div", { class: "results" });
    this.box = element("div", {}, element("h2", {}, model ?? "Reference", " ", this.note), this.shown, this.results);
  }

  add(text) {
    this.text += text;
    this.shown.append(text);
  }

  end(reason) {
    this.ended = true;
    this.shown.classList.remove("waiting");
    if (reason === "length") this.note.textContent = "cut off";
    if (!this.text) this.shown.append(element("i", { class: "note" }, "empty"));
  }

  fail(message) {
    this.end();
    this.shown.replaceChildren(element("span", { class: "bad" }, message));
  }

  /** Mark the words that are not in `other`. */
  compare(other) {
    if (!this.text) return;
    const pieces = differing(this.text, other);
    this.shown.replaceChildren(...pieces.map(([text, differs]) => differs ? element("mark", { class: "differs" }, text) : text));
  }

  result(found) {
    if (found.failure) {
      this.results.replaceChildren(element("span", { class: "bad" }, found.failure));
      return;
    }
    const cells = (row, name) => element("tr", {}, ...row.map((cell) => element(name, {}, cell ?? "NULL")));
    const table = element("table", {}, element("thead", {}, cells(found.columns, "th")),
      element("tbody", {}, ...found.rows.map((row) => cells(row, "td"))));
    const count = `${found.count} ${found.count === 1 ? "row" : "rows"}` +
      (found.count > found.rows.length ? `, the first ${found.rows.length}` : "") +
      (found.invented ? ", of tables with invented rows" : "");
    this.results.replaceChildren(table, element("span", { class: "note" }, count));
  }
}

/** The lines of a streamed answer, each as the JSON that it is. */
async function* lines(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const whole = (rest + value).split("\n");
    rest = whole.pop();
    for (const line of whole) yield JSON.parse(line);
  }
}

async function ask(body, answers) {
  asking = new AbortController();
  const response = await fetch("/api/playground/answers", { method: "POST", body: JSON.stringify(body), signal: asking.signal });
  if (!response.ok) throw new Error((await response.json()).error);
  for await (const line of lines(response)) {
    if ("error" in line && !("model" in line)) throw new Error(line.error);
    if ("prompt" in line) body.question.prompt = line.prompt;
    const answer = answers.get(line.model);
    if (!answer) continue;
    if ("text" in line) answer.add(line.text);
    else if ("finish_reason" in line) answer.end(line.finish_reason);
    else if ("error" in line) answer.fail(line.error);
    else if ("result" in line) answer.result(line.result);
  }
}

/** What is asked: the next turn of a chat, or the columns of a row; with the reference of an example that is unchanged. */
function asked(form) {
  const values = Object.fromEntries([...question.querySelectorAll("textarea")].map((area) => [area.name, area.value]));
  const unchanged = example && Object.entries(example.shown).every(([name, value]) => values[name] === value);
  const reference = unchanged ? { reference: example.reference } : {};
  if (form.chat) return { models: form.models, text: values.text, turns, ...reference };
  const rest = unchanged ? example.fields : {};
  return { models: form.models, fields: { ...rest, ...values }, ...reference };
}

function exchange(form, sent) {
  const answers = new Map(form.models.map((model) => [model, new Answer(model)]));
  if (sent.reference) {
    const reference = new Answer(null);
    reference.add(sent.reference);
    reference.end();
    answers.set(null, reference);
  }
  const prompt = form.chat ? element("pre", { class: "prompt" }, sent.text) : null;
  const columns = element("div", { class: "answers" }, ...[...answers.values()].map((answer) => answer.box));
  exchanges.prepend(element("section", { class: "exchange" }, prompt, columns));
  return answers;
}

function finish(form, sent, answers) {
  const base = answers.get(form.base) ?? answers.get(form.models[0]);
  for (const model of form.models) {
    const answer = answers.get(model);
    if (!answer.ended) answer.end();
    if (answer !== base) answer.compare(base.text);
    if (form.chat) {
      const before = turns[model] ?? [];
      turns[model] = [...before, { role: "user", content: sent.prompt }, { role: "assistant", content: answer.text }];
    }
  }
}

async function submit(form) {
  const sent = asked(form), answers = exchange(form, sent);
  question.querySelector(".main").disabled = true;
  stop.hidden = false;
  said.textContent = "";
  try {
    await ask({ server: form.server, question: sent, max_tokens: question.elements.max_tokens.valueAsNumber }, answers);
    finish(form, sent, answers);
    said.textContent = "Underlined: what differs from " + (form.base ?? form.models[0]) + "'s answer.";
    if (form.chat) question.elements.text.value = "";
  } catch (error) {
    for (const answer of answers.values()) if (!answer.ended) answer.end();
    said.textContent = error.name === "AbortError" ? "Stopped." : error.message;
  } finally {
    question.querySelector(".main").disabled = false;
    stop.hidden = true;
    example = form.chat ? null : example;
  }
}

async function take(form) {
  const response = await fetch(`/api/playground/example?server=${encodeURIComponent(form.server)}&number=${next}`);
  const taken = await response.json();
  if (!response.ok) { said.textContent = taken.error; return; }
  next = taken.number + 1;
  const last = taken.turns.at(-1), column = form.columns[0];
  const text = form.columns.length === 1 && column in taken.fields ? taken.fields[column] : last?.content;
  const shown = {};
  for (const area of question.querySelectorAll("textarea")) {
    area.value = (form.chat ? text : taken.fields[area.name]) ?? "";
    shown[area.name] = area.value;
  }
  if (form.chat) {
    clear();
    for (const model of form.models) turns[model] = taken.turns.slice(0, -1);
  }
  example = { ...taken, shown };
  said.textContent = `Held-out example ${next} of ${taken.count}`;
}

function clear() {
  turns = {};
  exchanges.replaceChildren();
}

if (question) {
  const form = JSON.parse(question.dataset.form);
  question.addEventListener("submit", (event) => { event.preventDefault(); if (stop.hidden) submit(form); });
  question.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); question.requestSubmit(); }
  });
  stop.addEventListener("click", () => asking?.abort());
  document.querySelector("#example")?.addEventListener("click", () => take(form));
  document.querySelector("#clear")?.addEventListener("click", clear);
}
