// Everything shown here was written by others. It enters the document as text (textContent, append of strings)
// and nothing else. What is filtered, searched and paged stands in the address after the "#": a view can be
// shared, and Back leads to the page before.
const PER_PAGE = 24;
const images = JSON.parse(document.getElementById("chains").textContent);
const form = document.querySelector("form");
const cards = document.querySelector(".cards");
const pager = document.querySelector(".pager");
const [previous, next] = ["previous", "next"].map((id) => document.getElementById(id));
const candidates = images.flatMap((image) => image.candidates);
let page = 1;

// ---- filters

/** Fills a select with the values that occur, each with how often; hides it when there are none. */
function fill(name, values, counted = true) {
  const counts = new Map();
  for (const value of values) counts.set(value, (counts.get(value) ?? 0) + 1);
  const select = form.elements[name];
  const inOrder = [...counts.keys()].sort((a, b) => (typeof a === "number" ? a - b : a < b ? -1 : a > b ? 1 : 0));
  for (const value of inOrder) {
    const option = make("option", "", counted ? `${value} (${grouped(counts.get(value))})` : String(value));
    option.value = String(value);
    select.append(option);
  }
  select.parentElement.hidden = counts.size === 0;
}

const verdictOf = (candidate, rule) =>
  rule ? candidate.verdicts.find((verdict) => verdict.rule === rule) : candidate.verdicts[candidate.strictest];

function suits(candidate, wanted) {
  const verdict = verdictOf(candidate, wanted.rule);
  const judged = !verdict ? "none" : verdict.accepted ? "accepted" : "rejected";
  const outcome = verdict ? verdict.outcome : candidate.failed ? "error" : "";
  return (!wanted.verdict || judged === wanted.verdict) &&
    (!wanted.outcome || outcome === wanted.outcome) &&
    (!wanted.candidate || String(candidate.number) === wanted.candidate) &&
    (!wanted.request || (wanted.request === "failed") === candidate.failed);
}

/** What was typed as a pattern: any case, any white space between the words; null when nothing was typed. */
function patternOf(typed) {
  const words = typed.trim().split(/\s+/).filter(Boolean);
  const literal = words.map((word) => word.replace(/[\\^$.*+?()[\]{}|/]/g, "\\$&"));
  return words.length ? new RegExp(literal.join("\\s+"), "giu") : null;
}

const holds = (text, pattern) => text.search(pattern) >= 0;

function found(wanted, pattern) {
  const results = [];
  for (const image of images) {
    if (wanted.domain && image.domain !== wanted.domain) continue;
    if (wanted.class && !image.labels.includes(wanted.class)) continue;
    const named = !pattern || holds(image.id, pattern);
    const suiting = image.candidates.filter((candidate) => {
      if (!suits(candidate, wanted)) return false;
      candidate.searched ??= [candidate.key, candidate.model, ...candidate.parts.map((part) => part[1])].join("\n");
      return named || holds(candidate.searched, pattern);
    });
    if (suiting.length) results.push({ image, suiting });
  }
  return results;
}

// ---- cards

/** The text into the element, what the pattern finds marked. */
function write(element, text, pattern) {
  let end = 0;
  for (const hit of pattern ? text.matchAll(pattern) : []) {
    element.append(text.slice(end, hit.index), make("mark", "", hit[0]));
    end = hit.index + hit[0].length;
  }
  element.append(text.slice(end));
  return element;
}

function verdictLine(candidate) {
  const line = make("p", "verdicts");
  if (candidate.failed) line.append(make("span", "wrong", "✗ request failed"));
  for (const { rule, outcome, accepted } of candidate.verdicts) {
    const shown = make("span", accepted ? "right" : "wrong", `${accepted ? "✓" : "✗"} ${rule} `);
    const why = outcome !== "ok" ? outcome : !accepted && rule === "correct" ? "another class" : "";
    if (why) shown.append(make("span", "outcome", why));
    line.append(shown);
  }
  if (!candidate.failed && !candidate.verdicts.length) line.append(make("span", "outcome", "not judged"));
  return line;
}

function facts(candidate) {
  const [prompted, completed, cost] = candidate.usage;
  const tokens = (count, what) => (count === null ? [] : [`${grouped(count)} ${what} tokens`]);
  return [
    `finish reason ${candidate.finish ?? "not given"}`,
    ...tokens(prompted, "prompt"),
    ...tokens(completed, "completion"),
    ...(cost === null ? [] : [`$${cost.toPrecision(3)}`]),
  ].join(" · ");
}

function candidateSection(candidate, wanted, pattern) {
  const section = make("section", "entry");
  const title = make("h4", "", `candidate ${candidate.number} `);
  const origin = new Set([candidate.model, candidate.source]); // the describer's model is the describer
  if (candidate.round) origin.add(`round ${candidate.round}`);
  title.append(write(make("small"), [...origin].join(" · "), pattern));
  const details = make("details");
  details.open = Boolean(wanted.open || pattern);
  details.append(make("summary", "", candidate.failed ? "what went wrong" : "chain"));
  for (const [stage, text] of candidate.parts) {
    const block = make("div", "stage");
    if (stage) block.append(make("b", "", stage));
    block.append(write(make("span"), text, pattern));
    details.append(block);
  }
  if (!candidate.parts.length) details.append(make("p", "note", "no text"));
  if (candidate.characters !== null) {
    details.append(make("p", "note", `Shortened; the whole text has ${grouped(candidate.characters)} characters.`));
  }
  if (candidate.contradicted) {
    details.append(make("p", "note", "The store has a second text for this request; the first one is shown."));
  }
  details.append(write(make("p", "id"), `request ${candidate.key}`, pattern));
  section.append(title, verdictLine(candidate), make("p", "note", facts(candidate)), details);
  return section;
}

function card({ image, suiting }, wanted, pattern) {
  const article = make("article", "card");
  article.append(pictureOf(image, `image ${image.id}`));
  const about = make("div", "about");
  const title = make("h3", "", image.labels.join(", "));
  title.append(" ", make("small", "", image.domain));
  about.append(title, write(make("p", "id"), image.id, pattern));
  for (const note of image.notes) about.append(make("p", "note", note));
  for (const candidate of suiting) about.append(candidateSection(candidate, wanted, pattern));
  const others = image.candidates.length - suiting.length;
  if (others) about.append(make("p", "note", `${others} more ${others === 1 ? "does" : "do"} not match the filters.`));
  article.append(about);
  return article;
}

// ---- the address and the page

const wantedNow = () => Object.fromEntries(new FormData(form));

const address = (wanted) =>
  "#" + new URLSearchParams([...Object.entries(wanted).filter(([, value]) => value), ["page", page]]);

function readAddress() {
  const given = new URLSearchParams(location.hash.slice(1));
  for (const control of form.elements) {
    if (!control.name) continue;
    const value = given.get(control.name) ?? "";
    if (control.type === "checkbox") control.checked = value === control.value;
    else control.value = value;
    if (control.tagName === "SELECT" && control.selectedIndex < 0) control.value = ""; // a value of another page
  }
  page = Number.parseInt(given.get("page"), 10) || 1;
}

function show() {
  const wanted = wantedNow();
  const pattern = patternOf(wanted.search);
  const results = found(wanted, pattern);
  const pages = Math.max(1, Math.ceil(results.length / PER_PAGE));
  page = Math.min(Math.max(page, 1), pages);
  const onPage = results.slice((page - 1) * PER_PAGE, page * PER_PAGE);
  cards.replaceChildren(...onPage.map((result) => card(result, wanted, pattern)));
  if (!results.length) cards.append(make("p", "", "No candidate matches these filters."));
  const count = results.reduce((sum, result) => sum + result.suiting.length, 0);
  form.querySelector("output").textContent =
    `${grouped(results.length)} of ${grouped(images.length)} images, ` +
    `${grouped(count)} of ${grouped(candidates.length)} candidates`;
  pager.hidden = pages === 1;
  document.getElementById("where").textContent = `page ${grouped(page)} of ${grouped(pages)}`;
  previous.disabled = page === 1;
  next.disabled = page === pages;
  return wanted;
}

function filtered() {
  page = 1;
  history.replaceState(null, "", address(show()));
}

function turn(step) {
  page += step;
  history.pushState(null, "", address(show()));
  cards.focus({ preventScroll: true }); // the button may just have been disabled
  form.scrollIntoView();
}

fill("domain", images.map((image) => image.domain));
fill("class", images.flatMap((image) => image.labels));
fill("rule", candidates.flatMap((candidate) => candidate.verdicts.map((verdict) => verdict.rule)), false);
fill("outcome", candidates.flatMap((candidate) =>
  [...candidate.verdicts.map((verdict) => verdict.outcome), ...(candidate.failed ? ["error"] : [])]), false);
fill("candidate", candidates.map((candidate) => candidate.number));
form.hidden = false;
let waiting;
form.addEventListener("input", (event) => {
  clearTimeout(waiting);
  waiting = setTimeout(filtered, event.target.name === "search" ? 150 : 0); // a word is typed letter by letter
});
form.addEventListener("submit", (event) => event.preventDefault());
form.addEventListener("reset", () => setTimeout(filtered)); // the fields are cleared after this event
previous.addEventListener("click", () => turn(-1));
next.addEventListener("click", () => turn(1));
addEventListener("hashchange", () => {
  readAddress();
  show();
});
readAddress();
show();
