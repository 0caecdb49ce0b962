// AArch64 with the dot-product extension: sdot adds four products of signed bytes to an int32.
#include <arm_neon.h>

#include "kernels.hpp"

namespace tritserve {
namespace {

constexpr size_t kRows = 4, kPanels = 1;
constexpr bool kEqualTiles = false;
constexpr double kAloneWork = 5e7;
constexpr size_t kFloatRows = 6, kFloatPanels = 1;
constexpr size_t kScoreRows = 6, kScorePanels = 1, kOutRows = 6, kOutPanels = 1;
constexpr size_t kSumLimit = size_t{1} << 31, kSumInputs = 4;
constexpr size_t kInPlace = 2, kPrefetchBytes = 0;
constexpr size_t kFewRows = 1, kFewRowsPanels = 1;
constexpr int kParts = 4;  // registers of four lanes

struct Floats {
  float32x4_t v[kParts];
};
struct Ints {
  int32x4_t v[kParts];
};
struct Codes {
  uint8x16_t v[kParts];
};
struct Sums {
  int32x4_t v[kParts];
};
using Quads = int8x16_t;

template <typename Result, typename Operation>
Result each(Operation operation) {
  return {{operation(0), operation(1), operation(2), operation(3)}};
}

Floats load(const float* p) {
  return each<Floats>([&](int i) { return vld1q_f32(p + 4 * i); });
}
void store(float* p, Floats x) {
  for (int i = 0; i < kParts; ++i) vst1q_f32(p + 4 * i, x.v[i]);
}
Floats splat(float x) {
  return each<Floats>([&](int) { return vdupq_n_f32(x); });
}
Floats add(Floats a, Floats b) {
  return each<Floats>([&](int i) { return vaddq_f32(a.v[i], b.v[i]); });
}
Floats sub(Floats a, Floats b) {
  return each<Floats>([&](int i) { return vsubq_f32(a.v[i], b.v[i]); });
}
Floats mul(Floats a, Floats b) {
  return each<Floats>([&](int i) { return vmulq_f32(a.v[i], b.v[i]); });
}
Floats div(Floats a, Floats b) {
  return each<Floats>([&](int i) { return vdivq_f32(a.v[i], b.v[i]); });
}
Floats square_root(Floats x) {
  return each<Floats>([&](int i) { return vsqrtq_f32(x.v[i]); });
}
Floats fma(Floats a, Floats b, Floats c) {
  return each<Floats>([&](int i) { return vfmaq_f32(c.v[i], a.v[i], b.v[i]); });
}
// c - a * b
Floats fnma(Floats a, Floats b, Floats c) {
  return each<Floats>([&](int i) { return vfmsq_f32(c.v[i], a.v[i], b.v[i]); });
}
// a > b ? a : b, and so b where one is NaN; vmaxq_f32 would give NaN.
Floats larger(Floats a, Floats b) {
  return each<Floats>([&](int i) { return vbslq_f32(vcgtq_f32(a.v[i], b.v[i]), a.v[i], b.v[i]); });
}
Floats smaller(Floats a, Floats b) {
  return each<Floats>([&](int i) { return vbslq_f32(vcltq_f32(a.v[i], b.v[i]), a.v[i], b.v[i]); });
}
alignas(16) constexpr uint32_t kKept[32] = {~0u, ~0u, ~0u, ~0u, ~0u, ~0u, ~0u, ~0u,
                                            ~0u, ~0u, ~0u, ~0u, ~0u, ~0u, ~0u, ~0u};
Floats keep(Floats x, size_t n) {
  return each<Floats>([&](int i) {
    const uint32x4_t mask = vld1q_u32(kKept + kLanes - n + 4 * i);
    return vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(x.v[i]), mask));
  });
}
// a in the first n lanes, b in the others.
Floats first_of(size_t n, Floats a, Floats b) {
  return each<Floats>([&](int i) {
    return vbslq_f32(vld1q_u32(kKept + kLanes - n + 4 * i), a.v[i], b.v[i]);
  });
}
// a0, b0, a1, b1, .. of the lower or upper eight lanes.
Floats interleave_low(Floats a, Floats b) {
  return {{vzip1q_f32(a.v[0], b.v[0]), vzip2q_f32(a.v[0], b.v[0]), vzip1q_f32(a.v[1], b.v[1]),
           vzip2q_f32(a.v[1], b.v[1])}};
}
Floats interleave_high(Floats a, Floats b) {
  return {{vzip1q_f32(a.v[2], b.v[2]), vzip2q_f32(a.v[2], b.v[2]), vzip1q_f32(a.v[3], b.v[3]),
           vzip2q_f32(a.v[3], b.v[3])}};
}

Ints no_ints() {
  return each<Ints>([](int) { return vdupq_n_s32(0); });
}
Ints splat_int(int32_t x) {
  return each<Ints>([&](int) { return vdupq_n_s32(x); });
}
Ints load_ints(const int32_t* p) {
  return each<Ints>([&](int i) { return vld1q_s32(p + 4 * i); });
}
void store_ints(int32_t* p, Ints x) {
  for (int i = 0; i < kParts; ++i) vst1q_s32(p + 4 * i, x.v[i]);
}
Ints add(Ints a, Ints b) {
  return each<Ints>([&](int i) { return vaddq_s32(a.v[i], b.v[i]); });
}
Ints sub(Ints a, Ints b) {
  return each<Ints>([&](int i) { return vsubq_s32(a.v[i], b.v[i]); });
}
Ints larger(Ints a, Ints b) {
  return each<Ints>([&](int i) { return vmaxq_s32(a.v[i], b.v[i]); });
}

// The bits of |x|.
Ints magnitude(Floats x) {
  return each<Ints>([&](int i) { return vreinterpretq_s32_f32(vabsq_f32(x.v[i])); });
}
Ints to_bits(Floats x) {
  return each<Ints>([&](int i) { return vreinterpretq_s32_f32(x.v[i]); });
}
Floats from_bits(Ints x) {
  return each<Floats>([&](int i) { return vreinterpretq_f32_s32(x.v[i]); });
}
// To the nearest integer, halves to even.
Ints round(Floats x) {
  return each<Ints>([&](int i) { return vcvtnq_s32_f32(x.v[i]); });
}
Floats to_float(Ints x) {
  return each<Floats>([&](int i) { return vcvtq_f32_s32(x.v[i]); });
}
Ints shift_right(Ints x, int bits) {
  return each<Ints>([&](int i) { return vshlq_s32(x.v[i], vdupq_n_s32(-bits)); });
}
template <int bits>
Ints shift_left(Ints x) {
  return each<Ints>([&](int i) { return vshlq_n_s32(x.v[i], bits); });
}
void store_bytes(int8_t* p, Ints x) {
  const int16x8_t lo = vcombine_s16(vqmovn_s32(x.v[0]), vqmovn_s32(x.v[1]));
  const int16x8_t hi = vcombine_s16(vqmovn_s32(x.v[2]), vqmovn_s32(x.v[3]));
  vst1q_s8(p, vcombine_s8(vqmovn_s16(lo), vqmovn_s16(hi)));
}

Codes load_codes(const uint8_t* p) {
  return each<Codes>([&](int i) { return vld1q_u8(p + 16 * i); });
}
void store_codes(uint8_t* p, Codes x) {
  for (int i = 0; i < kParts; ++i) vst1q_u8(p + 16 * i, x.v[i]);
}
Codes masked(Codes x, int mask) {
  const uint8x16_t kept = vdupq_n_u8(static_cast<uint8_t>(mask));
  return each<Codes>([&](int i) { return vandq_u8(x.v[i], kept); });
}
template <size_t bits>
Codes shift_right(Codes x) {
  return each<Codes>([&](int i) { return vshrq_n_u8(x.v[i], bits); });
}
Quads load_quads(const int8_t* p) {
  int32_t four;
  __builtin_memcpy(&four, p, sizeof four);
  return vreinterpretq_s8_s32(vdupq_n_s32(four));
}
Sums no_sums() {
  return each<Sums>([](int) { return vdupq_n_s32(0); });
}
Sums dot(Sums s, Codes c, Quads q) {
  return each<Sums>(
      [&](int i) { return vdotq_s32(s.v[i], vreinterpretq_s8_u8(c.v[i]), q); });
}
Ints widen(Sums s) {
  return each<Ints>([&](int i) { return s.v[i]; });
}

#include "generic/tiles.inc.hpp"
#include "generic/table.inc.hpp"

}  // namespace

const Kernels kNeonDotprod = table("neon_dotprod");

}  // namespace tritserve
