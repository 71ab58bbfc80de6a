import { $, ask, button, listen, make, marked, parts, tell, tile } from "./frame.js";

let state = null, draft = null, byHand = false, busy = false;
const done = []; // what this page has saved: {key, saved}

async function start() {
  state = await ask("/state");
  if (state) pick();
}

// The first open draft; those that were skipped come last.
function pick() {
  byHand = false;
  [draft] = state.drafts;
  show();
}

function show() {
  showProgress();
  if (!draft) {
    $("card").replaceChildren(make("p", {}, "Every passage that was drawn is decided."));
    $("actions").replaceChildren(button("undo", "z", undo, { disabled: !done.length }));
    return;
  }
  const written = draft.origin && !byHand;
  const place = [draft.page ? `page ${draft.page}` : "", draft.section,
    `characters ${draft.start}-${draft.end}`].filter(Boolean).join(" · ");
  $("card").replaceChildren(
    make("div", { class: "id" }, make("span", {}, draft.document), make("span", {}, place),
      make("span", { class: "badge" }, badge(written))),
    parts([["passage", marked(draft.text, written ? draft.answers[0] : "")]]),
    ...form(written));
  $("actions").replaceChildren(make("div", { class: "buttons" },
    button(written ? "accept" : "save", "a", accept, { class: "good" }),
    button("edit", "e", () => first().focus()),
    written ? button("reject", "x", reject, { class: "bad" })
      : button("nothing to ask", "x", reject, { disabled: byHand }),
    button("skip", "→", skip), button("by hand", "h", hand, { disabled: !written }),
    button("undo", "z", undo, { disabled: !done.length })));
}

function badge(written) {
  if (byHand) return "written by hand";
  if (!written) return "no draft: write the first question";
  return draft.origin === "run" ? "a draft of the last run" : "a draft by rules, of one sentence";
}

const first = () => document.querySelector("#card textarea, #card button");

function form(written) {
  const area = (id, name, value) => {
    const box = make("textarea", { id, rows: 2, maxlength: 5000, dir: "auto", onkeydown: leave });
    box.value = value;
    return [make("label", { for: id }, name), box];
  };
  const fields = state.columns.flatMap((name) =>
    area(`field-${name}`, name, written ? draft.fields[name] : ""));
  const names = Object.keys(state.labels);
  if (!names.length) {
    return [...fields, ...area("answers", "answers, one a line, copied from the passage",
      written ? draft.answers.join("\n") : "")];
  }
  // Of what a person writes nobody but that person knows the label.
  const label = written ? draft.label : "";
  const buttons = names.map((name, number) =>
    button(name, number < 9 ? String(number + 1) : "", () => mark(name), {
      "data-label": name, "aria-pressed": String(name === label) }));
  return [...fields, make("div", { class: "caption" }, "label"),
    make("div", { class: "buttons", role: "group", "aria-label": "label" }, buttons)];
}

function mark(label) {
  for (const each of document.querySelectorAll("[data-label]")) {
    each.setAttribute("aria-pressed", String(each.dataset.label === label));
  }
}

function leave(event) {
  if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
  event.preventDefault();
  accept();
}

function showProgress() {
  const { progress, labels, left } = state;
  const points = (share) => (100 * share).toFixed(1);
  const passages = (count) => count === 1 ? "passage" : "passages";
  const gain = progress.smallest_gain;
  $("tiles").replaceChildren(
    tile("Items", String(progress.items), `on ${progress.passages} ${passages(progress.passages)}`),
    tile("Held out", String(progress.held_out), passages(progress.held_out)),
    tile("Drafts left", String(left)),
    tile("Smallest gain", gain === null ? "–" : gain > 1 ? "over 100" : points(gain),
      `points; ${progress.advised} items show ${points(progress.advised_gain)}, `
      + `${progress.needed} show ${points(progress.wanted)}`));
  const spread = `${progress.spread.toFixed(2)} (${progress.measured
    ? "measured in the last run" : "assumed: a large change on the shipped example"})`;
  const lines = Object.entries(labels).map(([name, count]) =>
    make("tr", {}, make("td", {}, name), make("td", { class: "n" }, String(count))));
  $("more").replaceChildren(
    ...(lines.length ? [make("h2", {}, "Labels so far"), make("table", {},
      make("tbody", {}, lines))] : []),
    make("p", { class: "soft small" },
      "Smallest gain: (1.96 + 0.84) × s / √items, the difference of two models on the same items "
      + "that a two-sided test at 5 % finds four times in five (Miller, arXiv 2411.00640). "
      + `s, the spread of the items' differences, is ${spread}. Several items on one passage tell `
      + "less: it is a lower bound. Drafts of the label there is least of come first."),
    make("p", { class: "soft small" },
      "Ctrl+Enter saves from a field, Escape leaves it. Every decision is on the disk."));
}

const value = (id) => ($(id) ? $(id).value : "");

async function accept() {
  const fields = Object.fromEntries(state.columns.map((name) => [name, value(`field-${name}`)]));
  const label = document.querySelector('[data-label][aria-pressed="true"]')?.dataset.label ?? "";
  const answers = value("answers").split("\n");
  await decide({ action: "accept", by_hand: byHand, fields, label, answers });
}

async function reject() {
  if (draft && !byHand) await decide({ action: "reject" });
}

async function decide(change) {
  if (busy || !draft) return;
  busy = true;
  const { key } = draft;
  const answer = await ask("/save", { key, ...change });
  busy = false;
  if (!answer) return;
  document.activeElement.blur();
  state = answer;
  done.push({ key, saved: answer.saved });
  pick();
  tell(change.action === "accept" ? "Saved." : "Rejected.", "good");
  window.scrollTo(0, 0);
}

async function undo() {
  const last = done.at(-1);
  if (!last || busy) return;
  busy = true;
  const answer = await ask("/save", { action: "undo", ...last });
  busy = false;
  if (!answer) return;
  done.pop();
  state = answer;
  byHand = false;
  draft = state.drafts.find((each) => each.key === last.key) ?? state.drafts[0];
  show();
  tell("Undone.");
}

async function skip() {
  if (busy || !draft) return;
  busy = true;
  const answer = await ask("/save", { action: "skip", key: draft.key });
  busy = false;
  if (!answer) return;
  state = answer;
  tell("");
  pick();
}

function hand() {
  if (!draft?.origin || byHand) return;
  byHand = true;
  show();
  first().focus();
}

const actions = { a: accept, e: () => first()?.focus(), x: reject, h: hand, z: undo,
  ArrowRight: skip };
for (let number = 1; number < 10; number += 1) {
  actions[number] = () => {
    const name = state && Object.keys(state.labels)[number - 1];
    if (draft && name) mark(name);
  };
}
listen(actions);
start();
