"use strict";
// What scrolls can be reached with Tab, and only that: a stop at every table would be a long way to the gallery.

function markReachable() {
  for (const box of document.querySelectorAll(".scroll")) {
    if (box.scrollWidth > box.clientWidth || box.scrollHeight > box.clientHeight) box.tabIndex = 0;
    else box.removeAttribute("tabindex");
  }
}
for (const event of ["load", "resize", "input"]) addEventListener(event, markReachable);
document.addEventListener("toggle", markReachable, true);

// Folded parts open for a link into them, and for print.
function openFor(id) {
  for (let part = document.getElementById(id); part; part = part.parentElement) if (part.localName === "details") part.open = true;
}
addEventListener("hashchange", () => openFor(location.hash.slice(1)));
openFor(location.hash.slice(1));
let folded = [];
addEventListener("beforeprint", () => {
  folded = [...document.querySelectorAll("details:not([open])")];
  for (const part of folded) part.open = true;
});
addEventListener("afterprint", () => {
  for (const part of folded) part.open = false;
});
