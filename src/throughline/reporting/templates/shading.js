// Chains with every token shaded by its probability, a teacher's beside the model's own. One token of a chain can be
// reached with Tab, the others from there with the arrow keys.
for (const box of document.querySelectorAll("#shading")) {
  const folds = dataOf(box);
  const form = box.querySelector("form");
  const columns = box.querySelector(".columns");
  const told = form.querySelector("output");
  const titles = { teacher: "A teacher's chains", self: "The model's own chains", label: "The class" };
  let chosen = null;

  function tell(token) {
    if (chosen) chosen.classList.remove("chosen");
    chosen = token;
    token.classList.add("chosen");
    const { text, before, after, states } = token.token;
    told.textContent = `“${text.trim() || text}”: ${before.toFixed(3)} (${states[0]}), ${after.toFixed(3)} (${states[1]})`;
  }

  function move(from, key) {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[key];
    const tokens = [...from.parentElement.children];
    const place = key === "Home" ? 0 : key === "End" ? tokens.length - 1 : tokens.indexOf(from) + (step ?? NaN);
    const to = tokens[place];
    if (!to) return false;
    from.tabIndex = -1;
    to.tabIndex = 0;
    to.focus();
    return true;
  }

  function chainArticle(chain, by) {
    const article = make("article", "shaded");
    const title = make("h4", "", `${chain.label} `);
    title.append(make("small", "", chain.id));
    const text = make("p", "tokens");
    text.setAttribute("role", "group");
    text.setAttribute("aria-label", `chain of ${chain.id}, token by token`);
    chain.tokens.forEach(([word, before, after], place) => {
      const token = make("span", "token", word);
      const probability = by === 1 ? before : after;
      token.style.setProperty("--unexpected", (1 - probability).toFixed(3));
      if (probability < 0.25) token.classList.add("low");
      token.tabIndex = place ? -1 : 0;
      token.token = { text: word, before, after, states: [chain.before, chain.after] };
      token.title = `before ${before.toFixed(3)}, after ${after.toFixed(3)}`;
      text.append(token);
    });
    article.append(title, text);
    return article;
  }

  function show() {
    const by = Number(form.elements.by.value);
    const { chains } = folds[Number(form.elements.fold.value)];
    chosen = null;
    told.textContent = "No token chosen.";
    columns.replaceChildren(...Object.keys(titles).flatMap((source) => {
      const ours = chains.filter((chain) => chain.source === source);
      if (!ours.length) return [];
      const column = make("div", "column");
      const states = [...new Set(ours.map((chain) => `${chain.before} to ${chain.after}`))].join("; ");
      const title = make("h3", "", `${titles[source]} `);
      title.append(make("small", "", states));
      column.append(title, ...ours.map((chain) => chainArticle(chain, by)));
      return [column];
    }));
  }

  addOptions(form.elements.fold, folds.map((fold, place) => [place, fold.name]));
  form.hidden = false;
  form.addEventListener("input", show);
  form.addEventListener("submit", (event) => event.preventDefault());
  for (const kind of ["pointerover", "focusin"]) {
    columns.addEventListener(kind, (event) => {
      if (event.target.token) tell(event.target);
    });
  }
  columns.addEventListener("keydown", (event) => {
    if (event.target.token && move(event.target, event.key)) event.preventDefault();
  });
  show();
}
