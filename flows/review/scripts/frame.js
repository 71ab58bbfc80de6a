// What both pages share. Text of documents is put into the page as text, never as markup.

export const $ = (id) => document.getElementById(id);

// Make an element; properties first, then its children: elements or texts.
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== ""));
  return element;
}

// Show one line above the buttons. Tone: good, bad or nothing.
export function tell(text, tone = "") {
  $("notice").className = tone;
  $("notice").textContent = text;
}

// Ask the server; return its answer, or null after the reason was shown. Nothing that a person
// typed is lost: the form stays as it is, and the same key tries again.
export async function ask(address, change, failed = "Not saved") {
  const request = change === undefined ? {} : {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(change),
  };
  const answer = await fetch(address, request).catch(() => null);
  const value = answer && await answer.json().catch(() => null);
  if (value && answer.ok) return value;
  const [what, again] = change === undefined
    ? ["Nothing to show", "load the page again"] : [failed, "press the key again"];
  const why = answer && !answer.ok
    ? `the server answers ${answer.status}. Its terminal says why.`
    : `the server does not answer. Start it again, then ${again}.`;
  tell(value?.error || `${what}: ${why}`, "bad");
  return null;
}

export const percent = (share) => `${(100 * share).toFixed(0)} %`;

export function tile(name, value, note = "") {
  return make("div", { class: "tile" }, make("span", { class: "soft" }, name), make("b", {}, value),
    make("span", { class: "soft" }, note));
}

// Return pairs of name and content as a list; empty contents are left out. A text runs as its
// first letter does: from the right in Hebrew or Arabic.
export function parts(pairs) {
  const shown = pairs.filter(([, content]) => content !== "" && content !== null);
  return make("dl", { class: "parts" }, shown.flatMap(([name, content, main]) => [
    make("dt", {}, name), make("dd", { class: main ? "main" : "", dir: "auto" }, content)]));
}

// Return a text with every occurrence of another one marked.
export function marked(text, wanted) {
  if (!wanted || wanted.length > 200) return [text];
  const pieces = text.split(wanted);
  return pieces.flatMap((piece, place) => (place ? [make("mark", {}, wanted), piece] : [piece]));
}

export function button(name, key, action, properties = {}) {
  return make("button", { type: "button", onclick: action, ...properties }, name,
    key ? make("kbd", {}, key) : "");
}

// Call the action of a pressed key, unless a person is typing. Escape leaves a field. A held key
// decides once: the system repeats it, and nobody has read what comes next.
export function listen(actions) {
  document.addEventListener("keydown", (event) => {
    const typing = event.target.matches("input, textarea");
    if (typing && event.key === "Escape") event.target.blur();
    if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.repeat && !event.key.startsWith("Arrow")) return;
    if (event.target.matches("button") && (event.key === "Enter" || event.key === " ")) return;
    const action = actions[event.key];
    if (!action) return;
    event.preventDefault();
    action();
  });
}
