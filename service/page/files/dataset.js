/**
 * Files to one batch of sequences.
 *
 * A file is read to recordings `{name, values, cut, label, rowLabels}`, `values` float64
 * `[timesteps * width]`, NaN where one is missing. Those with `cut` are cut in windows, named by
 * their timesteps, the others are sequences as they are. A sequence is `{name, label, values, timesteps}`, `values` float32.
 */

import { readCsv } from "./csv.js";
import { count } from "./dom.js";
import { InputError } from "./errors.js";
import { readJson } from "./json.js";
import { isNpy, readNpy } from "./npy.js";

const MAX_FILE_BYTES = 256 * 2 ** 20;
const MAX_SEQUENCES = 5000;

/**
 * @param {File[]} files
 * @returns {Promise<{recordings, alone: boolean, width: number, channels: ?string[],
 *   notes: string[]}>} alone where there is one file, whose name then says nothing
 * @throws {InputError} a file is wrong, or two do not go together
 */
export async function readFiles(files) {
  const parts = [];
  for (const file of files) {
    if (file.size > MAX_FILE_BYTES) {
      throw new InputError(`${file.name} is over 256 MiB; use tritserve embed, or the client`);
    }
    parts.push({ file: file.name, ...read(new Uint8Array(await file.arrayBuffer()), file.name) });
  }
  const [first] = parts;
  if (parts.length > 1) nameByFile(parts);
  const wordsOf = ({ width, channels }) => channels?.join(", ") ?? count(width, "channel");
  const other = parts.find((part) => wordsOf(part) !== wordsOf(first));
  if (other) {
    throw new InputError(
      `${other.file} has ${wordsOf(other)}, ${first.file} has ${wordsOf(first)}; ` +
        "files that go together have the same channels",
    );
  }
  return {
    recordings: parts.flatMap(({ recordings }) => recordings),
    alone: parts.length === 1,
    width: first.width,
    channels: first.channels,
    notes: parts.flatMap(({ notes }) => notes),
  };
}

/** Tells recordings of several files apart, and gives files without labels one each. */
function nameByFile(parts) {
  for (const part of parts) {
    const labelled = part.recordings.some(({ label, rowLabels }) => label !== null || rowLabels);
    for (const recording of part.recordings) {
      if (!labelled) recording.label = part.file;
      if (recording.name !== part.file) recording.name = `${part.file} ${recording.name}`;
    }
  }
}

/** The form is told by what a file holds, not by its name. */
function read(bytes, file) {
  if (isNpy(bytes)) return { channels: null, notes: [], ...fromArray(readNpy(bytes, file), file) };
  let text;
  try {
    text = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    text = "\0";
  }
  if (text.includes("\0")) throw new InputError(`${file} is neither npy nor CSV or JSON in UTF-8`);
  if (!text.trim()) throw new InputError(`${file} is empty`);
  if (/^\s*[[{]/.test(text)) return { channels: null, notes: [], ...readJson(text, file) };
  const csv = readCsv(text, file);
  return { width: csv.channels.length, ...csv };
}

function fromArray({ shape, values, integers }, file) {
  if (![1, 2, 3].includes(shape.length) || !values.length) {
    throw new InputError(
      `${file} has shape [${shape.join(", ")}]; it must be [batch, seq_len, channels], ` +
        "[batch, seq_len] or [seq_len], not empty",
    );
  }
  if (integers && values.some((value) => Math.fround(value) !== value)) {
    throw new InputError(`${file} has integers that float32 would round; write it as floats`);
  }
  if (shape.length === 1) {
    return { recordings: [{ name: file, values, cut: true, label: null }], width: 1 };
  }
  const [batch, timesteps, width = 1] = shape;
  const size = timesteps * width;
  const recordings = Array.from({ length: batch }, (_, i) => {
    const part = values.subarray(i * size, (i + 1) * size);
    return { name: `${i}`, values: part, cut: false, label: null };
  });
  return { recordings, width };
}

/**
 * The sequences of recordings; what follows the last whole window is left out.
 *
 * @param {number} length of a window, in timesteps
 * @param {number} hop from one window's start to the next
 * @throws {InputError} they are more than the page draws, or hold an infinite value
 */
export function toSequences({ recordings, alone, width }, length, hop) {
  const sequences = recordings.flatMap((recording) => {
    const { name, values, label, rowLabels, cut } = recording;
    const timesteps = values.length / width;
    if (!cut || timesteps <= length) {
      const own = rowLabels ? mostFrequent(rowLabels) : label;
      return [{ name, label: own, timesteps, values: toFloat32(values, width, name) }];
    }
    const windows = 1 + Math.floor((timesteps - length) / hop);
    if (windows > MAX_SEQUENCES) throw tooMany(windows);
    return Array.from({ length: windows }, (_, i) => {
      const [from, to] = [i * hop, i * hop + length];
      const part = toFloat32(values.subarray(from * width, to * width), width, name, from);
      const own = rowLabels ? mostFrequent(rowLabels.slice(from, to)) : label;
      const window = `${from}–${to - 1}`;
      const full = alone ? window : `${name} ${window}`;
      return { name: full, label: own, timesteps: length, values: part };
    });
  });
  if (sequences.length > MAX_SEQUENCES) throw tooMany(sequences.length);
  return sequences;
}

function tooMany(sequences) {
  return new InputError(
    `these are ${sequences.toLocaleString("en")} sequences; this page draws at most ` +
      `${MAX_SEQUENCES.toLocaleString("en")}: use longer windows or hops, or the client`,
  );
}

function toFloat32(values, width, name, first = 0) {
  const rounded = Float32Array.from(values);
  const wrong = rounded.findIndex((value) => Math.abs(value) === Infinity);
  if (wrong >= 0) {
    const timestep = first + Math.floor(wrong / width);
    throw new InputError(
      `channel ${wrong % width} at timestep ${timestep} of ${name} is ${values[wrong]}; ` +
        "float32 has room for magnitudes below 3.4e38",
    );
  }
  return rounded;
}

function mostFrequent(labels) {
  const counts = new Map();
  for (const label of labels) counts.set(label, (counts.get(label) ?? 0) + 1);
  const [[label]] = [...counts].sort((a, b) => b[1] - a[1]);
  return label || null;
}
