// Elementary functions over 16 lanes, in operations that round alike everywhere.

Floats exponential(Floats x) {
  // exp(x) = 2^n * exp(r), |r| <= ln(2) / 2; the polynomial is a minimax fit with p(0) = 1.
  // `larger` and `smaller` give their second argument where one is NaN, so NaN passes through.
  x = smaller(splat(88.0f), larger(splat(-87.0f), x));
  const Ints n = round(mul(x, splat(1.44269504f)));
  const Floats count = to_float(n);
  Floats r = fma(count, splat(-0.693359375f), x);
  r = fma(count, splat(2.12194440e-4f), r);
  Floats p = splat(0.001381454f);
  p = fma(p, r, splat(0.008368745f));
  p = fma(p, r, splat(0.04166839f));
  p = fma(p, r, splat(0.16666521f));
  p = fma(p, r, splat(0.49999994f));
  p = fma(p, r, splat(1.0f));
  p = fma(p, r, splat(1.0f));
  return mul(p, power_of_two(n));
}

// 1 / x for positive normal x up to 2^126, by Newton's iteration: a division would cost three times
// as much. The first guess halves and negates the exponent; three steps leave an error near 1e-7.
Floats reciprocal(Floats x) {
  Floats y = from_bits(sub(splat_int(0x7ef311c3), magnitude(x)));
#pragma GCC unroll 3
  for (int i = 0; i < 3; ++i) {
    const Floats error = fma(sub(splat(0.0f), x), y, splat(1.0f));
    y = fma(y, error, y);
  }
  return y;
}

Floats silu(Floats x) {
  x = larger(splat(-87.0f), x);
  return mul(x, reciprocal(add(splat(1.0f), exponential(sub(splat(0.0f), x)))));
}

float exponential(float x) {
  float lanes[kLanes];
  store(lanes, exponential(splat(x)));
  return lanes[0];
}

// The first n floats at p, n <= 16, zeros in the other lanes.
Floats load_first(const float* p, size_t n) {
  if (n >= kLanes) return load(p);
  float lanes[kLanes] = {};
  for (size_t i = 0; i < n; ++i) lanes[i] = p[i];
  return load(lanes);
}

void store_first(float* p, Floats x, size_t n) {
  if (n >= kLanes) return store(p, x);
  float lanes[kLanes];
  store(lanes, x);
  for (size_t i = 0; i < n; ++i) p[i] = lanes[i];
}
