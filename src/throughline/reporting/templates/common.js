"use strict";
// What the pages and the parts of the report share. All text of others enters the document through `make`, as text.

/** A new element with a class and a text, each if there is one. */
function make(tag, name, text) {
  const element = document.createElement(tag);
  if (name) element.className = name;
  if (text !== undefined) element.textContent = text;
  return element;
}

/** The picture of an image, described by some words, or a box that says that there is none. */
function pictureOf(image, words) {
  if (!image.picture) return make("div", "no-image", "no picture");
  const picture = make("img");
  picture.src = image.picture;
  picture.alt = words;
  return picture;
}

/** The JSON block inside an element. */
const dataOf = (element) => JSON.parse(element.querySelector('script[type="application/json"]').textContent);

/** Adds an option for every [value, text]. */
function addOptions(select, pairs) {
  for (const [value, text] of pairs) {
    const option = make("option", "", text);
    option.value = String(value);
    select.append(option);
  }
}

const grouped = (value) => value.toLocaleString("en");
