// AVX2 and FMA. vpmaddubsw adds two products of unsigned code and signed activation in int16, at
// most 2 * 2 * 128 = 512 in magnitude, so 64 steps fit (-32768 exactly); signs, half of it, 128.
#include <immintrin.h>

#include "kernels.hpp"

namespace tritserve {
namespace {

constexpr size_t kRows = 6, kPanels = 1;
constexpr bool kEqualTiles = false;
constexpr double kAloneWork = 1e8;
constexpr size_t kFloatRows = 6, kFloatPanels = 1;
constexpr size_t kScoreRows = 6, kScorePanels = 1, kOutRows = 6, kOutPanels = 1;
constexpr size_t kSumLimit = 32768, kSumInputs = 2;
// A single row's many instructions hide from the processor what it should load next.
constexpr size_t kInPlace = 2, kPrefetchBytes = 1024;
constexpr size_t kFewRows = 2, kFewRowsPanels = 1;

struct Floats {
  __m256 lo, hi;
};
struct Ints {
  __m256i lo, hi;
};
struct Codes {
  __m256i lo, hi;
};
struct Sums {
  __m256i lo, hi;
};
using Quads = __m256i;

const __m256i* wide(const void* p) { return static_cast<const __m256i*>(p); }
__m256i* wide(void* p) { return static_cast<__m256i*>(p); }

Floats load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
void store(float* p, Floats x) {
  _mm256_storeu_ps(p, x.lo);
  _mm256_storeu_ps(p + 8, x.hi);
}
Floats splat(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
Floats add(Floats a, Floats b) { return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)}; }
Floats sub(Floats a, Floats b) { return {_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)}; }
Floats mul(Floats a, Floats b) { return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)}; }
Floats div(Floats a, Floats b) { return {_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)}; }
Floats square_root(Floats x) { return {_mm256_sqrt_ps(x.lo), _mm256_sqrt_ps(x.hi)}; }
Floats fma(Floats a, Floats b, Floats c) {
  return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
}
// c - a * b
Floats fnma(Floats a, Floats b, Floats c) {
  return {_mm256_fnmadd_ps(a.lo, b.lo, c.lo), _mm256_fnmadd_ps(a.hi, b.hi, c.hi)};
}
// a > b ? a : b, and so b where one is NaN.
Floats larger(Floats a, Floats b) { return {_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)}; }
Floats smaller(Floats a, Floats b) {
  return {_mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi)};
}
alignas(32) constexpr int32_t kKept[32] = {-1, -1, -1, -1, -1, -1, -1, -1,
                                           -1, -1, -1, -1, -1, -1, -1, -1};
Floats keep(Floats x, size_t n) {
  const float* mask = reinterpret_cast<const float*>(kKept + kLanes - n);
  return {_mm256_and_ps(x.lo, _mm256_loadu_ps(mask)), _mm256_and_ps(x.hi, _mm256_loadu_ps(mask + 8))};
}
// a in the first n lanes, b in the others.
Floats first_of(size_t n, Floats a, Floats b) {
  const float* mask = reinterpret_cast<const float*>(kKept + kLanes - n);
  return {_mm256_blendv_ps(b.lo, a.lo, _mm256_loadu_ps(mask)),
          _mm256_blendv_ps(b.hi, a.hi, _mm256_loadu_ps(mask + 8))};
}
Floats interleave(__m256 a, __m256 b) {
  const __m256 even = _mm256_unpacklo_ps(a, b), odd = _mm256_unpackhi_ps(a, b);
  return {_mm256_permute2f128_ps(even, odd, 0x20), _mm256_permute2f128_ps(even, odd, 0x31)};
}
// a0, b0, a1, b1, .. of the lower or upper eight lanes.
Floats interleave_low(Floats a, Floats b) { return interleave(a.lo, b.lo); }
Floats interleave_high(Floats a, Floats b) { return interleave(a.hi, b.hi); }

Ints no_ints() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
Ints splat_int(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
Ints load_ints(const int32_t* p) {
  return {_mm256_loadu_si256(wide(p)), _mm256_loadu_si256(wide(p + 8))};
}
void store_ints(int32_t* p, Ints x) {
  _mm256_storeu_si256(wide(p), x.lo);
  _mm256_storeu_si256(wide(p + 8), x.hi);
}
Ints add(Ints a, Ints b) { return {_mm256_add_epi32(a.lo, b.lo), _mm256_add_epi32(a.hi, b.hi)}; }
Ints sub(Ints a, Ints b) { return {_mm256_sub_epi32(a.lo, b.lo), _mm256_sub_epi32(a.hi, b.hi)}; }
Ints larger(Ints a, Ints b) { return {_mm256_max_epi32(a.lo, b.lo), _mm256_max_epi32(a.hi, b.hi)}; }

// The bits of |x|.
Ints magnitude(Floats x) {
  const __m256i mask = _mm256_set1_epi32(0x7fffffff);
  return {_mm256_and_si256(_mm256_castps_si256(x.lo), mask),
          _mm256_and_si256(_mm256_castps_si256(x.hi), mask)};
}
Ints to_bits(Floats x) { return {_mm256_castps_si256(x.lo), _mm256_castps_si256(x.hi)}; }
Floats from_bits(Ints x) { return {_mm256_castsi256_ps(x.lo), _mm256_castsi256_ps(x.hi)}; }
// To the nearest integer, halves to even.
Ints round(Floats x) { return {_mm256_cvtps_epi32(x.lo), _mm256_cvtps_epi32(x.hi)}; }
Floats to_float(Ints x) { return {_mm256_cvtepi32_ps(x.lo), _mm256_cvtepi32_ps(x.hi)}; }
Ints shift_right(Ints x, int bits) {
  const __m128i count = _mm_cvtsi32_si128(bits);
  return {_mm256_sra_epi32(x.lo, count), _mm256_sra_epi32(x.hi, count)};
}
template <int bits>
Ints shift_left(Ints x) {
  return {_mm256_slli_epi32(x.lo, bits), _mm256_slli_epi32(x.hi, bits)};
}
void store_bytes(int8_t* p, Ints x) {
  const __m256i shorts = _mm256_permute4x64_epi64(_mm256_packs_epi32(x.lo, x.hi), 0xd8);
  const __m128i bytes =
      _mm_packs_epi16(_mm256_castsi256_si128(shorts), _mm256_extracti128_si256(shorts, 1));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), bytes);
}

Codes load_codes(const uint8_t* p) {
  return {_mm256_loadu_si256(wide(p)), _mm256_loadu_si256(wide(p + 32))};
}
void store_codes(uint8_t* p, Codes x) {
  _mm256_storeu_si256(wide(p), x.lo);
  _mm256_storeu_si256(wide(p + 32), x.hi);
}
Codes masked(Codes x, int mask) {
  const __m256i kept = _mm256_set1_epi8(static_cast<char>(mask));
  return {_mm256_and_si256(x.lo, kept), _mm256_and_si256(x.hi, kept)};
}
// Bits of the next byte come in from above, and must be masked.
template <size_t bits>
Codes shift_right(Codes x) {
  return {_mm256_srli_epi16(x.lo, bits), _mm256_srli_epi16(x.hi, bits)};
}
Quads load_quads(const int8_t* p) {
  int32_t four;
  __builtin_memcpy(&four, p, sizeof four);
  return _mm256_set1_epi32(four);
}
Sums no_sums() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
// Added in place by hand: GCC 12 would move every sum to another register, and run out of them.
void add_shorts(__m256i& sum, __m256i x) { __asm__("vpaddw %1, %0, %0" : "+x"(sum) : "x"(x)); }
Sums dot(Sums s, Codes c, Quads q) {
  add_shorts(s.lo, _mm256_maddubs_epi16(c.lo, q));
  add_shorts(s.hi, _mm256_maddubs_epi16(c.hi, q));
  return s;
}
Ints widen(Sums s) {
  const __m256i ones = _mm256_set1_epi16(1);
  return {_mm256_madd_epi16(s.lo, ones), _mm256_madd_epi16(s.hi, ones)};
}

#include "generic/tiles.inc.hpp"
#include "generic/table.inc.hpp"

}  // namespace

const Kernels kAvx2 = table("avx2");

}  // namespace tritserve
