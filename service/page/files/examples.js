/** Data for whoever has none at hand: spoken vowels that ship, shapes drawn here from a seed. */

import { urlOf } from "./service.js";

const [VOWEL_CHANNELS, CHANNELS, EACH, LONGEST, SEED] = [12, 3, 12, 96, 2026];

const SHAPES = {
  sine: (phase) => Math.sin(2 * Math.PI * phase),
  square: (phase) => Math.sign(Math.sin(2 * Math.PI * phase)),
  "saw-tooth": (phase) => 2 * (phase - Math.floor(phase)) - 1,
  chirp: (phase) => Math.sin(2 * Math.PI * phase * (1 + phase / 2)),
  bursts: (phase) => Math.sin(12 * Math.PI * phase) * Number(phase % 1 < 0.3),
};

/** `[{title, credit, load}]`, those that the model takes; `load` gives files. */
export function examplesFor({ config, features, limits }) {
  const width = config.embed_dim ?? CHANNELS;
  const shapes = {
    title: `Five shapes, ${width} channel${width === 1 ? "" : "s"}`,
    credit: "drawn in this page from a seed",
    load: async () => [drawShapes(width, Math.min(LONGEST, limits.max_timesteps))],
  };
  const vowels = {
    title: "Japanese vowels, 45 utterances",
    credit: "12 cepstral coefficients of nine speakers: Kudo, Toyama and Shimbo 1999, CC BY 4.0",
    load: async () => {
      const answer = await fetch(urlOf("page/vowels.csv"));
      return [new File([await answer.blob()], "vowels.csv")];
    },
  };
  const fits = !config.embed_dim || (width === VOWEL_CHANNELS && !features?.names);
  return fits ? [vowels, shapes] : [shapes];
}

/** Series of each shape at random rates, phases and heights, with noise. */
function drawShapes(width, longest) {
  const random = mulberry32(SEED);
  const [sequences, labels] = [[], []];
  for (const [label, shape] of Object.entries(SHAPES)) {
    for (let i = 0; i < EACH; i++) {
      const timesteps = Math.max(1, Math.round(longest * (0.6 + 0.4 * random())));
      const channels = Array.from({ length: width }, () => {
        const [start, turns, height] = [random(), 2 + 2 * random(), 0.5 + random()];
        return (t) => height * (shape(start + (turns * t) / timesteps) + 0.3 * (random() - 0.5));
      });
      sequences.push(
        Array.from({ length: timesteps }, (_, t) => channels.map((at) => Number(at(t).toFixed(4)))),
      );
      labels.push(label);
    }
  }
  return new File([JSON.stringify({ sequences, labels })], "shapes.json");
}

/** Numbers from 0 to 1 that are the same for the same seed. */
function mulberry32(seed) {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}
