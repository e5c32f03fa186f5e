"use strict";
/* All text reaches the page as textContent or as an attribute's value: no markup is ever made of it. */
const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const make = (tag, properties = {}, ...children) => {
  const element = document.createElement(tag);
  for (const [key, value] of Object.entries(properties)) {
    if (key === "class") element.className = value;
    else if (key.startsWith("aria-") || key === "role" || key === "scope") element.setAttribute(key, value);
    else element[key] = value;
  }
  element.append(...children);
  return element;
};
const number = (value) => value.toLocaleString("en-GB");
const percent = (value, digits = 1) => `${(100 * value).toFixed(digits)} %`;
const plural = (count, noun) => `${number(count)} ${noun}${count === 1 ? "" : "s"}`;
const { windows, ranks, unit } = data;
const last = ranks.length - 1;
const taxonOf = (window, rank) => data.taxa[rank][window.taxa[rank]];

/* ---------------------------------------------------------------- colours */

const dark = matchMedia("(prefers-color-scheme: dark)");
let printing = false;
let colours = [];
let inks = [];
/* Scores come as bytes: 127 is 0, 254 is 1, 0 is -1, and 255 says that there is none. */
function mixColours() {
  const palette = data.palettes[dark.matches && !printing ? "dark" : "light"];
  const light = (rgb) => {
    const parts = rgb.map((c) => (c / 255 <= 0.03928 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
  };
  colours = [];
  inks = [];
  for (let byte = 0; byte < 255; byte++) {
    const stops = byte >= 127 ? palette.towards : palette.against;
    const place = (Math.abs(byte - 127) / 127) * (stops.length - 1);
    const from = Math.min(Math.floor(place), stops.length - 2);
    const rgb = stops[from].map((c, i) => Math.round(c + (stops[from + 1][i] - c) * (place - from)));
    colours.push(`rgb(${rgb.join(" ")})`);
    const isDark = light(rgb) < 0.179;
    if (place < 0.9) inks.push(isDark ? "rgb(190 197 206)" : "rgb(78 85 97)");
    else inks.push(isDark ? "#ffffff" : "#000000");
  }
  document.documentElement.style.setProperty("--towards", colours[230]);
}
const scoreOf = (byte) => (byte - 127) / 127;
const bytesOf = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));

/* Sites of a window: [start, stop) as letters of its sequence, and a byte for each. */
function sitesOf(window, view) {
  const bytes = bytesOf(window.masks[Math.min(view, window.masks.length - 1)]);
  const sites = [];
  let at = 0;
  for (let i = 0; i < window.spans.length; i += 3) {
    const [gap, length, count] = window.spans.slice(i, i + 3);
    for (let j = 0; j < count; j++) {
      at += gap;
      sites.push([at, at + length, bytes[sites.length]]);
      at += length;
    }
  }
  return sites;
}

/* ---------------------------------------------------------------- summary */

function writeSummary() {
  const { counts } = data;
  document.title = $("title").textContent = data.title;
  $("model").textContent = data.model;
  $("notice").textContent = data.notice;
  $("notice").hidden = !data.notice;
  for (const [term, value, more] of data.tiles) {
    const shown = make("dd", {}, value);
    if (more) shown.append(make("small", {}, more));
    $("tiles").append(make("div", {}, make("dt", {}, term), shown));
  }
  for (const [term, value] of data.about) {
    $("about").querySelector("dl").append(make("dt", {}, term), make("dd", {}, value));
  }
  $("reads-heading").textContent = counts.shown === counts.windows ? "Reads" : `The first ${plural(counts.shown, "window")}`;
  if (counts.shown < counts.windows) {
    $("left-out").textContent =
      `${plural(counts.windows - counts.shown, "later window")} of ${number(counts.windows)} not on this page ` +
      "(--html-limit shows more); the summary above counts all of them.";
    $("left-out").hidden = false;
  }
  if (windows.length) writeTaxa(last);
  drawHistogram();
}

function writeTaxa(rank, all = false) {
  const few = 10;
  const rows = data.summary[rank];
  const tabs = make("div", { class: "tabs" }, make("h3", {}, "Called"));
  ranks.forEach((name, i) => {
    const tab = make("button", { type: "button", "aria-pressed": String(i === rank) }, name);
    tab.addEventListener("click", () => {
      writeTaxa(i);
      $("taxa").querySelectorAll(".tabs button")[i].focus();
    });
    tabs.append(tab);
  });
  const head = make("tr");
  for (const [text, kind] of [["taxon", ""], ["windows", "number"], ["mean prob.", "number"], ["important", "number"], ["", "meter"]]) {
    head.append(make("th", { class: kind, scope: "col" }, text));
  }
  const body = make("tbody");
  for (const [name, count, probability, share, taxon] of all ? rows : rows.slice(0, few)) {
    /* Below 0: none of its reads is on the page. */
    const choose = taxon < 0 ? name : make("button", { type: "button", title: "show these reads" }, name);
    if (taxon >= 0) {
      choose.addEventListener("click", () => {
        $("taxon").value = `${rank} ${taxon}`;
        refresh();
        $("reads").scrollIntoView({ block: "start" });
      });
    }
    const bar = make("i");
    bar.style.width = `${100 * share}%`;
    body.append(
      make("tr", {}, make("th", { scope: "row" }, choose), make("td", { class: "number" }, number(count)),
        make("td", { class: "number" }, percent(probability)), make("td", { class: "number" }, percent(share)),
        make("td", { class: "meter", "aria-hidden": "true" }, make("div", {}, bar))),
    );
  }
  const parts = [tabs, make("div", { class: "table" }, make("table", {}, make("thead", {}, head), body))];
  if (!all && rows.length > few) {
    const more = make("button", { type: "button" }, `show all ${number(rows.length)}`);
    more.addEventListener("click", () => writeTaxa(rank, true));
    parts.push(more);
  }
  $("taxa").replaceChildren(...parts);
}

function drawHistogram() {
  const { histogram, threshold } = data;
  const total = histogram.reduce((a, b) => a + b, 0);
  if (!total) return;
  const space = "http://www.w3.org/2000/svg";
  const draw = (tag, attributes, text = "") => {
    const element = document.createElementNS(space, tag);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    element.textContent = text;
    return element;
  };
  const [width, height, foot] = [360, 150, 18];
  const low = data.signed ? -1 : 0;
  const across = (score) => ((score - low) / (1 - low)) * width;
  const most = Math.max(...histogram);
  const above = histogram.reduce((sum, n, i) => sum + (Math.abs(low + ((i + 0.5) / histogram.length) * (1 - low)) > threshold ? n : 0), 0);
  const svg = draw("svg", { viewBox: `0 -14 ${width} ${height + foot + 14}`, role: "img" });
  svg.append(draw("title", {}, `Histogram of ${number(total)} scores; ${percent(above / total)} beyond the threshold ${threshold}`));
  histogram.forEach((count, i) => {
    const size = (count / most) * (height - 4);
    const score = low + ((i + 0.5) / histogram.length) * (1 - low);
    const bar = draw("rect", { x: across(score) - width / histogram.length / 2 + 0.5, width: width / histogram.length - 1, y: height - size, height: size, rx: 1 });
    bar.style.fill = colours[Math.round(127 + 127 * (score < 0 ? Math.min(score, -0.35) : Math.max(score, 0.35)))];
    const share = draw("title", {}, `${(score - 0.5 / histogram.length * (1 - low)).toFixed(2)} to ${(score + 0.5 / histogram.length * (1 - low)).toFixed(2)}: ${percent(count / total)}`);
    bar.append(share);
    svg.append(bar);
  });
  svg.append(draw("line", { class: "axis", x1: 0, x2: width, y1: height, y2: height }));
  for (const cut of data.signed ? [-threshold, threshold] : [threshold]) {
    svg.append(draw("line", { class: "cut", x1: across(cut), x2: across(cut), y1: 0, y2: height }));
    svg.append(draw("text", { x: across(cut), y: -4, "text-anchor": "middle" }, cut === threshold ? `threshold ${threshold}` : String(cut)));
  }
  for (const tick of data.signed ? [-1, 0, 1] : [0, 0.5, 1]) {
    svg.append(draw("text", { x: across(tick), y: height + 13, "text-anchor": tick === 1 ? "end" : tick === low ? "start" : "middle" }, String(tick)));
  }
  $("histogram").replaceChildren(make("figcaption", {}, `Scores of ${number(total)} ${data.sites}; the highest bar is ${percent(most / total)}`), svg);
}

/* ---------------------------------------------------------------- reads */

let chosen = [];
let drawn = 0;
let isAllOpen = false;
const batch = 40;
const opened = new Set();
const cards = new Map();

function callsOf(window) {
  const list = make("ul", { class: "calls", "aria-label": "predicted" });
  if (window.target) {
    const [name, against, probability] = window.target;
    const label = make("span", { class: "target" }, against ? `${name} against ${against}` : `why ${name}?`);
    list.append(make("li", {}, label, " ", make("span", { class: "value" }, percent(probability, 2))));
  }
  ranks.forEach((rank, i) => {
    const sure = !window.sure || window.sure[i];
    const name = make("span", { class: sure ? "" : "unsure", title: sure ? rank : `${rank}: not sure` }, taxonOf(window, i));
    list.append(make("li", {}, name, " ", make("span", { class: "value" }, percent(window.probabilities[i], 2) + (sure ? "" : ", not sure"))));
  });
  return list;
}

const placeOf = (from, to) => `${number(from)}\u2013${number(to)}`;

function makeCard(index) {
  const window = windows[index];
  const name = make("span", { class: "name", title: window.name }, window.name || "(no name)");
  const button = make("button", { type: "button", "aria-expanded": "false", "aria-controls": `detail-${index}` }, name);
  const strip = make("canvas", { class: "strip", role: "img", title: "open or close" });
  strip.setAttribute("aria-label", window.chunks.length
    ? `${plural(window.chunks.length, "important chunk")}: ${window.chunks.slice(0, 20).map(([a, b]) => placeOf(a, b)).join(", ")}`
    : "no important chunk");
  const detail = make("div", { class: "detail", id: `detail-${index}`, hidden: true });
  const card = make("li", { class: "read" },
    make("div", { class: "head" }, make("h3", {}, button),
      make("span", { class: "place" }, `${placeOf(window.start, window.stop)} ${unit}`),
      make("span", { class: "share" }, `${plural(window.chunks.length, "chunk")}, ${percent(window.share)} important`)),
    callsOf(window), strip, detail);
  card.dataset.index = index;
  const toggle = () => setOpen(index, !opened.has(index));
  button.addEventListener("click", toggle);
  strip.addEventListener("click", toggle);
  cards.set(index, { card, button, strip, detail, isDrawn: false });
  return card;
}

function setOpen(index, isOpen) {
  const parts = cards.get(index);
  if (isOpen) opened.add(index);
  else opened.delete(index);
  if (!parts) return;
  parts.button.setAttribute("aria-expanded", String(isOpen));
  parts.detail.hidden = !isOpen;
  if (isOpen) {
    const perLine = lettersPerLine(windows[index]);
    parts.detail.style.minHeight = `${Math.ceil(windows[index].sequence.length / perLine) * 1.4}rem`;
    /* A single read is drawn at once; of all of them, those in sight. */
    if (!isAllOpen) drawSequence(index);
    watcher.unobserve(parts.card);
    watcher.observe(parts.card);
  } else {
    parts.detail.replaceChildren();
  }
}

function drawStrip(index) {
  const { strip } = cards.get(index);
  const window = windows[index];
  const scale = devicePixelRatio || 1;
  const width = Math.max(1, Math.round(strip.clientWidth * scale));
  const height = Math.round(26 * scale);
  strip.width = width;
  strip.height = height;
  const context = strip.getContext("2d");
  const length = Math.max(1, window.stop - window.start);
  const across = (letter) => Math.round((letter / length) * width);
  const foot = Math.round(5 * scale);
  context.fillStyle = colours[127];
  context.fillRect(0, 0, width, height - foot);
  /* Where several sites fall on one pixel, the farthest from 0 shows. */
  const columns = new Float32Array(width).fill(NaN);
  for (const [from, to, byte] of sitesOf(window, Number($("view").value) || 0)) {
    if (byte === 255) continue;
    for (let x = across(from); x < Math.max(across(to), across(from) + 1) && x < width; x++) {
      if (!(Math.abs(columns[x] - 127) >= Math.abs(byte - 127))) columns[x] = byte;
    }
  }
  for (let x = 0; x < width; ) {
    let end = x + 1;
    while (end < width && columns[end] === columns[x]) end++;
    if (columns[x] === columns[x]) {
      context.fillStyle = colours[columns[x]];
      context.fillRect(x, 0, end - x, height - foot);
    }
    x = end;
  }
  context.fillStyle = getComputedStyle(document.body).color;
  for (const [from, to, mean] of window.chunks) {
    const x = across(from - window.start);
    const size = Math.max(across(to - window.start) - x, Math.round(1.5 * scale));
    const thick = Math.round(3 * scale);
    context.fillRect(x, height - thick, size, mean < 0 ? Math.round(scale) : thick);
    if (mean < 0) context.fillRect(x, height - Math.round(scale), size, Math.round(scale));
  }
}

let cell = 0;
function lettersPerLine(window) {
  if (!cell) {
    const probe = make("div", { class: "sequence" }, make("span", {}, "A".repeat(100)));
    $("list").append(make("li", {}, probe));
    cell = probe.firstChild.getBoundingClientRect().width / 100;
    probe.parentNode.remove();
  }
  const gutter = (number(window.stop).length + 2) * cell + 14;
  return Math.max(10, Math.floor(($("list").clientWidth - gutter) / cell / 10) * 10);
}

function drawSequence(index) {
  const window = windows[index];
  const { detail } = cards.get(index);
  const sites = sitesOf(window, Number($("view").value) || 0);
  const isText = data.alphabet === "text";
  /* By code points, as positions count; plain letters stay one string. */
  const letters = /^[ -~]*$/.test(window.sequence) ? window.sequence : Array.from(window.sequence);
  const bytes = new Uint8Array(letters.length).fill(255);
  const owner = new Int32Array(letters.length).fill(-1);
  sites.forEach(([from, to, byte], i) => { bytes.fill(byte, from, to); owner.fill(i, from, to); });
  const marks = new Int8Array(letters.length);
  for (const [from, to, mean] of window.chunks) marks.fill(mean < 0 ? -1 : 1, from - window.start, to - window.start);
  const step = lettersPerLine(window);
  const block = make("div", { class: "sequence", role: "group", "aria-label": "the sequence, coloured by score" });
  for (let first = 0; first < letters.length; first += step) {
    const end = Math.min(first + step, letters.length);
    const line = make("div", { class: isText ? "letters text" : "letters" });
    for (let i = first; i < end; ) {
      let j = i + 1;
      while (j < end && owner[j] === owner[i] && marks[j] === marks[i]) j++;
      const piece = make(marks[i] ? "b" : "span", { class: marks[i] < 0 ? "against" : "" },
        typeof letters === "string" ? letters.slice(i, j) : letters.slice(i, j).join(""));
      if (bytes[i] !== 255) {
        piece.style.background = colours[bytes[i]];
        piece.style.color = inks[bytes[i]];
        piece.dataset.site = owner[i];
      }
      line.append(piece);
      i = j;
    }
    block.append(make("div", { class: "at", "aria-hidden": "true" }, number(window.start + first)), line);
  }
  const readout = make("p", { class: "readout", "aria-hidden": "true" }, "point at a letter to read its score");
  block.addEventListener("pointerover", (event) => {
    const site = sites[event.target.dataset.site];
    if (!site) return;
    const text = typeof letters === "string" ? letters.slice(site[0], site[1]) : letters.slice(site[0], site[1]).join("");
    readout.textContent = `${placeOf(window.start + site[0], window.start + site[1])}  ${text}  score ${scoreOf(site[2]).toFixed(2)}`;
  });
  const chunks = make("ol", { class: "chunks", "aria-label": "important chunks, with their mean scores" });
  for (const [from, to, mean] of window.chunks) {
    chunks.append(make("li", {}, placeOf(from, to), " ", make("b", {}, mean.toFixed(2))));
  }
  detail.style.minHeight = "";
  detail.replaceChildren(block, readout, chunks);
}

const watcher = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (!entry.isIntersecting) continue;
    const index = Number(entry.target.dataset.index);
    const parts = cards.get(index);
    if (!parts || parts.card !== entry.target) continue;
    if (!parts.isDrawn) {
      drawStrip(index);
      parts.isDrawn = true;
    }
    if (opened.has(index) && !parts.detail.hasChildNodes()) drawSequence(index);
  }
}, { rootMargin: "600px 0px" });

const end = make("div");
const grower = new IntersectionObserver((entries) => {
  if (entries.some((entry) => entry.isIntersecting)) grow();
}, { rootMargin: "1200px 0px" });

function grow() {
  const fresh = chosen.slice(drawn, drawn + batch);
  if (!fresh.length) return;
  const cardsMade = fresh.map(makeCard);
  $("list").append(...cardsMade);
  drawn += fresh.length;
  fresh.forEach((index, i) => {
    watcher.observe(cardsMade[i]);
    if (isAllOpen || opened.has(index)) setOpen(index, true);
  });
  grower.unobserve(end);
  if (drawn < chosen.length) grower.observe(end);
}

const orders = [
  ["as in the input", null],
  ["name", (a, b) => a.name.localeCompare(b.name, "en", { numeric: true })],
  ["taxon", (a, b) => taxonOf(a, last).localeCompare(taxonOf(b, last), "en", { numeric: true })],
  ["probability, high first", (a, b) => b.probabilities[last] - a.probabilities[last]],
  ["probability, low first", (a, b) => a.probabilities[last] - b.probabilities[last]],
  ["share, high first", (a, b) => b.share - a.share],
  ["share, low first", (a, b) => a.share - b.share],
  ["chunks, most first", (a, b) => b.chunks.length - a.chunks.length],
];

function refresh() {
  const wanted = $("find").value.trim().toLowerCase();
  const [rank, taxon] = $("taxon").value ? $("taxon").value.split(" ").map(Number) : [-1, -1];
  const bound = (id, otherwise) => ($(id).value === "" ? otherwise : Number($(id).value) / 100);
  const [probability, low, high] = [bound("probability", -1), bound("share-low", -1), bound("share-high", 2)];
  chosen = [];
  windows.forEach((window, i) => {
    if (rank >= 0 && window.taxa[rank] !== taxon) return;
    if (window.probabilities[last] < probability || window.share < low || window.share > high) return;
    if (wanted && !window.name.toLowerCase().includes(wanted) && !ranks.some((_, r) => taxonOf(window, r).toLowerCase().includes(wanted))) return;
    chosen.push(i);
  });
  const order = orders[Number($("order").value) || 0][1];
  if (order) chosen.sort((a, b) => order(windows[a], windows[b]) || a - b);
  watcher.disconnect();
  cards.clear();
  drawn = 0;
  $("list").replaceChildren();
  $("shown").textContent = chosen.length === windows.length ? plural(windows.length, "window") : `${number(chosen.length)} of ${plural(windows.length, "window")}`;
  $("nothing").hidden = chosen.length > 0 || !windows.length;
  grow();
}

function redraw() {
  cell = 0;
  mixColours();
  drawLegend();
  drawHistogram();
  for (const [index, parts] of cards) {
    if (parts.isDrawn) drawStrip(index);
    if (parts.detail.hasChildNodes()) drawSequence(index);
  }
}

function drawLegend() {
  const canvas = make("canvas", { width: 200, height: 1 });
  const context = canvas.getContext("2d");
  const from = data.signed ? 0 : 127;
  for (let x = 0; x < 200; x++) {
    context.fillStyle = colours[Math.round(from + (x / 199) * (254 - from))];
    context.fillRect(x, 0, 1, 1);
  }
  $("legend").replaceChildren(data.signed ? "against \u22121" : "score 0", canvas, data.signed ? "1 for" : "1", make("u", {}, "ACGT"), "chunk");
  $("legend").setAttribute("aria-label", "colours from low to high scores; underlined: important chunk");
}

function start() {
  mixColours();
  writeSummary();
  drawLegend();
  orders.forEach(([name], i) => $("order").append(make("option", { value: i }, name)));
  data.views.forEach((name, i) => $("view").append(make("option", { value: i }, name)));
  $("view-label").hidden = data.views.length < 2;
  $("probability-label").textContent = ranks.length > 1 ? `Probability (${ranks[last]}) at least` : "Probability at least";
  $("taxon").append(make("option", { value: "" }, "all"));
  for (let rank = last; rank >= 0; rank--) {
    const group = make("optgroup", { label: ranks[rank] });
    [...new Set(windows.map((w) => w.taxa[rank]))]
      .sort((a, b) => data.taxa[rank][a].localeCompare(data.taxa[rank][b]))
      .forEach((taxon) => group.append(make("option", { value: `${rank} ${taxon}` }, data.taxa[rank][taxon])));
    $("taxon").append(group);
  }
  $("reads").append(end);
  $("filters").addEventListener("submit", (event) => event.preventDefault());
  $("filters").addEventListener("input", refresh);
  $("filters").addEventListener("reset", () => setTimeout(refresh));
  $("view").addEventListener("input", redraw);
  $("open-all").addEventListener("click", () => {
    isAllOpen = !isAllOpen;
    $("open-all").textContent = isAllOpen ? "Close all" : "Open all";
    $("open-all").setAttribute("aria-pressed", String(isAllOpen));
    if (!isAllOpen) opened.clear();
    for (const index of cards.keys()) setOpen(index, isAllOpen);
  });
  /* Up and down go from read to read. */
  $("list").addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    const card = event.target.closest && event.target.closest(".read");
    const next = step && card && (step > 0 ? card.nextElementSibling : card.previousElementSibling);
    if (!next || event.target.tagName !== "BUTTON") return;
    event.preventDefault();
    next.querySelector("h3 button").focus();
  });
  dark.addEventListener("change", redraw);
  addEventListener("beforeprint", () => { printing = true; redraw(); });
  addEventListener("afterprint", () => { printing = false; redraw(); });
  let known = innerWidth;
  let waiting = 0;
  addEventListener("resize", () => {
    if (innerWidth === known) return;
    known = innerWidth;
    clearTimeout(waiting);
    waiting = setTimeout(redraw, 150);
  });
  if (windows.length) opened.add(0);
  refresh();
}

start();
