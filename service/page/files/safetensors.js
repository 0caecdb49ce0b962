/** A batch as safetensors: `values [timesteps, width]` float32 and `lengths [batch]` int64. */

/**
 * @param {{timesteps: number, values: Float32Array}[]} sequences
 * @param {number} width numbers in a timestep
 * @param {?string[]} features their names, where they are sent
 * @returns {Blob}
 */
export function writeSafetensors(sequences, width, features) {
  const timesteps = sequences.reduce((sum, sequence) => sum + sequence.timesteps, 0);
  const lengths = BigInt64Array.from(sequences, (sequence) => BigInt(sequence.timesteps));
  const [first, last] = [lengths.byteLength, lengths.byteLength + 4 * timesteps * width];
  const header = {
    lengths: { dtype: "I64", shape: [sequences.length], data_offsets: [0, first] },
    values: { dtype: "F32", shape: [timesteps, width], data_offsets: [first, last] },
  };
  if (features) header.__metadata__ = { features: features.map(quote).join(",") };
  const text = new TextEncoder().encode(JSON.stringify(header));
  const padding = " ".repeat(-text.length & 7);
  const size = BigUint64Array.of(BigInt(text.length + padding.length));
  return new Blob([size, text, padding, lengths, ...sequences.map(({ values }) => values)]);
}

const quote = (name) => (/[",]/.test(name) ? `"${name.replaceAll('"', '""')}"` : name);
