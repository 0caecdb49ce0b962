// Plain C++: correct anywhere, and what the other instruction sets are held to.
#include "kernels.hpp"

namespace tritserve {
namespace {

constexpr size_t kRows = 4, kPanels = 1;
constexpr bool kEqualTiles = false;
constexpr double kAloneWork = 2e6;
constexpr size_t kFloatRows = 4, kFloatPanels = 1;
constexpr size_t kScoreRows = 4, kScorePanels = 1, kOutRows = 4, kOutPanels = 1;
constexpr size_t kSumLimit = size_t{1} << 31, kSumInputs = 4;
constexpr size_t kInPlace = 2, kPrefetchBytes = 0;
constexpr size_t kFewRows = 1, kFewRowsPanels = 1;

struct Floats {
  float v[kLanes];
};
struct Ints {
  int32_t v[kLanes];
};
struct Codes {
  uint8_t v[kPanelBytes];
};
struct Sums {
  int32_t v[kLanes];
};
struct Quads {
  int8_t v[4];
};

template <typename Result, typename Operation>
Result each(Operation operation) {
  Result result;
  for (size_t i = 0; i < sizeof result.v / sizeof result.v[0]; ++i) result.v[i] = operation(i);
  return result;
}

template <typename T>
T copy_from(const void* p) {
  T result;
  __builtin_memcpy(&result, p, sizeof result);
  return result;
}

Floats load(const float* p) { return copy_from<Floats>(p); }
void store(float* p, Floats x) { __builtin_memcpy(p, &x, sizeof x); }
Floats splat(float x) {
  return each<Floats>([&](size_t) { return x; });
}
Floats add(Floats a, Floats b) {
  return each<Floats>([&](size_t i) { return a.v[i] + b.v[i]; });
}
Floats sub(Floats a, Floats b) {
  return each<Floats>([&](size_t i) { return a.v[i] - b.v[i]; });
}
Floats mul(Floats a, Floats b) {
  return each<Floats>([&](size_t i) { return a.v[i] * b.v[i]; });
}
Floats div(Floats a, Floats b) {
  return each<Floats>([&](size_t i) { return a.v[i] / b.v[i]; });
}
Floats square_root(Floats x) {
  return each<Floats>([&](size_t i) { return __builtin_sqrtf(x.v[i]); });
}
Floats fma(Floats a, Floats b, Floats c) {
  return each<Floats>([&](size_t i) { return __builtin_fmaf(a.v[i], b.v[i], c.v[i]); });
}
// c - a * b
Floats fnma(Floats a, Floats b, Floats c) {
  return each<Floats>([&](size_t i) { return __builtin_fmaf(-a.v[i], b.v[i], c.v[i]); });
}
// a > b ? a : b, and so b where one is NaN.
float larger(float a, float b) { return a > b ? a : b; }
Floats larger(Floats a, Floats b) {
  return each<Floats>([&](size_t i) { return larger(a.v[i], b.v[i]); });
}
Floats smaller(Floats a, Floats b) {
  return each<Floats>([&](size_t i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; });
}
Floats keep(Floats x, size_t n) {
  return each<Floats>([&](size_t i) { return i < n ? x.v[i] : 0.0f; });
}
// a in the first n lanes, b in the others.
Floats first_of(size_t n, Floats a, Floats b) {
  return each<Floats>([&](size_t i) { return i < n ? a.v[i] : b.v[i]; });
}
// a0, b0, a1, b1, .. of the lower or upper eight lanes.
Floats interleave_low(Floats a, Floats b) {
  return each<Floats>([&](size_t i) { return (i % 2 ? b : a).v[i / 2]; });
}
Floats interleave_high(Floats a, Floats b) {
  return each<Floats>([&](size_t i) { return (i % 2 ? b : a).v[kLanes / 2 + i / 2]; });
}

Ints no_ints() { return {}; }
Ints splat_int(int32_t x) {
  return each<Ints>([&](size_t) { return x; });
}
Ints load_ints(const int32_t* p) { return copy_from<Ints>(p); }
void store_ints(int32_t* p, Ints x) { __builtin_memcpy(p, &x, sizeof x); }
Ints add(Ints a, Ints b) {
  return each<Ints>([&](size_t i) { return a.v[i] + b.v[i]; });
}
Ints sub(Ints a, Ints b) {
  return each<Ints>([&](size_t i) { return a.v[i] - b.v[i]; });
}
Ints larger(Ints a, Ints b) {
  return each<Ints>([&](size_t i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
}

// The bits of |x|.
Ints magnitude(Floats x) {
  return each<Ints>([&](size_t i) { return copy_from<int32_t>(&x.v[i]) & 0x7fffffff; });
}
Ints to_bits(Floats x) { return copy_from<Ints>(&x); }
Floats from_bits(Ints x) { return copy_from<Floats>(&x); }
// To the nearest integer, halves to even; zero where there is none.
Ints round(Floats x) {
  return each<Ints>([&](size_t i) {
    const bool in_range = x.v[i] > -2147483648.0f && x.v[i] < 2147483648.0f;
    return static_cast<int32_t>(in_range ? __builtin_lrintf(x.v[i]) : 0);
  });
}
Floats to_float(Ints x) {
  return each<Floats>([&](size_t i) { return static_cast<float>(x.v[i]); });
}
Ints shift_right(Ints x, int bits) {
  return each<Ints>([&](size_t i) { return x.v[i] >> bits; });
}
template <int bits>
Ints shift_left(Ints x) {
  return each<Ints>(
      [&](size_t i) { return static_cast<int32_t>(static_cast<uint32_t>(x.v[i]) << bits); });
}
void store_bytes(int8_t* p, Ints x) {
  for (size_t i = 0; i < kLanes; ++i) {
    const int32_t clipped = x.v[i] < -128 ? -128 : x.v[i] > 127 ? 127 : x.v[i];
    p[i] = static_cast<int8_t>(clipped);
  }
}

Codes load_codes(const uint8_t* p) { return copy_from<Codes>(p); }
void store_codes(uint8_t* p, Codes x) { __builtin_memcpy(p, &x, sizeof x); }
Codes masked(Codes x, int mask) {
  return each<Codes>([&](size_t i) { return static_cast<uint8_t>(x.v[i] & mask); });
}
template <size_t bits>
Codes shift_right(Codes x) {
  return each<Codes>([&](size_t i) { return static_cast<uint8_t>(x.v[i] >> bits); });
}
Quads load_quads(const int8_t* p) { return copy_from<Quads>(p); }
Sums no_sums() { return {}; }
Sums dot(Sums s, Codes c, Quads q) {
  return each<Sums>([&](size_t i) {
    int32_t total = s.v[i];
    for (size_t k = 0; k < 4; ++k) total += c.v[4 * i + k] * q.v[k];
    return total;
  });
}
Ints widen(Sums s) { return copy_from<Ints>(&s); }

#include "generic/tiles.inc.hpp"
#include "generic/table.inc.hpp"

}  // namespace

const Kernels kScalar = table("scalar");

}  // namespace tritserve
