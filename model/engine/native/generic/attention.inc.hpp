// Attention of a few query rows of one head, causal or to the whole sequence, by an online softmax over blocks of keys
// (Milakov and Gimelshein 2018, arXiv 1805.02867): no row of scores is longer than kKeyBlock.
//
// Query rows are laid along the lanes, so that the largest score and the sum of weights of every
// row come out of whole vectors. Blocks start at multiples of kKeyBlock from the sequence's start,
// whatever the tile, so a row's sums run in the same order in any tile.

// Halves paired as in LLaMA.
void rotate(const float* x, size_t head_dim, const float* cos, const float* sin, float* out) {
  const size_t half = head_dim / 2;
  for (size_t i = 0; i < half; i += kLanes) {
    const size_t n = half - i;
    const Floats a = load_first(x + i, n), b = load_first(x + half + i, n);
    const Floats c = load_first(cos + i, n), s = load_first(sin + i, n);
    store_first(out + i, sub(mul(a, c), mul(b, s)), n);
    store_first(out + half + i, add(mul(b, c), mul(a, s)), n);
  }
}

void keep_key_value(const KeyValueRows& in, float* keys, float* values) {
  const size_t dim = in.head_dim, width = padded(dim);
  for (size_t r = 0; r < in.rows; ++r) {
    const size_t position = in.first + r, at = position * width;
    const float *key = in.key + r * in.stride, *value = in.value + r * in.stride;
    for (size_t i = 0; i < dim; i += kLanes) {
      store(values + at + i, load_first(value + i, dim - i));
      if (!in.cos) store(keys + at + i, load_first(key + i, dim - i));
    }
    if (in.cos)
      rotate(key, dim, in.cos + position * (dim / 2), in.sin + position * (dim / 2), keys + at);
  }
}

void transpose(Floats (&x)[kLanes]) {
  for (size_t stage = 1; stage < kLanes; stage *= 2) {
    Floats y[kLanes];
#pragma GCC unroll 8
    for (size_t i = 0; i < kLanes / 2; ++i) {
      y[2 * i] = interleave_low(x[i], x[i + kLanes / 2]);
      y[2 * i + 1] = interleave_high(x[i], x[i + kLanes / 2]);
    }
#pragma GCC unroll 16
    for (size_t i = 0; i < kLanes; ++i) x[i] = y[i];
  }
}

// Up to 16 queries times `scale`, as columns [head_dim, 16].
void load_queries(const AttentionTile& tile, size_t row, float scale, float* rotated,
                  float* columns) {
  const size_t dim = tile.head_dim;
  const size_t rows = tile.rows - row < kLanes ? tile.rows - row : kLanes;
  const float* from = tile.query + row * tile.query_stride;
  size_t stride = tile.query_stride;
  if (tile.cos) {
    for (size_t r = 0; r < rows; ++r) {
      const size_t at = (tile.first + row + r) * (dim / 2);
      rotate(from + r * stride, dim, tile.cos + at, tile.sin + at, rotated + r * padded(dim));
    }
    from = rotated;
    stride = padded(dim);
  }
  for (size_t i = 0; i < dim; i += kLanes) {
    Floats block[kLanes];
    for (size_t r = 0; r < kLanes; ++r)
      block[r] = r < rows ? load_first(from + r * stride + i, dim - i) : splat(0.0f);
    transpose(block);
    for (size_t k = 0; k < lanes_at(i, dim); ++k)
      store(columns + (i + k) * kLanes, mul(block[k], splat(scale)));
  }
}

// Of 16 query rows.
struct Softmax {
  Floats maximum, sum;
};

// Scores of 16 rows to weights, in place; returns what earlier weights must be multiplied by. All
// rows attend to the first `common` keys, all but the first row to one more, and so on.
Floats softmax_step(float* scores, size_t stride, size_t keys, ptrdiff_t common, Softmax& state) {
  const size_t seen_by_all = common < 0 ? 0 : static_cast<size_t>(common);
  const size_t clear = seen_by_all < keys ? seen_by_all : keys;
  // Of the rows, how many do not attend to key j.
  const auto blind = [&](size_t j) {
    const auto rows = static_cast<size_t>(static_cast<ptrdiff_t>(j) + 1 - common);
    return rows < kLanes ? rows : kLanes;
  };
  Floats maximum = state.maximum;
  for (size_t j = 0; j < clear; ++j) maximum = larger(maximum, load(scores + j * stride));
  for (size_t j = clear; j < keys; ++j) {
    const Floats score = load(scores + j * stride);
    maximum = larger(maximum, first_of(blind(j), splat(-__builtin_inff()), score));
  }
  Floats total = splat(0.0f);
  for (size_t j = 0; j < clear; ++j) {
    const Floats weight = exponential(sub(load(scores + j * stride), maximum));
    store(scores + j * stride, weight);
    total = add(total, weight);
  }
  for (size_t j = clear; j < keys; ++j) {
    const Floats weight = exponential(sub(load(scores + j * stride), maximum));
    const Floats seen = first_of(blind(j), splat(0.0f), weight);
    store(scores + j * stride, seen);
    total = add(total, seen);
  }
  const Floats correction = exponential(sub(state.maximum, maximum));
  state = {maximum, fma(state.sum, correction, total)};
  return correction;
}

void scale_rows(float* x, size_t width, size_t rows, const float* factors) {
  for (size_t r = 0; r < rows; ++r, x += width)
    for (size_t i = 0; i < width; i += kLanes) store(x + i, mul(load(x + i), splat(factors[r])));
}

// `groups` times 16 query rows.
template <size_t groups>
void attend_groups(const AttentionTile& tile) {
  constexpr size_t lanes = groups * kLanes;
  const size_t dim = tile.head_dim, width = padded(dim);
  float* query = tile.scratch;          // [groups, width, 16]
  float* out = query + lanes * width;   // [rows, width]
  float* scores = out + lanes * width;  // [keys, groups, 16]
  float* rotated = scores + lanes * kKeyBlock;
  const float scale = 1.0f / __builtin_sqrtf(static_cast<float>(dim));
  for (size_t g = 0; g < groups; ++g)
    load_queries(tile, g * kLanes, scale, rotated, query + g * width * kLanes);

  Softmax state[groups];
  for (Softmax& s : state) s = {splat(-__builtin_inff()), splat(0.0f)};
  alignas(64) float factors[lanes];
  const size_t end = tile.positions ? tile.positions : tile.first + tile.rows;
  for (size_t begin = 0; begin < end; begin += kKeyBlock) {
    const size_t keys = end - begin < kKeyBlock ? end - begin : kKeyBlock;
    // Keys are computed up to whole lanes, and those beyond the last are not looked at.
    float_product<kScoreRows, kScorePanels, Left::by_row, Start::zero>(
        {tile.keys + begin * width, width, padded(keys), dim, query, kLanes, width * kLanes,
         groups, scores, lanes});
    for (size_t g = 0; g < groups; ++g) {
      const size_t seen = tile.positions ? tile.positions : tile.first + g * kLanes + 1;
      const auto common = static_cast<ptrdiff_t>(seen) - static_cast<ptrdiff_t>(begin);
      store(factors + g * kLanes,
            softmax_step(scores + g * kLanes, lanes, keys, common, state[g]));
    }
    const FloatProduct weighted{scores, lanes, tile.rows, keys, tile.values + begin * width, width,
                                kLanes, width / kLanes, out, width};
    if (begin == 0) {
      float_product<kOutRows, kOutPanels, Left::by_input, Start::zero>(weighted);
    } else {
      scale_rows(out, width, tile.rows, factors);
      float_product<kOutRows, kOutPanels, Left::by_input, Start::out>(weighted);
    }
  }
  for (size_t g = 0; g < groups; ++g) store(factors + g * kLanes, div(splat(1.0f), state[g].sum));
  scale_rows(out, width, tile.rows, factors);
  for (size_t r = 0; r < tile.rows; ++r)
    for (size_t i = 0; i < dim; i += kLanes)
      store_first(tile.out + r * tile.out_stride + i, load(out + r * width + i), dim - i);
}

void attend(const AttentionTile& tile) {
  static_assert(kTileRows == 2 * kLanes);
  if (tile.rows <= kLanes) {
    attend_groups<1>(tile);
  } else {
    attend_groups<2>(tile);
  }
}
