/**
 * CSV to recordings. The first row names the columns: `id` says which rows are one sequence,
 * `label` what it is, TIME columns are left out; every other column of numbers is a channel.
 */

import { count } from "./dom.js";
import { InputError } from "./errors.js";

const TIME = ["time", "timestamp", "date", "datetime"];
const MISSING = /^(|[-+]?nan|null|none|na|n\/a)$/i;
const LONGEST_QUOTE = 40;

/**
 * @param {string} text of a file
 * @param {string} file its name
 * @returns {{recordings, channels: string[], notes: string[]}} recordings as in dataset.js
 */
export function readCsv(text, file) {
  const [header, ...rows] = split(text);
  if (!header || !rows.length) {
    throw new InputError(`${file} needs a row that names its columns, and rows of numbers below`);
  }
  const names = header.cells.map((cell) => cell.trim());
  if (names.every((name) => !MISSING.test(name) && !Number.isNaN(Number(name)))) {
    throw new InputError(`the first row of ${file} has only numbers; it must name the columns`);
  }
  for (const { cells, number } of rows) {
    if (cells.length !== names.length) {
      throw new InputError(
        `row ${number} of ${file} has ${count(cells.length, "cell")}; the header has ${names.length}`,
      );
    }
  }
  const roles = names.map(roleOf);
  const notes = [];
  const channels = names.flatMap((name, column) => {
    if (roles[column] !== "channel") return [];
    const kind = kindOf(rows, column, name, file);
    if (kind === "numbers") return [column];
    notes.push(`column "${name}" of ${file} is ${kind}`);
    return [];
  });
  roles.forEach((role, column) => {
    if (role === "time") notes.push(`column "${names[column]}" of ${file} is time`);
  });
  checkNames(channels.map((column) => names[column]), roles, file);

  const values = (chosen) => {
    const numbers = new Float64Array(chosen.length * channels.length);
    chosen.forEach(({ cells }, row) => {
      channels.forEach((column, channel) => {
        numbers[row * channels.length + channel] = toNumber(cells[column]);
      });
    });
    return numbers;
  };
  const [id, label] = [roles.indexOf("id"), roles.indexOf("label")];
  const labels = (chosen) => chosen.map(({ cells }) => cells[label].trim());
  let recordings;
  if (id < 0) {
    const rowLabels = label < 0 ? null : labels(rows);
    recordings = [{ name: file, values: values(rows), rowLabels, cut: true, label: null }];
  } else {
    const groups = Map.groupBy(rows, ({ cells }) => cells[id].trim());
    recordings = [...groups].map(([name, chosen]) => {
      const given = label < 0 ? [] : [...new Set(labels(chosen))];
      if (given.length > 1) {
        throw new InputError(`id ${name} of ${file} has two labels: ${given[0]} and ${given[1]}`);
      }
      return { name, values: values(chosen), cut: false, label: given[0] || null };
    });
  }
  return { recordings, channels: channels.map((column) => names[column]), notes };
}

function roleOf(name) {
  const lower = name.toLowerCase();
  if (lower === "id" || lower === "label") return lower;
  // pandas writes its index without a name.
  return lower === "" || TIME.includes(lower) ? "time" : "channel";
}

function checkNames(channels, roles, file) {
  if (!channels.length) throw new InputError(`${file} has no column of numbers to send`);
  const twice =
    channels.find((name, i) => channels.indexOf(name) < i) ??
    ["id", "label"].find((role) => roles.indexOf(role) < roles.lastIndexOf(role));
  if (twice) throw new InputError(`${file} has two columns named "${twice}"`);
}

/** "numbers", or why the column is none of numbers: "text" or "empty". */
function kindOf(rows, column, name, file) {
  let numbers = 0;
  let text = null;
  for (const row of rows) {
    const cell = row.cells[column].trim();
    if (MISSING.test(cell)) continue;
    if (Number.isNaN(Number(cell))) text ??= row;
    else numbers += 1;
    if (text && numbers) {
      const wrong = text.cells[column].trim().slice(0, LONGEST_QUOTE);
      throw new InputError(
        `"${wrong}" in row ${text.number}, column "${name}" of ${file}, is no number`,
      );
    }
  }
  if (text) return "text";
  return numbers ? "numbers" : "empty";
}

function toNumber(cell) {
  const text = cell.trim();
  return MISSING.test(text) ? NaN : Number(text);
}

/** Rows of RFC 4180, numbered from 1; with commas, semicolons or tabs, as the first line has. */
function split(text) {
  const start = text.startsWith("\ufeff") ? 1 : 0;
  const line = text.slice(start, text.indexOf("\n") + 1 || undefined);
  const counts = [",", ";", "\t"].map((mark) => [line.split(mark).length, mark]);
  const mark = counts.reduce((a, b) => (b[0] > a[0] ? b : a))[1];
  const rows = [];
  let cells = [];
  let cell = "";
  let quoted = false;
  let number = 1;
  const endRow = () => {
    cells.push(cell);
    if (cells.length > 1 || cell.trim()) rows.push({ cells, number });
    cells = [];
    cell = "";
    number += 1;
  };
  for (let i = start; i < text.length; i++) {
    const letter = text[i];
    if (quoted) {
      if (letter !== '"') cell += letter;
      else if (text[i + 1] === '"') cell += text[++i];
      else quoted = false;
    } else if (letter === '"' && !cell) quoted = true;
    else if (letter === mark) {
      cells.push(cell);
      cell = "";
    } else if (letter === "\n") endRow();
    else if (letter !== "\r") cell += letter;
  }
  if (quoted) throw new InputError("a quote is opened in the CSV and never closed");
  if (cell || cells.length) endRow();
  return rows;
}
