// Causal attention of a few query rows of one head, by an online softmax over blocks of keys
// (Milakov and Gimelshein 2018, arXiv 1805.02867): no row of scores is longer than kKeyBlock.
//
// Blocks start at multiples of kKeyBlock from the sequence's start, whatever the tile, so a row's
// sums run in the same order in any tile. Keys are stored transposed, [panels, head_dim, 16
// positions], so that scores come out 16 positions to a vector without horizontal sums.

// Halves paired as in LLaMA; `cos` null copies.
void rotate(const float* x, size_t head_dim, const float* cos, const float* sin, float* out) {
  if (!cos) {
    for (size_t i = 0; i < head_dim; i += kLanes)
      store_first(out + i, load_first(x + i, head_dim - i), head_dim - i);
    return;
  }
  const size_t half = head_dim / 2;
  for (size_t i = 0; i < half; i += kLanes) {
    const size_t n = half - i;
    const Floats a = load_first(x + i, n), b = load_first(x + half + i, n);
    const Floats c = load_first(cos + i, n), s = load_first(sin + i, n);
    store_first(out + i, sub(mul(a, c), mul(b, s)), n);
    store_first(out + half + i, add(mul(b, c), mul(a, s)), n);
  }
}

void keep_key_value(const KeyValueRow& row, float* keys, float* values) {
  const size_t dim = row.head_dim, width = padded(dim), lane = row.position % kLanes;
  float* value = values + row.position * width;
  float* panel = keys + (row.position - lane) * dim;
  // The rotated key passes through the place of the value.
  rotate(row.key, dim, row.cos, row.sin, value);
  for (size_t i = 0; i < dim; ++i) panel[i * kLanes + lane] = value[i];
  for (size_t i = 0; i < dim; i += kLanes) store(value + i, load_first(row.value + i, dim - i));
  if (row.last)
    for (size_t i = 0; i < dim; ++i)
      for (size_t l = lane + 1; l < kLanes; ++l) panel[i * kLanes + l] = 0.0f;
}

struct Softmax {
  float maximum, sum;
};

// Scores of `count` keys to weights, in place; returns what earlier weights must be multiplied by.
float softmax_step(float* scores, size_t count, size_t width, float scale, Softmax& state) {
  const size_t last = (count - 1) / kLanes * kLanes;
  for (size_t j = count; j < last + kLanes; ++j) scores[j] = -__builtin_inff();
  Floats top = splat(state.maximum);
  for (size_t j = 0; j <= last; j += kLanes) {
    const Floats scaled = mul(load(scores + j), splat(scale));
    store(scores + j, scaled);
    top = larger(top, scaled);
  }
  const float maximum = largest(top);
  Floats total = splat(0.0f);
  for (size_t j = 0; j <= last; j += kLanes) {
    const Floats weight =
        keep(exponential(sub(load(scores + j), splat(maximum))), lanes_at(j, count));
    store(scores + j, weight);
    total = add(total, weight);
  }
  for (size_t j = last + kLanes; j < width; j += kLanes) store(scores + j, splat(0.0f));
  const float correction = exponential(state.maximum - maximum);
  state.sum = __builtin_fmaf(state.sum, correction, sum(total));
  state.maximum = maximum;
  return correction;
}

void scale_row(float* x, size_t width, float factor) {
  for (size_t i = 0; i < width; i += kLanes) store(x + i, mul(load(x + i), splat(factor)));
}

void attend(const AttentionTile& tile) {
  const size_t dim = tile.head_dim, width = padded(dim);
  float* query = tile.scratch;                // [kTileRows, width]
  float* out = query + kTileRows * width;     // [kTileRows, width]
  float* scores = out + kTileRows * width;    // [kTileRows, kKeyBlock]
  const float scale = 1.0f / __builtin_sqrtf(static_cast<float>(dim));
  Softmax state[kTileRows];
  for (size_t r = 0; r < tile.rows; ++r) {
    const size_t at = (tile.first + r) * (dim / 2);
    rotate(tile.query + r * tile.query_stride, dim, tile.cos ? tile.cos + at : nullptr,
           tile.sin ? tile.sin + at : nullptr, query + r * width);
    for (size_t i = 0; i < width; i += kLanes) store(out + r * width + i, splat(0.0f));
    state[r] = {-__builtin_inff(), 0.0f};
  }

  const size_t end = tile.first + tile.rows;
  for (size_t begin = 0; begin < end; begin += kKeyBlock) {
    const size_t keys = end - begin < kKeyBlock ? end - begin : kKeyBlock;
    const size_t block = padded(keys);
    for (size_t r = 0; r < tile.rows; ++r)
      for (size_t j = 0; j < block; j += kLanes) store(scores + r * kKeyBlock + j, splat(0.0f));
    float_product(query, width, tile.rows, dim, tile.keys + begin * dim, kLanes, kLanes * dim,
                  block / kLanes, scores, kKeyBlock);
    for (size_t r = 0; r < tile.rows; ++r) {
      const size_t limit = tile.first + r + 1;
      float* row = scores + r * kKeyBlock;
      if (limit <= begin) {
        for (size_t j = 0; j < block; j += kLanes) store(row + j, splat(0.0f));
      } else {
        const size_t count = limit - begin < keys ? limit - begin : keys;
        scale_row(out + r * width, width, softmax_step(row, count, block, scale, state[r]));
      }
    }
    float_product(scores, kKeyBlock, tile.rows, keys, tile.values + begin * width, width, kLanes,
                  width / kLanes, out, width);
  }
  for (size_t r = 0; r < tile.rows; ++r) {
    scale_row(out + r * width, width, 1.0f / state[r].sum);
    for (size_t i = 0; i < dim; i += kLanes)
      store_first(tile.out + r * tile.out_stride + i, load(out + r * width + i), dim - i);
  }
}
