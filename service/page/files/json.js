/** JSON to recordings: what `POST /embed` takes, perhaps with "labels", or the bare list. */

import { InputError } from "./errors.js";

/**
 * @param {string} text of a file
 * @param {string} file its name
 * @returns {{recordings, width: number}} recordings as in dataset.js
 */
export function readJson(text, file) {
  let given;
  try {
    given = JSON.parse(text);
  } catch (error) {
    throw new InputError(`${file} is no JSON: ${error.message}; a missing value is null`);
  }
  if (!Array.isArray(given)) checkFields(given, file);
  const list = Array.isArray(given) ? given : given.sequences;
  if (!Array.isArray(list) || !list.length) {
    throw new InputError(`${file}: "sequences" must be a list, not empty`);
  }
  const labels = given.labels;
  if (labels !== undefined && (!Array.isArray(labels) || labels.length !== list.length)) {
    throw new InputError(`${file}: "labels" must be a list of ${list.length}, one a sequence`);
  }
  // As npy: a list of numbers is one series, a list of such lists several of one channel each.
  if (!list.some(Array.isArray)) {
    const values = toValues(list.map((number) => [number]), 1, file);
    return { recordings: [{ name: file, values, cut: true, label: null }], width: 1 };
  }
  const flat = Array.isArray(list[0]) && !list[0].some(Array.isArray);
  const sequences = flat ? list.map((row) => [row].flat().map((number) => [number])) : list;
  const width = sequences[0]?.[0]?.length;
  const recordings = sequences.map((sequence, i) => {
    const name = `${i}`;
    const values = toValues(sequence, width, `sequence ${i} of ${file}`);
    return { name, values, cut: false, label: labels?.[i] == null ? null : String(labels[i]) };
  });
  return { recordings, width };
}

function checkFields(given, file) {
  const unknown = Object.keys(given).find((name) => name !== "sequences" && name !== "labels");
  if (unknown !== undefined) {
    throw new InputError(`${file} has "${unknown}"; only "sequences" and "labels" are read`);
  }
}

/** `[timesteps * width]` float64, NaN where a value is null. */
function toValues(sequence, width, where) {
  if (!Array.isArray(sequence) || !sequence.length) {
    throw new InputError(`${where} must be a list of timesteps, not empty`);
  }
  const values = new Float64Array(sequence.length * width);
  sequence.forEach((timestep, t) => {
    if (!Array.isArray(timestep) || timestep.length !== width || !width) {
      const list = Array.isArray(timestep);
      const found = list ? `a list of ${timestep.length}` : JSON.stringify(timestep);
      throw new InputError(
        `timestep ${t} of ${where} is ${found}; all must be lists of ${width || "some"} numbers`,
      );
    }
    timestep.forEach((number, channel) => {
      if (number !== null && typeof number !== "number") {
        const found = JSON.stringify(number);
        throw new InputError(`timestep ${t} of ${where} holds ${found}, not a number or null`);
      }
      values[t * width + channel] = number ?? NaN;
    });
  });
  return values;
}
