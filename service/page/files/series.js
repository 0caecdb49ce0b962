/** Small line plots of sequences, a line a channel; each channel has one scale in all of them. */

import { svg } from "./dom.js";

const [WIDTH, HEIGHT, MARGIN] = [200, 64, 3];
export const MAX_LINES = 24;
const MAX_POINTS = 400;

/** Functions, one a channel, that scale its values in all sequences to 0 to 1. */
export function scalesOf(sequences, width) {
  return Array.from({ length: Math.min(width, MAX_LINES) }, (_, channel) => {
    let [low, high] = [Infinity, -Infinity];
    for (const { values } of sequences) {
      for (let i = channel; i < values.length; i += width) {
        if (values[i] < low) low = values[i];
        if (values[i] > high) high = values[i];
      }
    }
    return high > low ? (value) => (value - low) / (high - low) : () => 0.5;
  });
}

/** An SVG of one sequence. */
export function plot({ name, values, timesteps }, width, scales) {
  const lines = scales.map((scale, channel) => {
    const value = (timestep) => values[timestep * width + channel];
    const line = svg("path", { d: path(value, timesteps, scale), class: "series-line" });
    line.style.setProperty("--hue", hueOf(channel, scales.length));
    return line;
  });
  const label = `Series of ${name}: ${timesteps} timesteps`;
  const picture = { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none" };
  return svg("svg", { ...picture, role: "img", "aria-label": label, class: "series" }, ...lines);
}

const hueOf = (channel, channels) => 250 + (channel / Math.max(channels, 3)) * 300;

/** Gaps where values are missing; of a long series, the lowest and highest of each stretch. */
function path(value, timesteps, scale) {
  const all = () => Array.from({ length: timesteps }, (_, timestep) => timestep);
  const shown = timesteps > MAX_POINTS ? thinned(value, timesteps) : all();
  let pen = "M";
  let d = "";
  for (const timestep of shown) {
    const height = scale(value(timestep));
    if (Number.isNaN(value(timestep))) {
      pen = "M";
      continue;
    }
    const share = timesteps > 1 ? timestep / (timesteps - 1) : 0.5;
    const x = MARGIN + (WIDTH - 2 * MARGIN) * share;
    const y = HEIGHT - MARGIN - (HEIGHT - 2 * MARGIN) * height;
    // A value between two gaps is a dot.
    d += `${pen}${x.toFixed(1)} ${y.toFixed(1)}${pen === "M" ? "h0" : ""}`;
    pen = "L";
  }
  return d;
}

function thinned(value, timesteps) {
  const stretches = MAX_POINTS / 2;
  return Array.from({ length: stretches }, (_, i) => {
    const first = Math.floor((i * timesteps) / stretches);
    let [low, high] = [first, first];
    for (let t = first; t < Math.floor(((i + 1) * timesteps) / stretches); t++) {
      if (value(t) < value(low)) low = t;
      if (value(t) > value(high)) high = t;
    }
    return [Math.min(low, high), Math.max(low, high)];
  }).flat();
}
