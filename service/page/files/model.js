/** What is served: the figures of `GET /info`, and a picture of the trits of each layer. */

import { byId, count, html, svg } from "./dom.js";

const NAMES = ["−1", "0", "+1"];
const CLASSES = ["minus", "zero", "plus"];
const [WIDTH, HEIGHT, GAP] = [480, 120, 0.2];

/** Fills the section of the model. */
export function showModel(info, layers) {
  const { config, limits } = info;
  byId("model-name").textContent = info.name;
  const nominal = config.quantize === "ternary" ? ` (log₂ 3 = ${decimals(Math.log2(3))})` : "";
  const facts = {
    Revision: html("code", { title: info.revision }, info.revision.slice(0, 16)),
    Weights: `${config.quantize}, ${decimals(info.bits_per_weight)} bits each${nominal}`,
    Size: `${kilobytes(info.packed_bytes)} packed, ${count(info.parameters, "parameter")}`,
    Kernel: `${info.kernel}, ${count(info.threads, "thread")}`,
    Takes: `${channels(info)}, up to ${count(limits.max_timesteps, "timestep")}`,
    Gives: `${info.output_size} numbers a sequence`,
  };
  const rows = Object.entries(facts).map(([name, value]) =>
    html("div", {}, html("dt", {}, name), html("dd", {}, value)),
  );
  byId("facts").replaceChildren(...rows);
  byId("trits").replaceChildren(...tritFigure(layers));
}

/** What a model takes, in a sentence. */
export function wanted(info) {
  const gaps = info.config.channels ? "Values may be missing." : "No value may be missing.";
  const longest = `at most ${count(info.limits.max_timesteps, "timestep")} long`;
  const names = info.features?.names ? `: ${info.features.names.join(", ")}` : "";
  return `This model takes sequences of ${channels(info)}${names}, ${longest}. ${gaps}`;
}

function channels({ config }) {
  return config.channels ? "any number of channels" : count(config.embed_dim, "channel");
}

const decimals = (number) => number.toFixed(3);
const kilobytes = (bytes) =>
  `${(bytes / 1e3).toLocaleString("en", { maximumFractionDigits: 1 })} kB`;
const percent = (share) => `${(100 * share).toFixed(1)}%`;

function tritFigure(layers) {
  const weights = layers.map(({ shape: [out, inputs] }) => out * inputs);
  const all = weights.reduce((a, b) => a + b, 0);
  const overall = NAMES.map((_, k) =>
    layers.reduce((sum, { shares }, i) => sum + (shares[k] * weights[i]) / all, 0),
  );
  const spoken = NAMES.map((name, k) => `${percent(overall[k])} are ${name}`).join(", ");
  const slot = WIDTH / layers.length;
  const columns = layers.map(({ name, shares }, i) => {
    let top = 0;
    const bars = shares.map((share, k) => {
      const place = { x: slot * (i + GAP / 2), y: HEIGHT * top, width: slot * (1 - GAP) };
      top += share;
      return svg("rect", { ...place, height: HEIGHT * share, class: CLASSES[k] });
    });
    const told = shares.map((share, k) => `${NAMES[k]}: ${percent(share)}`).join(", ");
    return svg("g", {}, svg("title", {}, `${name}: ${told}`), ...bars);
  });
  const picture = { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" };
  const label = `Weights by layer; of all, ${spoken}`;
  const keys = NAMES.map((name, k) =>
    html("span", { class: `trit-key ${CLASSES[k]}` }, `${name}: ${percent(overall[k])}`),
  );
  return [
    html("figcaption", { class: "quiet" }, "Weights by layer, from first to last"),
    svg("svg", { ...picture, "aria-label": label }, ...columns),
    html("p", { class: "trit-keys" }, ...keys),
    html("details", {}, html("summary", {}, "By layer"), layerTable(layers)),
  ];
}

function layerTable(layers) {
  const head = ["Layer", "Shape", ...NAMES].map((name) => html("th", { scope: "col" }, name));
  const rows = layers.map(({ name, shape, shares }) =>
    html(
      "tr",
      {},
      html("th", { scope: "row" }, name),
      ...[shape.join(" × "), ...shares.map(percent)].map((text) => html("td", {}, text)),
    ),
  );
  const parts = [html("thead", {}, html("tr", {}, ...head)), html("tbody", {}, ...rows)];
  const region = { class: "scroll", tabindex: "0", role: "region", "aria-label": "Layers" };
  return html("div", region, html("table", {}, ...parts));
}
