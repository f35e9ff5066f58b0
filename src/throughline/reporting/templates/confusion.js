// The confusion table of one target, method and answer path; of many classes the commonest mix-ups only.
for (const box of document.querySelectorAll(".confusion")) {
  const data = dataOf(box);
  const form = box.querySelector("form");
  const place = box.querySelector(".scroll");
  const names = [...data.classes, "no class"];
  const ROWS = 40;

  /** Rows of [true, given, count]. */
  const cellsOf = ({ cells }) => Array.from({ length: cells.length / 3 }, (_, n) => cells.slice(3 * n, 3 * n + 3));

  function headed(texts) {
    const table = make("table");
    const row = make("tr");
    for (const text of texts) {
      const head = make("th", "");
      head.append(make("span", "", text));
      head.scope = "col";
      row.append(head);
    }
    const top = make("thead");
    top.append(row);
    table.append(top, make("tbody"));
    return table;
  }

  function rowOf(first, texts) {
    const row = make("tr");
    const head = make("th", "", first);
    head.scope = "row";
    row.append(head, ...texts.map((text) => make("td", "", text)));
    return row;
  }

  function whole(cells) {
    const counts = data.classes.map(() => new Array(names.length).fill(0));
    for (const [truth, given, count] of cells) counts[truth][given] = count;
    const table = headed(["true class", ...names]);
    table.className = "matrix";
    counts.forEach((row, truth) => {
      const total = row.reduce((sum, count) => sum + count, 0);
      const shown = rowOf(data.classes[truth], row.map((count) => (count ? String(count) : "")));
      row.forEach((count, given) => {
        const cell = shown.children[given + 1];
        if (count) cell.style.setProperty("--share", (count / total).toFixed(3));
        cell.className = given === truth ? "count diagonal" : "count";
      });
      table.tBodies[0].append(shown);
    });
    return table;
  }

  function commonest(cells) {
    const table = headed(["true class", "answered as", "times", "of"]);
    const totals = new Map();
    for (const [truth, , count] of cells) totals.set(truth, (totals.get(truth) ?? 0) + count);
    const mixed = cells.filter(([truth, given]) => truth !== given).sort((a, b) => b[2] - a[2]).slice(0, ROWS);
    for (const [truth, given, count] of mixed) {
      table.tBodies[0].append(rowOf(names[truth], [names[given], String(count), String(totals.get(truth))]));
    }
    return table;
  }

  function show() {
    const wanted = Object.fromEntries(new FormData(form));
    const table = data.tables.find((one) => ["target", "method", "answer"].every((key) => one[key] === wanted[key]));
    if (!table) {
      place.replaceChildren(make("p", "missing", "Not measured."));
      form.querySelector("output").textContent = "";
      return;
    }
    const cells = cellsOf(table);
    const all = cells.reduce((sum, cell) => sum + cell[2], 0);
    const right = cells.reduce((sum, [truth, given, count]) => sum + (truth === given ? count : 0), 0);
    form.querySelector("output").textContent = `${grouped(right)} of ${grouped(all)} right`;
    place.replaceChildren(data.classes.length <= data.largest ? whole(cells) : commonest(cells));
  }

  for (const key of ["target", "method", "answer"]) {
    addOptions(form.elements[key], [...new Set(data.tables.map((one) => one[key]))].map((name) => [name, name]));
  }
  form.hidden = false;
  form.addEventListener("input", show);
  form.addEventListener("submit", (event) => event.preventDefault());
  show();
}
