// What happens to one float row at a time: standardise, norm, round to 8 bits, mean.

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

float row_mean(const float* x, size_t width) {
  Floats total = splat(0.0f);
  for (size_t i = 0; i < width; i += kLanes) total = add(total, load(x + i));
  return sum(total) / static_cast<float>(width);
}

float row_variance(const float* x, size_t width, float mean) {
  Floats total = splat(0.0f);
  for (size_t i = 0; i < width; i += kLanes) {
    const Floats centered = keep(sub(load(x + i), splat(mean)), lanes_at(i, width));
    total = fma(centered, centered, total);
  }
  return sum(total) / static_cast<float>(width);
}

// LayerNorm (biased variance) or RMSNorm; returns the largest bits of |out|, which order as the
// numbers do and put NaN above infinity.
int32_t normalize_row(const float* x, size_t width, Norm norm, Affine affine, float* out) {
  const float mean = norm == Norm::layernorm ? row_mean(x, width) : 0.0f;
  const float inverse =
      norm == Norm::none ? 1.0f : 1.0f / __builtin_sqrtf(row_variance(x, width, mean) + kEpsilon);
  Ints largest = no_ints();
  for (size_t i = 0; i < width; i += kLanes) {
    Floats y = mul(sub(load(x + i), splat(mean)), splat(inverse));
    if (affine.bias) {
      y = fma(y, load(affine.weight + i), load(affine.bias + i));
    } else if (affine.weight) {
      y = mul(y, load(affine.weight + i));
    }
    y = keep(y, lanes_at(i, width));
    store(out + i, y);
    largest = larger(largest, magnitude(y));
  }
  return maximum(largest);
}

void normalize(const float* x, size_t width, Norm norm, Affine affine, float* out) {
  normalize_row(x, width, norm, affine, out);
}

int32_t largest_magnitude(const float* x, size_t width) {
  Ints largest = no_ints();
  for (size_t i = 0; i < width; i += kLanes) largest = larger(largest, magnitude(load(x + i)));
  return maximum(largest);
}

void quantize(const float* x, size_t width, Norm norm, Affine affine, const Quantized& out,
              size_t row, float* scratch) {
  const bool as_is = norm == Norm::none;
  const int32_t bits =
      as_is ? largest_magnitude(x, width) : normalize_row(x, width, norm, affine, scratch);
  const float* y = as_is ? x : scratch;
  float largest;
  __builtin_memcpy(&largest, &bits, sizeof largest);
  // A row that is not finite has no 8-bit form: its scale makes NaN of everything it reaches.
  const bool finite = bits < 0x7f800000;
  if (largest < kEpsilon) largest = kEpsilon;
  out.scale[row] = finite ? largest / 127.0f : __builtin_nanf("");
  const Floats inverse = splat(finite ? 127.0f / largest : 0.0f);

  int8_t* q = out.q + row * out.stride;
  Ints total = no_ints();
  const size_t whole = padded(width);
  for (size_t i = 0; i < whole; i += kLanes) {
    const Ints rounded = round(mul(load(y + i), inverse));
    total = add(total, rounded);
    store_bytes(q + i, rounded);
  }
  for (size_t i = whole; i < padded(width, kByteStride); i += kLanes) store_bytes(q + i, no_ints());
  out.sum[row] = sum(total);
}

void mean(const float* x, size_t stride, size_t rows, size_t width, float* out) {
  const Floats count = splat(static_cast<float>(rows));
  for (size_t i = 0; i < width; i += kLanes) {
    Floats total = splat(0.0f);
    for (size_t row = 0; row < rows; ++row) total = add(total, load(x + row * stride + i));
    store_first(out + i, div(total, count), width - i);
  }
}
