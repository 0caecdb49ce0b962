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

// Which keys of a block 16 rows attend to: row r to those from first + r to last + r.
struct Seen {
  ptrdiff_t first, last;

  // x, where the rows attend to key j, else `hidden`.
  Floats operator()(size_t j, Floats x, Floats hidden) const {
    const auto key = static_cast<ptrdiff_t>(j);
    x = first_of(lanes(key - last), hidden, x);
    return first_of(lanes(key + 1 - first), x, hidden);
  }

  static size_t lanes(ptrdiff_t n) {
    return n < 0 ? 0 : n < static_cast<ptrdiff_t>(kLanes) ? static_cast<size_t>(n) : kLanes;
  }
};

size_t clamp(ptrdiff_t n, size_t low, size_t high) {
  if (n < static_cast<ptrdiff_t>(low)) return low;
  return n < static_cast<ptrdiff_t>(high) ? static_cast<size_t>(n) : high;
}

// Scores of 16 rows to weights, in place; returns what earlier weights must be multiplied by.
Floats softmax_step(float* scores, size_t stride, size_t keys, Seen seen, Softmax& state) {
  // Keys that all rows attend to need no second look.
  const size_t clear = clamp(seen.first + static_cast<ptrdiff_t>(kLanes) - 1, 0, keys);
  const size_t late = clamp(seen.last + 1, clear, keys);
  const auto for_each_key = [&](auto step) {
    for (size_t j = 0; j < clear; ++j) step(j, seen);
    for (size_t j = clear; j < late; ++j) step(j, [](size_t, Floats x, Floats) { return x; });
    for (size_t j = late; j < keys; ++j) step(j, seen);
  };
  Floats maximum = state.maximum;
  for_each_key([&](size_t j, auto look) {
    maximum = larger(maximum, look(j, load(scores + j * stride), splat(-__builtin_inff())));
  });
  Floats total = splat(0.0f);
  for_each_key([&](size_t j, auto look) {
    const Floats weight = exponential(sub(load(scores + j * stride), maximum));
    const Floats kept = look(j, weight, splat(0.0f));
    store(scores + j * stride, kept);
    total = add(total, kept);
  });
  const Floats correction = exponential(sub(state.maximum, maximum));
  state = {maximum, fma(state.sum, correction, total)};
  return correction;
}

void scale_rows(float* x, size_t width, size_t rows, const float* factors) {
  for (size_t r = 0; r < rows; ++r, x += width)
    for (size_t i = 0; i < width; i += kLanes) store(x + i, mul(load(x + i), splat(factors[r])));
}

// What the g-th 16 rows attend to of the keys from `begin` on.
Seen seen_by(const AttentionTile& tile, size_t g, size_t begin) {
  constexpr ptrdiff_t far = PTRDIFF_MAX / 2;
  const auto row = static_cast<ptrdiff_t>(tile.first + g * kLanes) - static_cast<ptrdiff_t>(begin);
  return {tile.window ? row + 1 - static_cast<ptrdiff_t>(tile.window) : -far,
          tile.positions ? far : row};
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
  // Not infinity, which less infinity is NaN: a row may attend to nothing in its tile's first block.
  for (Softmax& s : state) s = {splat(-__FLT_MAX__), splat(0.0f)};
  alignas(64) float factors[lanes];
  const size_t end = tile.positions ? tile.positions : tile.first + tile.rows;
  const bool narrow = tile.window && tile.window <= tile.first;
  const size_t start = narrow ? (tile.first + 1 - tile.window) / kKeyBlock * kKeyBlock : 0;
  for (size_t begin = start; begin < end; begin += kKeyBlock) {
    const size_t keys = end - begin < kKeyBlock ? end - begin : kKeyBlock;
    // Keys are computed up to whole lanes, and those beyond the last are not looked at.
    float_product<kScoreRows, kScorePanels, Left::by_row, Start::zero>(
        {tile.keys + begin * width, width, padded(keys), dim, query, kLanes, width * kLanes,
         groups, scores, lanes});
    for (size_t g = 0; g < groups; ++g) {
      store(factors + g * kLanes,
            softmax_step(scores + g * kLanes, lanes, keys, seen_by(tile, g, begin), state[g]));
    }
    const FloatProduct weighted{scores, lanes, tile.rows, keys, tile.values + begin * width, width,
                                kLanes, width / kLanes, out, width};
    if (begin == start) {
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
