/** The npy format: a header of Python text that tells type, order and shape, and the numbers. */

import { InputError } from "./errors.js";

const MAGIC = "\x93NUMPY";
const READERS = {
  f4: "getFloat32",
  f8: "getFloat64",
  i1: "getInt8",
  i2: "getInt16",
  i4: "getInt32",
  i8: "getBigInt64",
  u1: "getUint8",
  u2: "getUint16",
  u4: "getUint32",
  u8: "getBigUint64",
  b1: "getUint8",
};

export const isNpy = (bytes) => String.fromCharCode(...bytes.subarray(0, 6)) === MAGIC;

/**
 * @param {Uint8Array} bytes of the whole file
 * @param {string} file its name
 * @returns {{shape: number[], values: Float64Array, integers: boolean}} values in C order
 */
export function readNpy(bytes, file) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const fits = bytes.length >= 12 && [1, 2].includes(bytes[6]);
  const start = bytes[6] === 1 ? 10 : 12;
  const end = fits ? start + (start === 10 ? view.getUint16(8, true) : view.getUint32(8, true)) : 0;
  const header = new TextDecoder("latin1").decode(bytes.subarray(start, end));
  const type = /'descr':\s*'([^']+)'/.exec(header)?.[1];
  const order = /'fortran_order':\s*(True|False)/.exec(header)?.[1];
  const sizes = /'shape':\s*\(([\d,\s]*)\)/.exec(header)?.[1];
  if (end > bytes.length || !order || sizes === undefined) {
    throw new InputError(`${file} is no npy that this page reads: its header is odd or cut off`);
  }
  const read = READERS[type?.slice(1)];
  if (!read) {
    throw new InputError(
      `${file} holds ${type ?? "records"}; it must be float32, float64, integers or booleans`,
    );
  }
  const shape = sizes.split(",").filter((size) => size.trim()).map(Number);
  const size = Number(type[2]);
  const total = shape.reduce((product, length) => product * length, 1);
  if (total * size !== bytes.length - end) {
    throw new InputError(
      `${file} has ${bytes.length - end} bytes after its header; its shape takes ${total * size}`,
    );
  }
  const stored = Float64Array.from({ length: total }, (_, i) =>
    Number(view[read](end + i * size, type[0] !== ">")),
  );
  const values = order === "True" ? toRows(stored, shape) : stored;
  return { shape, values, integers: type[1] !== "f" };
}

/** From Fortran's order, first index fastest, to C's. */
function toRows(stored, shape) {
  const strides = shape.map((_, axis) => shape.slice(0, axis).reduce((a, b) => a * b, 1));
  const index = shape.map(() => 0);
  return stored.map(() => {
    const value = stored[index.reduce((at, i, axis) => at + i * strides[axis], 0)];
    for (let axis = shape.length - 1; axis >= 0 && ++index[axis] === shape[axis]; axis--) {
      index[axis] = 0;
    }
    return value;
  });
}
