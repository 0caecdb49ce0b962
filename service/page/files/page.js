/** The page: asks what is served, reads files, embeds them, and shows what comes back. */

import { toSequences, readFiles } from "./dataset.js";
import { byId, count, html } from "./dom.js";
import { InputError, ServiceError } from "./errors.js";
import { examplesFor } from "./examples.js";
import { showModel, wanted } from "./model.js";
import { showMap, showSeries } from "./result.js";
import { writeSafetensors } from "./safetensors.js";
import { embed, getInfo, getLayers, hasKey, setKey } from "./service.js";
import { snippets } from "./snippets.js";

const MOST_WINDOW = 128;
const UNAUTHORIZED = 401;

let info;
let data;
let running = new AbortController();

listen();
await guarded(start);

async function start() {
  info = await getInfo();
  showModel(info, await getLayers());
  byId("wanted").textContent = wanted(info);
  const window = Math.min(info.limits.max_timesteps, MOST_WINDOW);
  byId("window").value ||= window;
  byId("hop").value ||= Math.ceil(window / 2);
  byId("examples").replaceChildren("No data at hand?", ...exampleButtons());
  for (const id of ["model", "input"]) byId(id).hidden = false;
  byId("key-form").hidden = true;
  if (data) await run();
}

/** Everything from recordings to the map; what an earlier call still does is given up. */
async function run() {
  running.abort();
  running = new AbortController();
  const { signal } = running;
  byId("result").hidden = true;
  const overlong = byId("overlong").value;
  const sequences = toSequences(data, wholeNumber("window"), wholeNumber("hop"));
  checkFit(sequences);
  const features = info.features?.names && data.channels;
  const batch = { sequences, width: data.width, features };
  const about = summary(sequences);
  const progress = (done) => say(`${done} of ${count(sequences.length, "sequence")} embedded`);
  say(`Embedding ${about}`);
  const result = await embed(batch, info, overlong, signal, progress);
  if (signal.aborted) return;
  showSeries(sequences, data.width);
  showMap(result.rows, result.size);
  byId("summary").replaceChildren(...told(about, result));
  const link = byId("batch");
  URL.revokeObjectURL(link.href);
  link.href = URL.createObjectURL(writeSafetensors(sequences, data.width, features));
  byId("snippets").replaceChildren(...snippets(batch, result, overlong));
  byId("result").hidden = false;
  say(`${count(sequences.length, "sequence")} embedded`);
}

async function take(files) {
  if (!files.length) return;
  running.abort();
  running = new AbortController();
  const { signal } = running;
  await guarded(async () => {
    byId("result").hidden = true;
    data = null;
    const read = await readFiles(files);
    if (signal.aborted) return;
    data = read;
    await run();
    byId("result").scrollIntoView();
  });
}

/** Does something, and tells of what goes wrong. */
async function guarded(work) {
  byId("error").hidden = true;
  try {
    await work();
  } catch (error) {
    if (error.name === "AbortError") return;
    say("");
    if (error.status === UNAUTHORIZED) askForKey();
    else if (error instanceof InputError || error instanceof ServiceError) complain(error.message);
    else {
      complain(`a bug in this page: ${error.message}`);
      throw error;
    }
  }
}

function say(text) {
  byId("status").textContent = text;
}

function complain(message) {
  byId("error").hidden = false;
  byId("error").textContent = message;
}

function askForKey() {
  byId("key-form").hidden = false;
  byId("key").focus();
  if (hasKey()) complain("the service does not take this key");
}

/** That the model takes sequences of this width, with these gaps. */
function checkFit(sequences) {
  const { width, channels } = data;
  const wantedWidth = info.config.embed_dim;
  if (!wantedWidth) return;
  if (width !== wantedWidth) {
    const named = channels ? ` (${channels.join(", ")})` : "";
    throw new InputError(
      `the data have ${count(width, "channel")}${named}; ${info.name} takes ${wantedWidth}`,
    );
  }
  for (const { name, values } of sequences) {
    const gap = values.findIndex(Number.isNaN);
    if (gap >= 0) {
      const channel = channels?.[gap % width] ?? gap % width;
      throw new InputError(
        `sequence ${name} has no value of channel ${channel} at timestep ` +
          `${Math.floor(gap / width)}; ${info.name} takes no missing values`,
      );
    }
  }
}

function wholeNumber(id) {
  const field = byId(id);
  const value = Number(field.value);
  if (!Number.isInteger(value) || value < 1) {
    const found = field.value || "empty";
    throw new InputError(`the ${id} is ${found}; it must be a whole number above 0`);
  }
  return value;
}

function summary(sequences) {
  const lengths = sequences.map(({ timesteps }) => timesteps);
  const [low, high] = [Math.min(...lengths), Math.max(...lengths)];
  const long = low === high ? count(low, "timestep") : `${low} to ${count(high, "timestep")}`;
  const gapsIn = ({ values }) => values.filter(Number.isNaN).length;
  const missing = sequences.reduce((sum, sequence) => sum + gapsIn(sequence), 0);
  const gaps = missing ? `, ${count(missing, "value")} missing` : "";
  const many = `${count(sequences.length, "sequence")} of ${count(data.width, "channel")}`;
  return `${many}, ${long}${gaps}`;
}

function told(about, { requests, timing, roundTrip, truncated }) {
  const time = (ms) => (ms < 1000 ? `${ms.toPrecision(3)} ms` : `${(ms / 1e3).toFixed(1)} s`);
  const lines = [
    `${about}.`,
    `In ${count(requests, "request")}: ${time(timing.total)} in the service, of that ` +
      `${time(timing.compute)} computing; ${time(roundTrip)} from here and back.`,
  ];
  if (truncated) lines.push(`Cut to what the model takes: ${count(truncated, "sequence")}.`);
  if (data.notes.length) lines.push(`Left out: ${data.notes.join("; ")}.`);
  return lines.flatMap((line) => [line, html("br")]);
}

function exampleButtons() {
  return examplesFor(info).map(({ title, credit, load }) => {
    const button = html("button", { type: "button" }, title);
    button.addEventListener("click", async () => take(await load()));
    return html("div", { class: "row" }, button, html("span", { class: "quiet" }, credit));
  });
}

function listen() {
  byId("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    setKey(byId("key").value.trim());
    guarded(start);
  });
  byId("files").addEventListener("change", async (event) => {
    await take([...event.target.files]);
    // So that the same file may be chosen again.
    event.target.value = "";
  });
  byId("read").addEventListener("click", () => take([asFile(byId("text").value)]));
  for (const id of ["window", "hop", "overlong"]) {
    byId(id).addEventListener("change", () => data && guarded(run));
  }
  const zone = byId("zone");
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    zone.classList.add("over");
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) zone.classList.remove("over");
  });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    zone.classList.remove("over");
    if (info) take([...event.dataTransfer.files]);
  });
  document.addEventListener("paste", ({ target, clipboardData }) => {
    if (!info || target.closest("input, textarea")) return;
    const text = clipboardData.getData("text");
    take(clipboardData.files.length ? [...clipboardData.files] : text ? [asFile(text)] : []);
  });
}

const asFile = (text) => new File([text], "pasted text");
