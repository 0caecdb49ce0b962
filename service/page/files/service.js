/** The service that this page comes from, asked as any client asks it. */

import { InputError, ServiceError } from "./errors.js";
import { readNpy } from "./npy.js";
import { writeSafetensors } from "./safetensors.js";

// Relative to this file, so that a proxy's prefix stays.
const BASE = new URL("..", import.meta.url);
const KEY = "tritserve-key";
const TRIES = 6;
const PAUSE_SECONDS = 1;
// So that a part finds room in the queue, and leaves some to others.
const PARTS_IN_QUEUE = 4;
const HEADER_BYTES = 65536;

export const urlOf = (path) => new URL(path, BASE).href;
export const hasKey = () => Boolean(sessionStorage.getItem(KEY));
export const setKey = (key) => sessionStorage.setItem(KEY, key);

async function ask(path, options = {}) {
  const key = sessionStorage.getItem(KEY);
  const headers = { ...options.headers, ...(key && { Authorization: `Bearer ${key}` }) };
  let answer;
  try {
    answer = await fetch(urlOf(path), { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServiceError(0, "the service does not answer; is it still running?");
  }
  if (answer.ok) return answer;
  const { error } = await answer.json().catch(() => ({}));
  const message = error?.message ?? `the answer is ${answer.status} ${answer.statusText}`;
  const refusal = new ServiceError(answer.status, message, error?.row ?? null);
  refusal.retrySeconds = Number(answer.headers.get("Retry-After")) || PAUSE_SECONDS;
  throw refusal;
}

export const getInfo = async () => (await ask("info")).json();
export const getLayers = async () => (await (await ask("info/layers")).json()).layers;

/**
 * Embeds a batch, in as many requests as the service's limits ask for.
 *
 * @param {object} batch `{sequences, width, features}`, as in dataset.js; features may be null
 * @param {object} info the answer of `GET /info`
 * @param {string} overlong what to do with sequences longer than the model takes
 * @param {AbortSignal} signal
 * @param {(done: number) => void} progress is told how many sequences are embedded
 * @returns {Promise<{rows: Float64Array, size: number, requests: number, truncated: number,
 *   timing: object, roundTrip: number}>} rows `[batch * size]`; times in milliseconds
 * @throws {InputError} a sequence alone is over a limit
 * @throws {ServiceError} the service refuses, or the model was changed meanwhile
 */
export async function embed(batch, info, overlong, signal, progress) {
  const { sequences, width, features } = batch;
  const parts = partsOf(sequences, width, info.limits);
  const timing = { queue: 0, compute: 0, total: 0 };
  const result = { size: 0, requests: parts.length, truncated: 0, timing, roundTrip: 0 };
  for (const [first, last] of parts) {
    const part = writeSafetensors(sequences.slice(first, last), width, features);
    // Not the blob: what is sent can then be seen in the browser's tools.
    const body = await part.arrayBuffer();
    const start = performance.now();
    let answer;
    try {
      answer = await askUntilFree(`embed?overlong=${overlong}`, body, signal);
    } catch (error) {
      if (!(error instanceof ServiceError) || error.row === null) throw error;
      const at = sequences[first + error.row].name;
      const message = error.message.replace(`sequence ${error.row}`, `sequence ${at}`);
      throw new ServiceError(error.status, message);
    }
    if (answer.headers.get("Tritserve-Revision") !== info.revision) {
      throw new ServiceError(409, "another model was loaded meanwhile; reload this page");
    }
    const bytes = new Uint8Array(await answer.arrayBuffer());
    result.roundTrip += performance.now() - start;
    const { shape, values } = readNpy(bytes, "the answer");
    result.size = shape[1];
    result.rows ??= new Float64Array(sequences.length * result.size);
    result.rows.set(values, first * result.size);
    result.truncated += Number(answer.headers.get("Tritserve-Truncated"));
    const told = answer.headers.get("Server-Timing") ?? "";
    for (const [, name, ms] of told.matchAll(/(\w+);dur=([\d.]+)/g)) timing[name] += Number(ms);
    progress(last);
  }
  return result;
}

async function askUntilFree(path, body, signal) {
  const headers = { "Content-Type": "application/vnd.safetensors", Accept: "application/x-npy" };
  for (let left = TRIES; ; left--) {
    try {
      return await ask(path, { method: "POST", headers, body, signal });
    } catch (error) {
      if (![429, 503].includes(error.status) || left === 1) throw error;
      await new Promise((done) => setTimeout(done, 1e3 * error.retrySeconds));
    }
  }
}

/** First and last row, exclusive, of each request. */
function partsOf(sequences, width, limits) {
  const most = Math.min(
    limits.max_request_timesteps,
    Math.max(Math.floor(limits.queue_timesteps / PARTS_IN_QUEUE), 1),
  );
  const parts = [];
  let [first, cost, bytes] = [0, 0, HEADER_BYTES];
  sequences.forEach((sequence, row) => {
    const [own, size] = [costOf(sequence.timesteps, width, limits), 4 * sequence.values.length + 8];
    if (own > limits.max_request_timesteps || HEADER_BYTES + size > limits.max_body_bytes) {
      throw new InputError(
        `sequence ${sequence.name} alone is over the limits of a request: ${sequence.timesteps} ` +
          `timesteps of ${width} channels`,
      );
    }
    const full = cost + own > most || bytes + size > limits.max_body_bytes;
    if (row > first && (full || row - first === limits.max_sequences)) {
      parts.push([first, row]);
      [first, cost, bytes] = [row, 0, HEADER_BYTES];
    }
    cost += own;
    bytes += size;
  });
  return [...parts, [first, sequences.length]];
}

/** What a sequence counts, in timesteps; see `limits` of `/info`. */
function costOf(timesteps, width, { window, window_cost: windowCost }) {
  if (!window) return timesteps;
  const windows = Math.ceil(timesteps / window);
  return (windows + (windows > 1 ? 1 : 0)) * windowCost * width;
}
