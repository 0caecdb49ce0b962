/** Points on a plane, of which one is picked by pointer or keyboard. */

import { svg } from "./dom.js";

const [WIDTH, HEIGHT, MARGIN, RADIUS] = [520, 400, 20, 5];
const REACH = 40;
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

/**
 * The map in an `<svg>`. Pointing at a point picks it, and a click pins it until the next one;
 * arrow keys go to the next point in their direction, Page Up and Down through the data's order.
 */
export class EmbeddingMap {
  /** @param {(row: number) => void} onPick is told which point is picked */
  constructor(root, onPick) {
    this.root = root;
    this.onPick = onPick;
    this.places = [];
    root.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
    root.setAttribute("role", "listbox");
    root.addEventListener("pointermove", (event) => this.pinned || this.pickAt(event));
    root.addEventListener("pointerdown", (event) => {
      const row = this.pickAt(event);
      this.pinned = row !== null && !(this.pinned && row === this.pinnedRow);
      this.pinnedRow = row;
    });
    root.addEventListener("keydown", (event) => this.pickByKey(event));
  }

  /**
   * @param {[number, number][]} points
   * @param {string[]} names of the points
   * @param {number[]} hues of the points, in degrees; null where there is no label
   */
  draw(points, names, hues) {
    this.places = toPlaces(points);
    this.pinned = false;
    this.row = null;
    this.circles = this.places.map(([cx, cy], row) => {
      const place = { cx: cx.toFixed(2), cy: cy.toFixed(2), r: RADIUS };
      const option = { id: `point-${row}`, role: "option", "aria-label": names[row] };
      const circle = svg("circle", { ...place, ...option, class: "point" });
      if (hues[row] !== null) circle.style.setProperty("--hue", hues[row]);
      return circle;
    });
    this.lines = svg("g", { "aria-hidden": true });
    this.root.replaceChildren(this.lines, svg("g", { role: "none" }, ...this.circles));
    this.root.removeAttribute("aria-activedescendant");
  }

  /** Marks a point and its neighbours. */
  pick(row, near) {
    this.circles[this.row]?.removeAttribute("aria-selected");
    this.row = row;
    this.circles[row].setAttribute("aria-selected", "true");
    this.root.setAttribute("aria-activedescendant", `point-${row}`);
    const [x1, y1] = this.places[row];
    const lines = near.map((other) => {
      const [x2, y2] = this.places[other];
      return svg("line", { x1, y1, x2, y2, class: "near" });
    });
    const ring = svg("circle", { cx: x1, cy: y1, r: RADIUS + 4, class: "ring" });
    this.lines.replaceChildren(...lines, ring);
  }

  /** Dims the points for which `shown` is false. */
  highlight(shown) {
    this.circles.forEach((circle, row) => circle.classList.toggle("dim", !shown(row)));
  }

  pickAt(event) {
    const { x, y } = new DOMPoint(event.clientX, event.clientY).matrixTransform(
      this.root.getScreenCTM().inverse(),
    );
    const [row, far] = this.nearest(([px, py]) => Math.hypot(px - x, py - y));
    if (row === null || far > REACH) return null;
    if (row !== this.row) this.onPick(row);
    return row;
  }

  pickByKey(event) {
    const last = this.places.length - 1;
    const from = this.row ?? -1;
    const steps = { PageDown: Math.min(from + 1, last), PageUp: Math.max(from - 1, 0) };
    let row = { ...steps, Home: 0, End: last }[event.key] ?? null;
    const arrow = ARROWS[event.key];
    if (arrow) row = this.row === null ? 0 : this.beside(arrow);
    if (row === null) return;
    event.preventDefault();
    this.pinned = true;
    this.pinnedRow = row;
    if (row !== this.row) this.onPick(row);
  }

  /** The next point in a direction; what lies aside counts twice. */
  beside([dx, dy]) {
    const [x, y] = this.places[this.row];
    return this.nearest(([px, py]) => {
      const along = (px - x) * dx + (py - y) * dy;
      const aside = Math.abs((px - x) * dy) + Math.abs((py - y) * dx);
      return along > 0 && aside <= 2 * along ? along + 2 * aside : Infinity;
    })[0];
  }

  nearest(distance) {
    let [best, least] = [null, Infinity];
    this.places.forEach((place, row) => {
      const far = distance(place);
      if (far < least) [best, least] = [row, far];
    });
    return [best, least];
  }
}

/** Fits points into the picture; both axes have one scale. */
function toPlaces(points) {
  const spans = [0, 1].map((axis) => {
    const values = points.map((point) => point[axis]);
    const [low, high] = [Math.min(...values), Math.max(...values)];
    return { middle: (low + high) / 2, size: high - low };
  });
  const room = [WIDTH - 2 * MARGIN, HEIGHT - 2 * MARGIN];
  const scale = Math.min(...spans.map(({ size }, axis) => room[axis] / size));
  const factor = Number.isFinite(scale) ? scale : 0;
  return points.map(([x, y]) => [
    WIDTH / 2 + factor * (x - spans[0].middle),
    HEIGHT / 2 - factor * (y - spans[1].middle),
  ]);
}
