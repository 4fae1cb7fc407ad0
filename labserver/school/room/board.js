// The board: reads the room's feed, adds up what came, and shows it. Each verdict is counted as it comes: that none is
// missing and none comes twice is the feed's promise, and nothing here would cover up for it.
// What people wrote becomes text, never markup.

const STUCK_AFTER = 3; // tries without more points
const SHOWN_FAILURES = 3;
const RETRY = 3000; // ms, where the browser has given up and we come back ourselves

const byId = (id) => document.getElementById(id);
const element = (tag, text = "", kind = "") => Object.assign(document.createElement(tag), {textContent: text, className: kind});

/** Text whose `backticks` are code, as nodes. */
const prose = (text) => text.split("`").map((part, at) => (at % 2 ? element("code", part) : document.createTextNode(part)));

/** A participant's name. */
const called = (name) => element("span", name, "name");

// --- what came

let exercises = new Map(); // by id, in order
let signs = {};
let people = new Map(); // by name: {name, newest, cells: by exercise}
let verdicts = 0;
let lastId = "";

function add(verdict) {
  verdicts += 1;
  if (!exercises.has(verdict.exercise)) return; // of another version of the lab
  if (!people.has(verdict.name)) people.set(verdict.name, {name: verdict.name, newest: null, cells: new Map()});
  const person = people.get(verdict.name);
  const cell = person.cells.get(verdict.exercise) ?? {tries: 0, best: 0, since: 0, solved: false};
  const better = verdict.points > cell.best;
  person.newest = verdict.exercise;
  person.cells.set(verdict.exercise, {
    ...verdict,
    tries: cell.tries + 1,
    best: Math.max(cell.best, verdict.points),
    since: better ? 0 : cell.since + (verdict.verdict !== "not checked"), // tries since the best one
    solved: cell.solved || verdict.verdict === "solved",
  });
  changed.add(verdict.name);
}

const newest = (person) => person.cells.get(person.newest);
const isStuck = (cell) => !cell.solved && cell.since >= STUCK_AFTER;
const solvers = (id) => [...people.values()].filter((person) => person.cells.get(id)?.solved).length;

/** The failed checks of everybody's newest verdict, the most frequent first. */
function failures() {
  const found = new Map();
  for (const cell of [...people.values()].map(newest)) {
    for (const check of cell.solved ? [] : cell.failed) {
      const key = JSON.stringify([cell.exercise, check]);
      if (!found.has(key)) found.set(key, {exercise: cell.exercise, check, people: 0, mistakes: new Map()});
      const failure = found.get(key);
      failure.people += 1;
      failure.mistakes.set(cell.misconception, (failure.mistakes.get(cell.misconception) ?? 0) + 1);
    }
  }
  return [...found.values()].sort((a, b) => b.people - a.people);
}

/** What to say: what is known of a mistake that half of them make, else the check's own hint. */
function sentence(failure) {
  const exercise = exercises.get(failure.exercise);
  const [name, count] = [...failure.mistakes].sort((a, b) => b[1] - a[1])[0];
  const known = 2 * count >= failure.people && Object.hasOwn(exercise.says, name);
  return known ? exercise.says[name] : exercise.checks[failure.check]?.hint ?? "";
}

// --- what is shown

const changed = new Set(); // names of people whose rows are out of date
const rows = new Map(); // by name
let due = false;

function draw() {
  if (due) return;
  due = true;
  setTimeout(() => { due = false; drawNow(); }, 50);
}

function drawNow() {
  byId("nobody").hidden = people.size > 0;
  byId("board").hidden = people.size === 0;
  byId("sum").textContent = `${verdicts} verdict${verdicts === 1 ? "" : "s"}, ${people.size} ${people.size === 1 ? "person" : "people"}`;
  for (const name of changed) drawRow(people.get(name));
  changed.clear();
  for (const id of exercises.keys()) byId(`solved-${id}`).textContent = `${signs.solved} ${solvers(id)}`;
  drawFailures();
  drawStuck();
}

function drawHead() {
  byId("exercises").replaceChildren(Object.assign(element("th", "participant"), {scope: "col"}), ...[...exercises.values()].map((exercise) => {
    const head = Object.assign(element("th", exercise.number), {scope: "col", title: exercise.title});
    head.append(Object.assign(element("small"), {id: `solved-${exercise.id}`, title: "how many have solved it"}));
    return head;
  }));
  const told = ["solved", "wrong", "unstable", "crashed", "timed out", "not checked"].map((name) => `${signs[name]} ${name}`);
  byId("key").textContent = `${told.join(", ")}, a number: points; ×3: tries; framed: the newest; thick frame: stuck. ` +
    "Below each exercise: how many have solved it.";
}

function drawRow(person) {
  const row = rows.get(person.name) ?? newRow(person.name);
  for (const [at, id] of [...exercises.keys()].entries()) {
    const cell = person.cells.get(id);
    if (cell) drawCell(row.cells[at + 1], cell, id === person.newest);
  }
}

function drawCell(shown, cell, isNewest) {
  const stuck = isNewest && isStuck(cell);
  const sign = cell.solved ? signs.solved : cell.verdict === "partial" ? cell.points : signs[cell.verdict];
  const said = cell.solved ? "solved" : `${cell.verdict}, ${cell.points} points, the best ${cell.best}`;
  const failed = cell.failed.length && !cell.solved ? `; failed: ${cell.failed.join(", ")}` : "";
  shown.replaceChildren(document.createTextNode(sign), element("small", `×${cell.tries}`));
  shown.title = `${said}; ${cell.tries} ${cell.tries === 1 ? "try" : "tries"}${stuck ? "; stuck" : ""}${failed}`;
  shown.setAttribute("aria-label", shown.title);
  shown.className = [cell.solved ? "solved" : "", isNewest ? "newest" : "", stuck ? "stuck" : ""].join(" ").trim();
}

function newRow(name) {
  const row = element("tr");
  const head = Object.assign(element("th"), {scope: "row", title: name});
  head.append(called(name));
  row.append(head, ...[...exercises.keys()].map(() => element("td")));
  const after = [...rows.keys()].filter((other) => other.localeCompare(name) > 0).sort((a, b) => a.localeCompare(b))[0];
  byId("people").insertBefore(row, after === undefined ? null : rows.get(after));
  rows.set(name, row);
  return row;
}

function drawFailures() {
  const found = failures();
  byId("nothing-fails").hidden = found.length > 0;
  byId("fails").replaceChildren(...found.slice(0, SHOWN_FAILURES).map((failure) => {
    const exercise = exercises.get(failure.exercise);
    const item = element("li");
    item.append(
      element("strong", `${exercise.number}: ${failure.people} ${failure.people === 1 ? "person" : "people"} `),
      ...prose(exercise.checks[failure.check]?.title ?? failure.check),
      element("br"), ...prose(sentence(failure)));
    return item;
  }));
}

function drawStuck() {
  const found = [...people.values()].filter((person) => isStuck(newest(person)));
  found.sort((a, b) => newest(b).since - newest(a).since);
  byId("nobody-stuck").hidden = found.length > 0;
  byId("stuck").replaceChildren(...found.map((person) => {
    const item = element("li");
    const {exercise, since} = newest(person);
    item.append(called(person.name), element("small", ` ${exercises.get(exercise).number}, ${since} tries`));
    return item;
  }));
}

function tell(text, away) {
  byId("state").textContent = text;
  byId("state").classList.toggle("away", away);
}

// --- the feed

function begin({how, exercises: known, signs: given}) {
  signs = given;
  exercises = new Map(known.map((exercise) => [exercise.id, exercise]));
  if (how !== "resume") { // everything comes again
    people = new Map();
    verdicts = 0;
  }
  rows.clear();
  byId("people").replaceChildren();
  for (const name of people.keys()) changed.add(name);
  drawHead();
  draw();
}

let source = null;

function listen() {
  source?.close();
  source = new EventSource("feed" + (lastId && `?after=${encodeURIComponent(lastId)}`));
  source.addEventListener("room", (event) => {
    lastId = event.lastEventId;
    begin(JSON.parse(event.data));
    tell("live", false);
  });
  source.addEventListener("message", (event) => {
    lastId = event.lastEventId;
    add(JSON.parse(event.data));
    draw();
  });
  source.addEventListener("error", () => {
    tell("The room does not answer: trying again", true);
    if (source.readyState === EventSource.CLOSED) setTimeout(enter, RETRY); // refused, which has a reason
  });
}

/** Listen if we may: an EventSource does not say why it was refused. */
async function enter() {
  const answer = await fetch("key").catch(() => null);
  if (answer?.status === 401) tell("This page has no key: open the address that labserver room printed", true);
  else listen();
}

/** Trade the key behind # for a cookie, and let nobody read it from the address on the screen. */
async function open() {
  const key = decodeURIComponent(location.hash.slice(1));
  if (key) {
    const headers = {"Content-Type": "application/json"};
    const answer = await fetch("key", {method: "POST", headers, body: JSON.stringify({key})}).catch(() => null);
    if (answer?.status === 401) return tell("This key does not open the board: open the address labelled Board", true);
    if (answer?.ok) history.replaceState(null, "", location.pathname);
  }
  return enter();
}

addEventListener("hashchange", open);
open();
