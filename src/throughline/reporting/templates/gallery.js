// The gallery: all images stand in a JSON block, a page of them in the document.
for (const gallery of document.querySelectorAll(".gallery")) {
  const PER_PAGE = 24;
  const data = dataOf(gallery);
  const form = gallery.querySelector("form");
  const shelf = gallery.querySelector(".cards");
  const pager = gallery.querySelector(".pager");
  const [previous, next] = [".previous", ".next"].map((name) => pager.querySelector(name));
  let page = 1;
  let results = [];

  /** One method's answers to one image, unfolded. */
  const entryOf = ([method, seed, said]) => {
    const classes = new Set(said.map((one) => one[1]));
    return {
      method, seed, said,
      right: said.every((one) => one[3] === 1),
      agree: classes.size === 1 && !classes.has(-1),
    };
  };
  const images = data.images.map(([id, domain, labels, picture, entries]) =>
    ({ id, domain, labels, picture, entries: entries.map(entryOf) }));

  const suits = (entry, wanted) =>
    (wanted.method === "" || entry.method === Number(wanted.method)) &&
    (wanted.verdict === "" || entry.right === (wanted.verdict === "right")) &&
    (wanted.paths === "" || entry.agree === (wanted.paths === "agree"));

  function found() {
    const wanted = Object.fromEntries(new FormData(form));
    const hits = [];
    for (const image of images) {
      if (wanted.domain !== "" && image.domain !== Number(wanted.domain)) continue;
      if (wanted.label !== "" && !image.labels.includes(Number(wanted.label))) continue;
      const entries = image.entries.filter((entry) => suits(entry, wanted));
      if (entries.length) hits.push({ image, entries });
    }
    return hits;
  }

  function textOf(answer, parts) {
    const details = make("details");
    details.append(make("summary", "", answer === "reasoning" ? "chain" : "text"));
    for (const [stage, text] of parts) {
      const block = make("div", "stage");
      if (stage) block.append(make("b", "", stage));
      block.append(make("span", "", text));
      details.append(block);
    }
    return details;
  }

  const namesOf = (entry) =>
    [...new Set(entry.said.map((one) => (one[1] < 0 ? "no class" : data.classes[one[1]])))].join(" or ");

  /** What the methods that are not shown said, method by method; nothing where all said the same as those shown. */
  function othersOf({ image, entries }) {
    const shown = new Set(entries.map(namesOf));
    const others = image.entries.filter((entry) => !entries.includes(entry) && !(shown.size === 1 && shown.has(namesOf(entry))));
    return others.map((entry) => `${data.methods[entry.method]}: ${namesOf(entry)}`).join("; ");
  }

  function entrySection(entry) {
    const section = make("section", "entry");
    const title = make("h4", "", `${data.methods[entry.method]} `);
    const apart = !entry.agree && entry.said.length > 1 ? " · paths disagree" : "";
    title.append(make("small", "", `seed ${entry.seed}${apart}`));
    section.append(title);
    for (const [place, predicted, outcome, correct, parts] of entry.said) {
      const answer = data.answers[place];
      const line = make("p");
      line.append(make("span", "path", answer), " ");
      line.append(make("b", "", predicted < 0 ? "no class" : data.classes[predicted]), " ");
      line.append(make("span", correct ? "right" : "wrong", correct ? "✓ right" : "✗ wrong"));
      if (data.outcomes[outcome] !== "ok") line.append(" ", make("span", "outcome", data.outcomes[outcome]));
      section.append(line);
      if (parts && parts.length && (answer === "reasoning" || predicted < 0)) section.append(textOf(answer, parts));
    }
    return section;
  }

  function card(found) {
    const { image, entries } = found;
    const article = make("article", "card");
    const labels = image.labels.map((label) => data.classes[label]).join(", ");
    const domain = data.domains[image.domain];
    article.append(pictureOf(image, `held-out image of class ${labels} in domain ${domain}`));
    const about = make("div", "about");
    const title = make("h3", "", `${labels} `);
    title.append(make("small", "", domain));
    about.append(title, make("p", "id", image.id), ...entries.map(entrySection));
    const others = othersOf(found);
    if (others) about.append(make("p", "note", `Otherwise: ${others}.`));
    article.append(about);
    return article;
  }

  function show() {
    const pages = Math.max(1, Math.ceil(results.length / PER_PAGE));
    page = Math.min(Math.max(page, 1), pages);
    shelf.replaceChildren(...results.slice((page - 1) * PER_PAGE, page * PER_PAGE).map(card));
    if (!results.length) shelf.append(make("p", "missing", "No image matches these filters."));
    form.querySelector("output").textContent = `${grouped(results.length)} of ${grouped(images.length)} images`;
    pager.hidden = pages === 1;
    pager.querySelector(".where").textContent = `page ${grouped(page)} of ${grouped(pages)}`;
    previous.disabled = page === 1;
    next.disabled = page === pages;
  }

  function filtered() {
    results = found();
    page = 1;
    show();
  }

  function turn(step) {
    page += step;
    show();
    shelf.focus({ preventScroll: true }); // the button may just have been disabled
    form.scrollIntoView();
  }

  const named = (names) => names.map((name, place) => [place, name]);
  addOptions(form.elements.method, named(data.methods));
  addOptions(form.elements.domain, named(data.domains));
  const labels = new Set(images.flatMap((image) => image.labels));
  addOptions(form.elements.label, named(data.classes).filter(([place]) => labels.has(place)));
  form.elements.method.value = String(data.first);
  form.hidden = false;
  form.addEventListener("input", filtered);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(filtered)); // the fields are cleared after this event
  previous.addEventListener("click", () => turn(-1));
  next.addEventListener("click", () => turn(1));
  filtered();
}
