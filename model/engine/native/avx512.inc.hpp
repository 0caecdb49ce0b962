// The vocabulary of AVX-512 (F, BW, DQ, VL) and VNNI. vpdpbusd adds four products of unsigned code
// and signed activation to an int32, so sums never need widening.

using Floats = __m512;
struct Ints {
  __m512i v;
};
struct Codes {
  __m512i v;
};
struct Sums {
  __m512i v;
};
using Quads = __m512i;

Floats load(const float* p) { return _mm512_loadu_ps(p); }
void store(float* p, Floats x) { _mm512_storeu_ps(p, x); }
Floats splat(float x) { return _mm512_set1_ps(x); }
Floats add(Floats a, Floats b) { return _mm512_add_ps(a, b); }
Floats sub(Floats a, Floats b) { return _mm512_sub_ps(a, b); }
Floats mul(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
Floats div(Floats a, Floats b) { return _mm512_div_ps(a, b); }
Floats square_root(Floats x) { return _mm512_sqrt_ps(x); }
Floats fma(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
// c - a * b
Floats fnma(Floats a, Floats b, Floats c) { return _mm512_fnmadd_ps(a, b, c); }
// a > b ? a : b, and so b where one is NaN.
Floats larger(Floats a, Floats b) { return _mm512_max_ps(a, b); }
Floats smaller(Floats a, Floats b) { return _mm512_min_ps(a, b); }
Floats keep(Floats x, size_t n) {
  return _mm512_maskz_mov_ps(static_cast<__mmask16>((1u << n) - 1), x);
}
// a in the first n lanes, b in the others.
Floats first_of(size_t n, Floats a, Floats b) {
  return _mm512_mask_mov_ps(b, static_cast<__mmask16>((1u << n) - 1), a);
}
// a0, b0, a1, b1, .. of the lower or upper eight lanes.
Floats interleave_low(Floats a, Floats b) {
  const __m512i from =
      _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  return _mm512_permutex2var_ps(a, from, b);
}
Floats interleave_high(Floats a, Floats b) {
  const __m512i from =
      _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
  return _mm512_permutex2var_ps(a, from, b);
}

Ints no_ints() { return {_mm512_setzero_si512()}; }
Ints splat_int(int32_t x) { return {_mm512_set1_epi32(x)}; }
Ints load_ints(const int32_t* p) { return {_mm512_loadu_si512(p)}; }
void store_ints(int32_t* p, Ints x) { _mm512_storeu_si512(p, x.v); }
Ints add(Ints a, Ints b) { return {_mm512_add_epi32(a.v, b.v)}; }
Ints sub(Ints a, Ints b) { return {_mm512_sub_epi32(a.v, b.v)}; }
Ints larger(Ints a, Ints b) { return {_mm512_max_epi32(a.v, b.v)}; }

// The bits of |x|.
Ints magnitude(Floats x) {
  return {_mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(0x7fffffff))};
}
Ints to_bits(Floats x) { return {_mm512_castps_si512(x)}; }
Floats from_bits(Ints x) { return _mm512_castsi512_ps(x.v); }
// To the nearest integer, halves to even.
Ints round(Floats x) { return {_mm512_cvtps_epi32(x)}; }
Floats to_float(Ints x) { return _mm512_cvtepi32_ps(x.v); }
Ints shift_right(Ints x, int bits) { return {_mm512_sra_epi32(x.v, _mm_cvtsi32_si128(bits))}; }
template <int bits>
Ints shift_left(Ints x) {
  return {_mm512_slli_epi32(x.v, bits)};
}
void store_bytes(int8_t* p, Ints x) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtsepi32_epi8(x.v));
}

Codes load_codes(const uint8_t* p) { return {_mm512_loadu_si512(p)}; }
void store_codes(uint8_t* p, Codes x) { _mm512_storeu_si512(p, x.v); }
Codes masked(Codes x, int mask) {
  return {_mm512_and_si512(x.v, _mm512_set1_epi8(static_cast<char>(mask)))};
}
// Bits of the next byte come in from above, and must be masked.
template <size_t bits>
Codes shift_right(Codes x) {
  return {_mm512_srli_epi16(x.v, bits)};
}
Quads load_quads(const int8_t* p) {
  int32_t four;
  __builtin_memcpy(&four, p, sizeof four);
  return _mm512_set1_epi32(four);
}
Sums no_sums() { return {_mm512_setzero_si512()}; }
// GCC 12 copies the sums of its intrinsic back and forth.
Sums dot(Sums s, Codes c, Quads q) {
  __asm__("vpdpbusd %2, %1, %0" : "+v"(s.v) : "v"(c.v), "v"(q));
  return s;
}
Ints widen(Sums s) { return {s.v}; }
