// Elementary functions over 16 lanes, in operations that round alike everywhere.

// e^(sign * x) is value * power, for |x| up to 87. It is 2^n * e^r with |r| <= ln(2) / 2, of which
// e^r is a polynomial fitted to a relative error of 1e-7, with p(0) = p'(0) = 1.
struct Power {
  Floats value, power;
};

template <int sign>
Power power_of_e(Floats x) {
  // Adding 1.5 * 2^23 rounds to an integer; the 127 on top is the exponent's bias.
  constexpr float rounder = 12582912.0f + 127.0f;
  const Floats shifted = fma(x, splat(sign * 1.44269504f), splat(rounder));
  const Floats r = fma(sub(shifted, splat(rounder)), splat(sign * -0.693147182f), x);
  Floats p = splat(sign * 0.008312501f);
  p = fma(p, r, splat(0.04189033f));
  p = fma(p, r, splat(sign * 0.16667116f));
  p = fma(p, r, splat(0.4999923f));
  p = fma(p, r, splat(sign * 1.0f));
  p = fma(p, r, splat(1.0f));
  return {p, from_bits(shift_left<23>(to_bits(shifted)))};
}

// e^x for x <= 0. `larger` gives its second argument where one is NaN, so NaN passes through.
Floats exponential(Floats x) {
  const Power e = power_of_e<1>(larger(splat(-87.0f), x));
  return mul(e.value, e.power);
}

// 1 / x for positive normal x up to 2^126, by Newton's iteration: a division would cost three times
// as much. The first guess halves and negates the exponent; three steps leave an error near 1e-7.
Floats reciprocal(Floats x) {
  Floats y = from_bits(sub(splat_int(0x7ef311c3), to_bits(x)));
#pragma GCC unroll 3
  for (int i = 0; i < 3; ++i) y = fma(y, fnma(x, y, splat(1.0f)), y);
  return y;
}

// x / (1 + e^-x)
Floats silu(Floats x) {
  x = larger(splat(-87.0f), x);
  const Power e = power_of_e<-1>(smaller(splat(87.0f), x));
  return mul(x, reciprocal(fma(e.value, e.power, splat(1.0f))));
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
