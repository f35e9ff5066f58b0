"use strict";
for (const gallery of document.querySelectorAll(".gallery")) {
  const form = gallery.querySelector("form");
  const cards = [...gallery.querySelectorAll(".card")];
  const suits = (entry, wanted) =>
    (!wanted.method || entry.dataset.method === wanted.method) &&
    (!wanted.verdict ||
      (wanted.verdict === "right" && entry.dataset.right === "yes") ||
      (wanted.verdict === "wrong" && entry.dataset.right === "no") ||
      (wanted.verdict === "disagree" && entry.dataset.agree === "no"));
  const apply = () => {
    const wanted = Object.fromEntries(new FormData(form));
    let shown = 0;
    for (const card of cards) {
      let any = false;
      for (const entry of card.querySelectorAll(".entry")) {
        entry.hidden = !suits(entry, wanted);
        any = any || !entry.hidden;
      }
      const placed = (!wanted.domain || card.dataset.domain === wanted.domain) &&
        (!wanted.label || card.dataset.label.split("\n").includes(wanted.label));
      card.hidden = !(any && placed);
      shown += card.hidden ? 0 : 1;
    }
    form.querySelector("output").textContent = `${shown} of ${cards.length} images`;
  };
  form.hidden = false;
  form.elements.method.value = gallery.dataset.first;
  form.addEventListener("change", apply);
  apply();
}
