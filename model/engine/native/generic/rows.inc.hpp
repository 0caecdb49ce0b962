// What happens to float rows: standardise, norm, round to 8 bits, mean. Rows are taken up to 16 at
// a time, so that what must join the lanes of a row does it for all of them at once.

void standardize(const float* values, const float* mean, const float* std, size_t width,
                 float* out) {
  for (size_t i = 0; i < width; i += kLanes) {
    const size_t n = width - i;
    const Floats centered = sub(load_first(values + i, n), load_first(mean + i, n));
    store_first(out + i, div(centered, load_first(std + i, n)), n);
  }
}

// Lanes of the vector at column i that belong to a row of this width.
size_t lanes_at(size_t i, size_t width) { return width - i < kLanes ? width - i : kLanes; }

// Joins the lanes of each of 16 rows, lane i with i + 8, then those with i + 4, and so on: the
// result of row r in lane r.
template <typename Join>
Floats join_lanes(Floats (&rows)[kLanes], Join join) {
  for (size_t half = kLanes / 2; half; half /= 2)
    for (size_t r = 0; r < half; ++r)
      rows[r] = join(interleave_low(rows[r], rows[r + half]),
                     interleave_high(rows[r], rows[r + half]));
  return rows[0];
}

Floats sum_lanes(Floats (&rows)[kLanes]) {
  return join_lanes(rows, [](Floats a, Floats b) { return add(a, b); });
}

// Calls step(i, last) for every vector of a row: `last` keeps those lanes that belong to it.
template <typename Step>
void for_each_vector(size_t width, Step step) {
  size_t i = 0;
  for (; i + kLanes <= width; i += kLanes) step(i, [](Floats x) { return x; });
  if (i < width) step(i, [=](Floats x) { return keep(x, width - i); });
}

// What LayerNorm (biased variance) and RMSNorm subtract and multiply by, for up to 16 rows.
struct Moments {
  alignas(64) float mean[kLanes], inverse[kLanes];
};

void find_moments(const Rows& in, Norm norm, Moments& out) {
  const Floats width = splat(static_cast<float>(in.width));
  Floats totals[kLanes];
  for (Floats& total : totals) total = splat(0.0f);
  store(out.mean, splat(0.0f));
  store(out.inverse, splat(1.0f));
  if (norm == Norm::none) return;
  if (norm == Norm::layernorm) {
    for (size_t r = 0; r < in.count; ++r)
      for (size_t i = 0; i < in.width; i += kLanes)
        totals[r] = add(totals[r], load(in.x + r * in.stride + i));
    store(out.mean, div(sum_lanes(totals), width));
  }
  for (size_t r = 0; r < in.count; ++r) {
    const float* x = in.x + r * in.stride;
    const Floats mean = splat(out.mean[r]);
    Floats total = splat(0.0f);
    for_each_vector(in.width, [&](size_t i, auto last) {
      const Floats centered = last(sub(load(x + i), mean));
      total = fma(centered, centered, total);
    });
    totals[r] = total;
  }
  const Floats variance = div(sum_lanes(totals), width);
  store(out.inverse, div(splat(1.0f), square_root(add(variance, splat(kEpsilon)))));
}

template <typename Shift>
Ints apply_norm(const float* x, size_t width, float mean, float inverse, Shift shift, float* out) {
  Ints largest = no_ints();
  for_each_vector(width, [&](size_t i, auto last) {
    const Floats y = mul(sub(load(x + i), splat(mean)), splat(inverse));
    const Floats shifted = last(shift(y, i));
    store(out + i, shifted);
    largest = larger(largest, magnitude(shifted));
  });
  return largest;
}

// Returns the lanes' largest bits of |out|, which order as the numbers do and put NaN above
// infinity.
Ints apply_norm(const float* x, size_t width, float mean, float inverse, Affine affine,
                float* out) {
  const float *weight = affine.weight, *bias = affine.bias;
  if (bias)
    return apply_norm(x, width, mean, inverse,
                      [=](Floats y, size_t i) { return fma(y, load(weight + i), load(bias + i)); },
                      out);
  if (weight)
    return apply_norm(x, width, mean, inverse,
                      [=](Floats y, size_t i) { return mul(y, load(weight + i)); }, out);
  return apply_norm(x, width, mean, inverse, [](Floats y, size_t) { return y; }, out);
}

// Of 16 rows at most, that stay in the nearest cache between one pass over them and the next.
template <typename Function>
void for_each_group(const Rows& in, Function function) {
  const size_t most = in.width <= kWideRow ? kLanes : 4;
  for (size_t row = 0; row < in.count; row += most) {
    const size_t count = in.count - row < most ? in.count - row : most;
    function(row, Rows{in.x + row * in.stride, in.stride, count, in.width});
  }
}

void normalize(const Rows& in, Norm norm, Affine affine, float* out, size_t out_stride) {
  for_each_group(in, [&](size_t row, const Rows& group) {
    Moments moments;
    find_moments(group, norm, moments);
    for (size_t r = 0; r < group.count; ++r)
      apply_norm(group.x + r * in.stride, in.width, moments.mean[r], moments.inverse[r], affine,
                 out + (row + r) * out_stride);
  });
}

Ints largest_magnitude(const float* x, size_t width) {
  Ints largest = no_ints();
  for (size_t i = 0; i < width; i += kLanes) largest = larger(largest, magnitude(load(x + i)));
  return largest;
}

// The row times `inverse`, to the nearest integers; returns the lanes' sums of them.
Ints round_row(const float* x, size_t width, float inverse, int8_t* q) {
  Ints total = no_ints();
  size_t i = 0;
  for (; i < width; i += kLanes) {
    const Ints rounded = round(mul(load(x + i), splat(inverse)));
    total = add(total, rounded);
    store_bytes(q + i, rounded);
  }
  for (; i < padded(width, kByteStride); i += kLanes) store_bytes(q + i, no_ints());
  return total;
}

void quantize_group(const Rows& in, Norm norm, Affine affine, const Quantized& out, size_t row,
                    float* scratch) {
  const size_t scratch_stride = row_stride(in.width);
  Floats lanes[kLanes];
  for (Floats& x : lanes) x = splat(0.0f);
  Rows y = in;
  if (norm == Norm::none) {
    for (size_t r = 0; r < in.count; ++r)
      lanes[r] = from_bits(largest_magnitude(in.x + r * in.stride, in.width));
  } else {
    Moments moments;
    find_moments(in, norm, moments);
    for (size_t r = 0; r < in.count; ++r)
      lanes[r] = from_bits(apply_norm(in.x + r * in.stride, in.width, moments.mean[r],
                                      moments.inverse[r], affine, scratch + r * scratch_stride));
    y = {scratch, scratch_stride, in.count, in.width};
  }
  alignas(64) float largest[kLanes];
  store(largest, join_lanes(lanes, [](Floats a, Floats b) {
          return from_bits(larger(to_bits(a), to_bits(b)));
        }));
  for (size_t r = 0; r < in.count; ++r) {
    // A row that is not finite has no 8-bit form: its scale makes NaN of everything it reaches.
    const bool finite = largest[r] <= __FLT_MAX__;
    const float most = largest[r] < kEpsilon ? kEpsilon : largest[r];
    out.scale[row + r] = finite ? most / 127.0f : __builtin_nanf("");
    lanes[r] = from_bits(round_row(y.x + r * y.stride, in.width, finite ? 127.0f / most : 0.0f,
                                   out.q + (row + r) * out.stride));
  }
  alignas(64) int32_t sums[kLanes];
  store_ints(sums, to_bits(join_lanes(lanes, [](Floats a, Floats b) {
               return from_bits(add(to_bits(a), to_bits(b)));
             })));
  for (size_t r = 0; r < in.count; ++r) out.sum[row + r] = sums[r];
}

void quantize(const Rows& in, Norm norm, Affine affine, const Quantized& out, float* scratch) {
  for_each_group(in, [&](size_t row, const Rows& group) {
    quantize_group(group, norm, affine, out, row, scratch);
  });
}

void maximum(const float* x, size_t stride, size_t rows, size_t width, float* out) {
  for (size_t i = 0; i < width; i += kLanes) {
    Floats most = load(x + i);
    // `larger` gives its second argument where one is NaN, so NaN passes through.
    for (size_t row = 1; row < rows; ++row) {
      const Floats next = load(x + row * stride + i);
      most = larger(most, next);
    }
    store_first(out + i, most, width - i);
  }
}

// Rows are summed one after the other in parts of kPartRows. A longer chain would lose digits, so
// the parts are joined by Kahan's sum: what rounding put too much into the total leaves the next
// part.
struct Total {
  Floats total, excess;

  void join(Floats part) {
    part = sub(part, excess);
    const Floats joined = add(total, part);
    excess = sub(sub(joined, total), part);
    total = joined;
  }
};

void mean(const float* x, size_t stride, size_t rows, size_t width, bool rising, float* out) {
  const size_t weights = rising ? rows * (rows + 1) / 2 : rows;
  const Floats divisor = splat(static_cast<float>(weights));
  for (size_t i = 0; i < width; i += kLanes) {
    Total all{splat(0.0f), splat(0.0f)};
    for (size_t begin = 0; begin < rows; begin += kPartRows) {
      const size_t end = rows - begin < kPartRows ? rows : begin + kPartRows;
      Floats part = splat(0.0f);
      for (size_t row = begin; row < end; ++row) {
        const Floats weight = splat(rising ? static_cast<float>(row + 1) : 1.0f);
        part = fma(weight, load(x + row * stride + i), part);
      }
      all.join(part);
    }
    store_first(out + i, div(all.total, divisor), width - i);
  }
}

void add_to_sums(const float* x, size_t width, float weight, bool ends_part, float* sums) {
  const size_t stride = padded(width);
  for (size_t i = 0; i < width; i += kLanes) {
    float *total = sums + i, *excess = total + stride, *part = excess + stride;
    Floats next = fma(splat(weight), load(x + i), load(part));
    if (ends_part) {
      Total all{load(total), load(excess)};
      all.join(next);
      store(total, all.total);
      store(excess, all.excess);
      next = splat(0.0f);
    }
    store(part, next);
  }
}

void mean_of_sums(const float* sums, size_t width, bool open_part, float divisor, float* out) {
  const size_t stride = padded(width);
  for (size_t i = 0; i < width; i += kLanes) {
    const float *total = sums + i, *excess = total + stride, *part = excess + stride;
    Total all{load(total), load(excess)};
    if (open_part) all.join(load(part));
    store_first(out + i, div(all.total, splat(divisor)), width - i);
  }
}
