/** The embedded batch: its map, what is near whatever is pointed at, the series that were sent. */

import { byId, count, html } from "./dom.js";
import { neighbours, project, standardize } from "./geometry.js";
import { EmbeddingMap } from "./map.js";
import { MAX_LINES, plot, scalesOf } from "./series.js";

const NEAREST = 5;
const SHOWN_SERIES = 12;
const LEGEND = 20;
// Products that are worth a moment's wait.
const MOST_PRODUCTS = 3e8;
const FIRST_HUE = 25;

let shown;
const map = new EmbeddingMap(byId("map"), (row) => pick(row));

/** The series alone, before they are embedded. */
export function showSeries(sequences, width) {
  const kinds = [...new Set(sequences.map(({ label }) => label))].sort(byNumber);
  const scales = scalesOf(sequences, width);
  shown = { sequences, width, scales, hues: huesOf(kinds.filter((kind) => kind !== null)) };
  const few = sequences.length > SHOWN_SERIES ? spread(sequences, SHOWN_SERIES) : sequences;
  byId("series").replaceChildren(...few.map((sequence) => captioned(sequence)));
  const all = count(sequences.length, "sequence");
  const part = few.length < sequences.length ? `${few.length} of ${all}. ` : "";
  const lines = width > MAX_LINES ? `, of the first ${MAX_LINES}` : "";
  byId("series-caption").textContent =
    `${part}A line is a channel${lines}, from its lowest to its highest value in all sequences.`;
}

/**
 * The map of the embeddings.
 *
 * @param {Float64Array} rows `[batch * size]`
 * @param {number} size numbers in an embedding
 */
export function showMap(rows, size) {
  const { sequences } = shown;
  const labels = sequences.map(({ label }) => label);
  const standard = standardize(rows, size);
  const { points, shares } = project(standard, size);
  Object.assign(shown, { standard, size });
  map.draw(points, sequences.map(titleOf), labels.map((label) => shown.hues.get(label) ?? null));
  const seen = Math.round(100 * (shares[0] + shares[1]));
  const about =
    `Two principal components, ${seen}% of the variance, of the embeddings with each number ` +
    "standardised; distances are Euclidean. ";
  byId("map-caption").textContent =
    (seen ? about : "All embeddings are one point. ") + agreement(standard, size, labels);
  const spoken = `Map of ${count(sequences.length, "sequence")}; arrow keys move in it`;
  byId("map").setAttribute("aria-label", spoken);
  showLegend([...shown.hues.keys()], labels);
  pick(0);
}

/** Shows a sequence and its neighbours. */
function pick(row) {
  const { sequences, standard, size } = shown;
  const near = neighbours(standard, size, row, NEAREST);
  map.pick(row, near.map((other) => other.row));
  const rows = near.map(({ row: other, distance }) => {
    const button = html("button", { type: "button", class: "neighbour" });
    const figure = html("span", { class: "distance" }, distance.toFixed(3));
    button.append(drawing(sequences[other]), title(sequences[other]), figure);
    button.addEventListener("click", () => {
      pick(other);
      byId("detail").querySelector("button")?.focus();
    });
    return html("li", {}, button);
  });
  const own = sequences[row];
  const head = html("div", { id: "picked" }, html("h3", {}, title(own)), drawing(own));
  const list = rows.length ? [html("h4", {}, "Nearest", html("span", {}, "distance")), html("ol", {}, ...rows)] : [];
  byId("detail").replaceChildren(head, ...list);
}

function showLegend(kinds, labels) {
  const entries = kinds.slice(0, LEGEND).map((kind) => {
    const amount = labels.filter((label) => label === kind).length;
    const attributes = { type: "button", class: "label", "aria-pressed": "false" };
    const button = html("button", attributes, swatch(kind), kind, html("span", {}, `${amount}`));
    button.addEventListener("click", () => {
      const on = button.getAttribute("aria-pressed") === "false";
      for (const entry of entries) entry.setAttribute("aria-pressed", on && entry === button);
      map.highlight((row) => !on || labels[row] === kind);
    });
    return button;
  });
  const rest = kinds.length - LEGEND;
  const more = rest > 0 ? [html("span", { class: "quiet" }, `and ${rest} more`)] : [];
  byId("legend").replaceChildren(...entries, ...more);
}

/** How often the nearest other sequence has the same label. */
function agreement(standard, size, labels) {
  const n = labels.length;
  if (labels.includes(null) || new Set(labels).size < 2 || n * n * size > MOST_PRODUCTS) return "";
  const nearest = (row) => neighbours(standard, size, row, 1)[0].row;
  const same = labels.filter((label, row) => labels[nearest(row)] === label);
  return `The nearest other sequence has the same label for ${same.length} of ${n}.`;
}

function captioned(sequence) {
  return html("figure", {}, drawing(sequence), html("figcaption", {}, title(sequence)));
}

const drawing = (sequence) => plot(sequence, shown.width, shown.scales);

const titleOf = ({ name, label }) => (label === null ? name : `${name}, ${label}`);

function title({ name, label }) {
  const parts = [html("span", { class: "name", title: name }, name)];
  if (label !== null) parts.push(html("span", { class: "label-name" }, swatch(label), label));
  return html("span", { class: "title" }, ...parts);
}

function swatch(label) {
  const dot = html("i", { class: "swatch", "aria-hidden": "true" });
  dot.style.setProperty("--hue", shown.hues.get(label));
  return dot;
}

function huesOf(kinds) {
  return new Map(kinds.map((kind, i) => [kind, Math.round(FIRST_HUE + (360 * i) / kinds.length)]));
}

/** Numbers by size, other labels by letters. */
const byNumber = (a, b) => a - b || String(a).localeCompare(b, "en", { numeric: true });

function spread(items, most) {
  return Array.from({ length: most }, (_, i) => items[Math.floor((i * items.length) / most)]);
}
