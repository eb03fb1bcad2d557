/* What the pages share: elements, requests, and asking again while the page is looked at. */

/** An element with attributes and children; a text is never read as HTML. */
export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) if (value !== null) made.setAttribute(key, value);
  made.append(...children.filter((child) => child !== null));
  return made;
}

/** The address of a run's page, also of one whose name has signs that mean something in an address. */
export const runPath = (start, name) => start + name.split("/").map(encodeURIComponent).join("/");

/** Seconds as H:MM:SS, or M:SS below an hour. */
export function duration(seconds) {
  const all = Math.round(seconds), two = (n) => String(n).padStart(2, "0");
  const hours = Math.floor(all / 3600), minutes = Math.floor(all / 60) % 60;
  return hours ? `${hours}:${two(minutes)}:${two(all % 60)}` : `${minutes}:${two(all % 60)}`;
}

/** Send a JSON value; returns the answer's value, or throws an Error with the server's message. */
export async function post(path, value = {}) {
  const response = await fetch(path, { method: "POST", body: JSON.stringify(value) });
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.error);
  return answer;
}

const pause = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));

/** Resolves when the page is looked at. */
function visible() {
  if (!document.hidden) return Promise.resolve();
  return new Promise((done) => document.addEventListener("visibilitychange", done, { once: true }));
}

/**
 * Ask for `path()` for as long as the page is open and looked at, and pass on each answer that differs from the last.
 * `use` gets the Response and returns the milliseconds until the next question, or null to stop. `tell` is told what
 * went wrong, or "".
 */
export async function poll(path, use, usually = 2000, tell = say) {
  let etag = "", asked = "";
  for (let wait = 0; wait !== null;) {
    await pause(wait);
    await visible();
    wait = usually;
    try {
      const wanted = path(), headers = wanted === asked && etag ? { "If-None-Match": etag } : {};
      const response = await fetch(wanted, { headers, cache: "no-store" });
      [asked, etag] = [wanted, response.headers.get("ETag")];
      if (response.ok) wait = await use(response);
      tell(response.ok || response.status === 304 ? "" : (await response.json()).error);
    } catch {
      tell("No answer from runner ui: was it ended in its terminal?");
    }
  }
}

/** Show a problem below the head of the page; nothing takes it away. */
export function say(text) {
  const place = document.getElementById("problem");
  if (place.textContent !== text) place.textContent = text;
}
