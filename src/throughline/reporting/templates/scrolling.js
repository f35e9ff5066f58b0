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
