import { $, ask, button, listen, make, marked, parts, percent, tell, tile } from "./frame.js";

let rows = [], titles = {}, verdicts = {}, progress = null;
let place = 0, chosen = "", saving = false;
const done = []; // what this page has saved: {key, before, after}

const same = (one, other) => JSON.stringify(one ?? null) === JSON.stringify(other ?? null);
const row = () => rows[place];

async function start() {
  const state = await ask("/state");
  if (!state) return;
  ({ rows, titles } = state);
  take(state);
  place = Math.max(rows.findIndex((each) => !verdicts[each.key]), 0);
  show();
  listen({
    r: () => choose("right"), w: () => choose("wrong"), u: () => choose("unclear"),
    ArrowLeft: () => move(-1), ArrowRight: () => move(1), n: next, z: undo,
  });
}

function take(state) {
  ({ verdicts, progress } = state);
}

function show() {
  const { key } = row();
  const verdict = verdicts[key];
  chosen = "";
  showProgress();
  $("card").replaceChildren(...card(row()));
  const reason = make("input", {
    id: "reason", "aria-label": "reason", maxlength: 2000, autocomplete: "off", dir: "auto",
    placeholder: "reason, for wrong and unclear; Enter saves", onkeydown: enter,
  });
  reason.value = verdict ? verdict.reason : "";
  const words = [["right", "r", "good"], ["wrong", "w", "bad"], ["unclear", "u", "warn"]];
  $("actions").replaceChildren(reason, make("p", {}), make("div", { class: "buttons" },
    words.map(([word, letter, tone]) => button(word, letter, () => choose(word), {
      class: tone, id: word, "aria-pressed": String(verdict?.verdict === word),
    })),
    make("span", { class: "space" }, "\u00a0"),
    button("back", "←", () => move(-1), { disabled: place === 0 }),
    button("skip", "→", () => move(1), { disabled: place === rows.length - 1 }),
    button("next open", "n", next), button("undo", "z", undo, { disabled: !done.length })));
}

function card(shown) {
  const asked = shown.context ? shown.instruction.split(shown.context) : [shown.instruction];
  const instruction = asked.flatMap((piece, number) => (number
    ? [make("span", { class: "passage" }, "[passage]"), piece] : [piece]));
  const verdict = verdicts[shown.key];
  return [
    make("div", { class: "id" }, make("span", {}, `row ${place + 1} of ${rows.length}`),
      make("span", {}, titles[shown.task_type] ?? shown.task_type),
      make("span", { class: "mono" }, shown.row_id), make("span", {}, shown.document),
      verdict ? make("span", { class: "badge" }, `judged ${verdict.verdict}`) : ""),
    parts([
      ["passage", marked(shown.context, shown.response)],
      ["instruction", instruction],
      ["response", shown.response, true],
      // Without a generator there is no reader either.
      ...(shown.origin === null ? [] : [
        ["reader's answer", shown.answer],
        ["agreement", shown.agreement === null ? "not judged" : percent(shown.agreement)],
        ["written by", { written: "the generator", adopted: "the reader, adopted",
          repaired: "the reader, repaired" }[shown.origin] ?? shown.origin],
      ]),
    ]),
  ];
}

function showProgress() {
  const { total, by_task_type: types } = progress;
  $("tiles").replaceChildren(
    tile("Judged", `${total.judged} of ${total.rows}`),
    tile("Right", total.judged ? percent(total.share) : "–", bounds(total)),
    tile("Wrong", String(total.wrong)), tile("Unclear", String(total.unclear)));
  const lines = Object.entries(types).map(([name, one]) => make("tr", {},
    make("td", { class: "head" }, titles[name] ?? name),
    make("td", { class: "n", "data-name": "judged" }, `${one.judged} of ${one.rows}`),
    make("td", { class: "n", "data-name": "right" }, one.judged ? percent(one.share) : "–"),
    make("td", { class: "n", "data-name": "95 % interval" }, bounds(one)),
    make("td", { class: "n", "data-name": "wrong" }, String(one.wrong)),
    make("td", { class: "n", "data-name": "unclear" }, String(one.unclear))));
  const names = ["task type", "judged", "right", "95 % interval", "wrong", "unclear"];
  $("more").replaceChildren(make("h2", {}, "Right, by task type"),
    make("table", { class: "stack" }, make("thead", {}, make("tr", {}, names.map((name, number) =>
      make("th", { class: number ? "n" : "" }, name)))), make("tbody", {}, lines)),
    make("p", { class: "soft small" },
      "Unclear rows count as not right. The interval is Wilson's. Every verdict is on the disk."));
}

const bounds = (one) => (one.judged ? `${percent(one.low)} to ${percent(one.high)}` : "");

// "right" is saved at once; the other two ask for a reason first.
function choose(word) {
  chosen = word;
  for (const each of ["right", "wrong", "unclear"]) {
    $(each).setAttribute("aria-pressed", String(each === word));
  }
  if (word === "right" || $("reason").value.trim()) save();
  else {
    tell(`Why is it ${word}? Enter saves.`);
    $("reason").focus();
  }
}

function enter(event) {
  if (event.key !== "Enter" || event.isComposing) return;
  event.preventDefault();
  if (chosen || verdicts[row().key]) {
    chosen ||= verdicts[row().key].verdict;
    save();
  } else tell("Right, wrong or unclear? Escape leaves the field, then r, w or u.");
}

async function save() {
  const { key } = row();
  const after = { verdict: chosen, reason: $("reason").value };
  if (await change({ key, before: verdicts[key] ?? null, after }, true)) next();
}

async function change(wanted, remember) {
  if (saving) return false;
  saving = true;
  const state = await ask("/save", wanted);
  saving = false;
  if (!state) {
    await refresh();
    return false;
  }
  take(state);
  if (remember) done.push({ ...wanted, after: verdicts[wanted.key] ?? null });
  tell("");
  return true;
}

// After a refusal: show what the other page did, and keep what was typed.
async function refresh() {
  const message = $("notice").textContent, typed = $("reason").value, word = chosen;
  const before = verdicts[row().key];
  const state = await ask("/state");
  if (state) take(state);
  if (state && !same(before, verdicts[row().key])) show();
  else chosen = word;
  $("reason").value = typed;
  tell(message, "bad");
}

function move(step) {
  place = Math.min(Math.max(place + step, 0), rows.length - 1);
  tell("");
  show();
  window.scrollTo(0, 0);
}

function next() {
  const order = rows.map((_, number) => (place + 1 + number) % rows.length);
  const open = order.find((number) => !verdicts[rows[number].key]);
  if (open === undefined) {
    show();
    tell("All rows of the sample are judged.", "good");
  } else move(open - place);
}

async function undo() {
  const last = done.at(-1);
  if (!last) return;
  if (!await change({ key: last.key, before: last.after, after: last.before }, false)) return;
  done.pop();
  place = rows.findIndex((each) => each.key === last.key);
  show();
  tell("Undone.");
}

start();
