"use strict";
/* All text reaches the page as textContent: no markup is ever made of it. */
const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const number = (value) => value.toLocaleString("en-GB");
let browser = null;

function help(title, ...lines) {
  const heading = document.createElement("h2");
  heading.textContent = title;
  $("help").append(heading);
  for (const line of lines) {
    const element = document.createElement(line.startsWith("$ ") ? "pre" : "p");
    element.textContent = line.startsWith("$ ") ? line.slice(2) : line;
    $("help").append(element);
  }
  $("help").hidden = false;
}

function writeList() {
  const wanted = $("find").value.trim().toLowerCase();
  const found = data.windows.filter((row) => !wanted || row.some((value) => String(value).toLowerCase().includes(wanted)));
  $("list").replaceChildren(...found.map(([name, start, stop, original, call]) => {
    const item = document.createElement("li");
    const button = document.createElement("button");
    const title = document.createElement("strong");
    const more = document.createElement("small");
    button.type = "button";
    title.textContent = original || name;
    title.title = original === name ? name : `${original} (here: ${name})`;
    more.textContent = `${call} \u00b7 ${number(start)}\u2013${number(stop)}`;
    button.append(title, more);
    button.addEventListener("click", () => {
      for (const other of $("list").querySelectorAll("[aria-current]")) other.removeAttribute("aria-current");
      button.setAttribute("aria-current", "true");
      if (browser) browser.search(`${name}:${start + 1}-${stop}`);
    });
    item.append(button);
    return item;
  }));
  const rest = data.total - data.windows.length;
  $("shown").textContent = `${number(found.length)} of ${number(data.windows.length)} listed` +
    (rest > 0 ? `; ${number(rest)} more are in names.tsv and in the browser` : "");
}

async function start() {
  document.title = $("title").textContent = data.title;
  $("notice").textContent = data.notice;
  $("notice").hidden = !data.notice;
  $("find").addEventListener("input", writeList);
  writeList();
  if (!data.total) {
    help("There is nothing to show", "No sequence was explained in this run.");
  } else if (location.protocol === "file:") {
    help("This folder needs a web server", "Browsers let a page that was opened as a file load nothing. In this folder, run",
      "$ python3 serve.py", "and open the address that it prints.");
  } else if (typeof igv === "undefined" || !igv.createBrowser) {
    help("igv.js is not here yet", "Put its file igv.min.js beside this page; it is in the npm package igv, for instance",
      "$ npm pack igv && tar xzf igv-*.tgz && cp package/dist/igv.min.js .",
      "or make this folder again with --igv-js igv.min.js.");
  } else {
    browser = await igv.createBrowser($("browser"), data.igv);
    const first = $("list").querySelector("button");
    if (first) first.setAttribute("aria-current", "true");
    document.documentElement.dataset.ready = "yes";
  }
}

start().catch((error) => help("igv.js could not show this folder", String(error && error.message || error)));
