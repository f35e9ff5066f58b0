// One table of results at a time, of the answer path and the split that are chosen. Without this script, and in print, all
// of them stand one behind the other.
for (const box of document.querySelectorAll(".switched")) {
  const form = box.querySelector("form");
  const sheets = [...box.querySelectorAll(".sheet")];

  function show() {
    const { answer, split } = Object.fromEntries(new FormData(form));
    for (const sheet of sheets) sheet.hidden = sheet.dataset.answer !== answer || sheet.dataset.split !== split;
    const measured = sheets.some((sheet) => !sheet.hidden);
    form.querySelector("output").textContent = measured ? `${answer} path, split ${split}` : "Not measured.";
  }

  form.hidden = false;
  form.addEventListener("input", show);
  form.addEventListener("submit", (event) => event.preventDefault());
  show();
}
