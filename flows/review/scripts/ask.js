import { $, ask, button, make, parts, tell } from "./frame.js";

let busy = false;

async function start() {
  const state = await ask("/state");
  if (!state) return;
  $("card").replaceChildren(make("div", { class: "id" }, make("span", { class: "mono" }, state.model),
    make("span", {}, `passages of the last run of ${state.profile}`)));
  const field = make("input", {
    id: "question", "aria-label": "question", maxlength: 2000, autocomplete: "off", dir: "auto",
    placeholder: "a question, in words of the documents; Enter asks",
    onkeydown: (event) => { if (event.key === "Enter" && !event.isComposing) send(); },
  });
  $("actions").replaceChildren(field, make("p", {}), make("div", { class: "buttons" },
    button("ask", "Enter", send, { id: "send" })));
  field.focus();
}

async function send() {
  if (busy) return;
  busy = true;
  $("send").disabled = true;
  tell("Both models read the passages, one after the other ...");
  const found = await ask("/save", { question: $("question").value }, "No answer");
  busy = false;
  $("send").disabled = false;
  if (!found) return;
  tell("");
  show(found);
}

function show(found) {
  const [first, ...others] = found.answers;
  $("card").replaceChildren(
    make("div", { class: "id" }, make("span", { class: "mono" }, found.model),
      make("span", {}, place(first))),
    answer(first, [["question", found.question],
      ...(found.choices.length ? [["choices", found.choices.join(", ")]] : [])]));
  $("more").replaceChildren(...others.map((each) => make("section", { class: "card" },
    make("div", { class: "id" }, make("span", {}, place(each))), answer(each))));
}

const answer = (each, before = []) => parts([
  ...before,
  ["answer", each.adapted || "(nothing)", true],
  ["zero-shot", each.zero_shot || "(nothing)"],
  ["passage", span(each)],
]);

function place(each) {
  const page = each.page ? `, page ${each.page}` : "";
  const section = each.section ? `, ${each.section}` : "";
  return `${each.document}${page}${section}, characters ${each.start}-${each.end}`;
}

// Return the passage with the answer marked. The server counts characters, a script UTF-16 units.
function span(each) {
  if (!each.span) return each.text;
  const text = Array.from(each.text);
  const [start, end] = each.span;
  const piece = (from, to) => text.slice(from, to).join("");
  return [piece(0, start), make("mark", {}, piece(start, end)), piece(end)];
}

start();
