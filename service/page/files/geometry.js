/**
 * Embeddings as points: who is near whom, and where they lie on a plane.
 *
 * Everything is in double precision. Each of the `d` numbers of an embedding is standardised over
 * the batch, for they differ in scale; distances are Euclidean. The principal components of `n` rows
 * are eigenvectors of the smaller of X'X `[d, d]` and XX' `[n, n]`, found by subspace iteration:
 * multiply BLOCK vectors, turn them to the best within their span (Rayleigh-Ritz), orthonormalise.
 */

const BLOCK = 8;
const MAX_STEPS = 300;
// Of the largest eigenvalue, what the product with an eigenvector may be off.
const TOLERANCE = 1e-9;
const SWEEPS = 30;
const FLOAT32_ROUNDING = 2 ** -23;

/** Rows `[n * d]` with each column brought to mean 0 and deviation 1; a constant one becomes 0. */
export function standardize(rows, d) {
  const n = rows.length / d;
  const standard = Float64Array.from(rows);
  for (let column = 0; column < d; column++) {
    let [mean, squares] = [0, 0];
    for (let i = column; i < rows.length; i += d) mean += rows[i] / n;
    for (let i = column; i < rows.length; i += d) squares += (rows[i] - mean) ** 2;
    const deviation = Math.sqrt(squares / n);
    const scale = deviation > FLOAT32_ROUNDING * Math.abs(mean) ? 1 / deviation : 0;
    for (let i = column; i < rows.length; i += d) standard[i] = (rows[i] - mean) * scale;
  }
  return standard;
}

/** The `most` other rows that are nearest to row `i`: `[{row, distance}]`, nearest first. */
export function neighbours(rows, d, i, most) {
  const others = [];
  for (let row = 0; row < rows.length / d; row++) {
    if (row === i) continue;
    let squares = 0;
    for (let k = 0; k < d; k++) squares += (rows[row * d + k] - rows[i * d + k]) ** 2;
    others.push({ row, distance: Math.sqrt(squares) });
  }
  return others.sort((a, b) => a.distance - b.distance || a.row - b.row).slice(0, most);
}

/**
 * The first two principal components.
 *
 * @param {Float64Array} x `[n * d]`, its columns of mean 0
 * @returns {{points: [number, number][], shares: [number, number]}} a point a row, and which share
 *   of the variance each of the two has
 */
export function project(x, d) {
  const n = x.length / d;
  const byRow = n < d;
  const matrix = byRow ? gram(x, n, d) : gram(transposed(x, n, d), d, n);
  const m = byRow ? n : d;
  let variance = 0;
  for (let i = 0; i < m; i++) variance += matrix[i * m + i];
  const points = Array.from({ length: n }, () => [0, 0]);
  if (!(variance > 0)) return { points, shares: [0, 0] };
  const { values, vectors } = largest(matrix, m);
  for (const axis of [0, 1]) {
    if (!vectors[axis]) continue;
    const vector = vectors[axis];
    const coordinate = byRow
      ? (i) => vector[i] * Math.sqrt(Math.max(values[axis], 0))
      : (i) => dot(x.subarray(i * d, (i + 1) * d), vector);
    const along = points.map((_, i) => coordinate(i));
    // A component's sign is free: the largest coordinate is positive.
    const peak = along.reduce((a, b) => (Math.abs(b) > Math.abs(a) ? b : a), 0);
    along.forEach((value, i) => (points[i][axis] = peak < 0 ? -value : value));
  }
  return { points, shares: [0, 1].map((axis) => Math.max(values[axis] ?? 0, 0) / variance) };
}

function dot(a, b) {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i] * b[i];
  return sum;
}

function transposed(x, n, d) {
  return Float64Array.from({ length: n * d }, (_, i) => x[(i % n) * d + Math.floor(i / n)]);
}

/** All products of `rows` rows of `length` numbers, `[rows * rows]`. */
function gram(x, rows, length) {
  const products = new Float64Array(rows * rows);
  for (let i = 0; i < rows; i++) {
    const own = x.subarray(i * length, (i + 1) * length);
    for (let j = 0; j <= i; j++) {
      const product = dot(own, x.subarray(j * length, (j + 1) * length));
      products[i * rows + j] = products[j * rows + i] = product;
    }
  }
  return products;
}

/** The largest eigenvalues of a symmetric, positive matrix `[m * m]`, and their eigenvectors. */
function largest(matrix, m) {
  const size = Math.min(BLOCK, m);
  const shown = Math.min(2, m);
  // Any start will do that no eigenvector is orthogonal to; this one is the same each time.
  const start = (k) => Float64Array.from({ length: m }, (_, i) => Math.sin(1 + 1.7 * k * (i + 1)));
  let basis = orthonormal(Array.from({ length: size }, (_, k) => start(k + 1)));
  for (let step = 0; ; step++) {
    const images = basis.map((vector) =>
      Float64Array.from({ length: m }, (_, i) => dot(matrix.subarray(i * m, (i + 1) * m), vector)),
    );
    const small = basis.map((vector) => images.map((image) => dot(vector, image)));
    const { values, vectors: turns } = jacobi(small);
    const turned = (block) => turns.map((turn) => combine(block, turn));
    basis = turned(basis);
    const next = turned(images);
    const residual = (vector, k) => norm(next[k].map((value, i) => value - values[k] * vector[i]));
    const wrong = Math.max(...basis.slice(0, shown).map(residual));
    if (wrong <= TOLERANCE * values[0] || step === MAX_STEPS) return { values, vectors: basis };
    basis = orthonormal(next);
  }
}

const norm = (vector) => Math.sqrt(dot(vector, vector));

function combine(block, weights) {
  return block[0].map((_, i) => block.reduce((sum, vector, k) => sum + weights[k] * vector[i], 0));
}

/** Gram-Schmidt, each vector twice against those before it; one that they span becomes zero. */
function orthonormal(block) {
  const done = [];
  for (const vector of block) {
    const before = norm(vector);
    for (const _ of [1, 2]) {
      for (const other of done) {
        const along = dot(vector, other);
        vector.forEach((value, i) => (vector[i] = value - along * other[i]));
      }
    }
    const left = norm(vector);
    const scale = left > 1e-12 * before ? 1 / left : 0;
    done.push(vector.map((value) => value * scale));
  }
  return done;
}

/** Eigenvalues of a small symmetric matrix, largest first, and its eigenvectors (Jacobi). */
function jacobi(matrix) {
  const size = matrix.length;
  const a = matrix.map((row) => [...row]);
  const v = a.map((_, i) => a.map((_, j) => Number(i === j)));
  const small = Number.EPSILON * a.reduce((sum, row, i) => sum + Math.abs(row[i]), 0);
  for (let sweep = 0; sweep < SWEEPS; sweep++) {
    for (let p = 0; p < size; p++) {
      for (let q = p + 1; q < size; q++) {
        if (Math.abs(a[p][q]) <= small) continue;
        const angle = 0.5 * Math.atan2(2 * a[p][q], a[q][q] - a[p][p]);
        const [c, s] = [Math.cos(angle), Math.sin(angle)];
        const turn = (x, y) => [c * x - s * y, s * x + c * y];
        for (const row of a) [row[p], row[q]] = turn(row[p], row[q]);
        for (const row of v) [row[p], row[q]] = turn(row[p], row[q]);
        a[p].forEach((_, k) => ([a[p][k], a[q][k]] = turn(a[p][k], a[q][k])));
      }
    }
  }
  const order = a.map((_, i) => i).sort((i, j) => a[j][j] - a[i][i]);
  return { values: order.map((i) => a[i][i]), vectors: order.map((i) => v.map((row) => row[i])) };
}
