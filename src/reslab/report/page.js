"use strict";
// Gzip in base64, to text.
async function unpacked(id) {
  const bytes = Uint8Array.from(atob(document.getElementById(id).textContent), letter => letter.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
}

// ---- light and dark
const themeButton = document.getElementById("theme"), THEMES = ["auto", "light", "dark"];
function showTheme() {
  root.toggleAttribute("data-dark", isDark());
  themeButton.textContent = `Theme: ${theme()}`;
}
themeButton.addEventListener("click", () => {
  const next = THEMES[(THEMES.indexOf(theme()) + 1) % THEMES.length];
  if (next === "auto") delete root.dataset.theme; else root.dataset.theme = next;
  try { if (next === "auto") localStorage.removeItem("reslab-theme"); else localStorage.setItem("reslab-theme", next); } catch { /* no storage */ }
  showTheme();
  draw();
});
system.addEventListener("change", () => { showTheme(); draw(); });
showTheme();

// ---- charts
let shown = {charts: {}, rows: {}, dark: {}};
const AXIS = 78, GAP = 24, NARROWEST = 240;  // pixels: an axis with its labels, between panels, a panel
const DRAWN_FOR = 860;  // pixels of legend that config.legend.columns was counted for

// The same chart for a phone and a wide screen: as many panels in a row as there is room for.
function fitted(spec, room) {
  const copy = structuredClone(spec);
  copy.columns = Math.max(1, Math.min(copy.columns || 1, Math.floor((room + GAP) / (NARROWEST + AXIS + GAP))));
  const width = Math.floor((room - GAP * (copy.columns - 1)) / copy.columns) - AXIS;
  for (const panel of copy.concat) panel.width = Math.max(160, Math.min(width, 1000));
  copy.config.legend.columns = Math.max(1, Math.floor(copy.config.legend.columns * room / DRAWN_FOR));
  return copy;
}
function inDark(node) {
  if (Array.isArray(node)) return node.map(inDark);
  if (node && typeof node === "object")
    return Object.fromEntries(Object.entries(node).map(([key, item]) => [key, key === "datasets" ? item : inDark(item)]));
  return typeof node === "string" && shown.dark[node] || node;
}
async function draw() {
  delete document.body.dataset.drawn;
  for (const [key, spec] of Object.entries(shown.charts)) {
    const card = document.getElementById(key), style = getComputedStyle(card), dark = isDark(), renderer = spec.usermeta.renderer;
    const room = card.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight);
    const actions = {export: true, source: false, compiled: false, editor: false};
    const options = {renderer, actions, downloadFileName: key, tooltip: {theme: dark ? "dark" : "light"}};
    await vegaEmbed(card, fitted(dark ? inDark(spec) : spec, room), options);
    const canvas = card.querySelector("canvas");
    if (canvas) { canvas.setAttribute("role", "img"); canvas.setAttribute("aria-label", spec.description); }
  }
  document.body.dataset.drawn = "yes";
}
let width = window.innerWidth, timer;
window.addEventListener("resize", () => {
  clearTimeout(timer);
  timer = setTimeout(() => { if (window.innerWidth !== width) { width = window.innerWidth; draw(); } }, 200);
});

// ---- numbers
const NOT = {NaN: NaN, Infinity: Infinity, "-Infinity": -Infinity}, WRITTEN = {NaN: "–", Infinity: "∞", "-Infinity": "-∞"};
const value = cell => cell in NOT ? NOT[cell] : cell;
function written(cell) {
  if (cell === null || typeof cell === "boolean" || Array.isArray(cell)) return String(cell ?? "–");
  if (typeof cell === "string") return WRITTEN[cell] ?? cell;
  if (Number.isInteger(cell) && Math.abs(cell) < 1e6) return String(cell);
  return Math.abs(cell) < 1e-3 || Math.abs(cell) >= 1e6 ? cell.toExponential(2) : String(Number(cell.toPrecision(4)));
}
function save(text, name, type) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], {type}));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}
function csv(rows) {
  const quoted = cell => /[",\n]/.test(cell) ? `"${String(cell).replaceAll('"', '""')}"` : cell;
  const header = Object.keys(rows[0] || {});
  return [header, ...rows.map(row => header.map(key => row[key] ?? ""))].map(row => row.map(quoted).join(",")).join("\n") + "\n";
}
function tableOf(rows) {
  const table = document.createElement("table"), keys = Object.keys(rows[0]), head = table.createTHead().insertRow();
  const isWord = key => rows.every(row => typeof row[key] === "string" && !(row[key] in NOT));
  const words = new Set(keys.filter(isWord)), body = table.createTBody();
  for (const key of keys) {
    const cell = head.appendChild(document.createElement("th"));
    cell.scope = "col"; cell.textContent = key; cell.className = words.has(key) ? "word" : "";
  }
  for (const row of rows) {
    const line = body.insertRow();
    if (row.finding) line.className = "found";
    for (const key of keys) { const cell = line.insertCell(); cell.textContent = written(row[key]); cell.className = words.has(key) ? "word" : ""; }
  }
  return table;
}
// A table that a click on a heading sorts; what has no number comes last, either way.
function sortable(view, rows) {
  const table = tableOf(rows), keys = Object.keys(rows[0]), lines = [...table.tBodies[0].rows], order = lines.map((_, place) => place);
  const filter = view.parentElement.querySelector(".filter"), count = view.parentElement.querySelector(".shown");
  let by = keys[0], down = false;
  const isLast = cell => cell === null || typeof cell === "number" && Number.isNaN(cell);
  function sort() {
    order.sort((one, other) => {
      const [a, b] = [value(rows[one][by]), value(rows[other][by])];
      if (isLast(a) || isLast(b)) return isLast(a) - isLast(b) || one - other;
      const before = typeof a === "string" ? a.localeCompare(b, "en", {numeric: true}) : a < b ? -1 : a > b ? 1 : 0;
      return (down ? -before : before) || one - other;
    });
    table.tBodies[0].append(...order.map(place => lines[place]));
    for (const button of table.querySelectorAll("th button")) {
      const on = button.dataset.key === by;
      button.textContent = button.dataset.key + (on ? (down ? " ▼" : " ▲") : "");
      button.parentElement.setAttribute("aria-sort", on ? (down ? "descending" : "ascending") : "none");
    }
  }
  for (const cell of table.tHead.rows[0].cells) {
    const key = cell.textContent, button = document.createElement("button");
    button.type = "button"; button.dataset.key = key;
    button.addEventListener("click", () => { down = by === key ? !down : typeof value(rows[0][key]) === "number" && key !== keys[0]; by = key; sort(); });
    cell.replaceChildren(button);
  }
  filter.addEventListener("input", () => {
    const wanted = filter.value.trim().toLowerCase();
    rows.forEach((row, place) => { lines[place].hidden = !keys.some(key => typeof row[key] === "string" && row[key].toLowerCase().includes(wanted)); });
    count.textContent = wanted ? `${lines.filter(line => !line.hidden).length} of ${rows.length}` : "";
  });
  sort();
  view.append(table);
}
const MAX_ROWS = 200;
async function start() {
  shown = JSON.parse(await unpacked("shown"));
  for (const button of document.querySelectorAll("[data-csv]"))
    button.addEventListener("click", () => save(csv(shown.rows[button.dataset.csv]), `${button.dataset.csv}.csv`, "text/csv"));
  for (const details of document.querySelectorAll("[data-numbers]"))
    details.addEventListener("toggle", () => {
      if (details.children.length > 1) return;
      const rows = shown.rows[details.dataset.numbers], view = details.appendChild(document.createElement("div"));
      view.className = "rows";
      view.append(tableOf(rows.slice(0, MAX_ROWS)));
      if (rows.length > MAX_ROWS) view.append(`${MAX_ROWS} of ${rows.length.toLocaleString("en")} rows; the CSV has all.`);
    });
  for (const view of document.querySelectorAll("[data-sortable]")) sortable(view, shown.rows[view.dataset.sortable]);
  document.getElementById("json")?.addEventListener("click", async () => save(await unpacked("records"), "diagnosis.json", "application/json"));
  if (Object.keys(shown.charts).length) {
    const script = document.createElement("script");
    script.textContent = await unpacked("vega");
    document.head.append(script);
  }
  await draw();
}
start();
