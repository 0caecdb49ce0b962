// The kernels without Python around them, and what the processor's instructions allow; loaded by
// kernels.py. Instruction sets are numbered as supported_kernels() lists them.
#include <chrono>
#include <cstring>
#include <vector>

#include "isa.hpp"
#include "panel.hpp"

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

using namespace tritserve;

namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

struct Case {
  const Kernels& kernels;
  Weights weights;
  size_t rows, inputs, outputs, stride;
  Buffer<uint8_t> panels, codes;
  Buffer<int8_t> q;
  Buffer<float> scale;
  Buffer<int32_t> sum, out;
};

#if defined(__x86_64__)
// GMAC/s of vpmaddubsw + vpaddw on independent sums, nothing loaded. Spelt out, because a compiler
// would multiply once and add often, and named one by one, because it would keep an array in memory.
__attribute__((target("avx2"))) double peak_avx2(size_t rounds) {
  const __m256i codes = _mm256_set1_epi8(1), activations = _mm256_setzero_si256();
  __m256i a = activations, b = a, c = a, d = a, e = a, f = a, g = a, h = a;
  const auto step = [&](__m256i& sum) __attribute__((target("avx2"), always_inline)) {
    __m256i product;
    __asm__ volatile("vpmaddubsw %2, %1, %0" : "=x"(product) : "x"(codes), "x"(activations));
    __asm__ volatile("vpaddw %1, %0, %0" : "+x"(sum) : "x"(product));
  };
  const auto start = Clock::now();
  for (size_t i = 0; i < rounds; ++i) {
    step(a), step(b), step(c), step(d), step(e), step(f), step(g), step(h);
  }
  const double seconds = seconds_since(start);
  __asm__ volatile("" : : "x"(a), "x"(b), "x"(c), "x"(d), "x"(e), "x"(f), "x"(g), "x"(h));
  return static_cast<double>(rounds) * 8 * 32 / seconds * 1e-9;
}

// GMAC/s of vpdpbusd, likewise.
__attribute__((target("avx512f,avx512vnni"))) double peak_avx512vnni(size_t rounds) {
  const __m512i codes = _mm512_set1_epi32(1), activations = _mm512_setzero_si512();
  __m512i a = activations, b = a, c = a, d = a, e = a, f = a, g = a, h = a, i = a, j = a;
  const auto step = [&](__m512i& sum)
                        __attribute__((target("avx512f,avx512vnni"), always_inline)) {
    __asm__ volatile("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(codes), "v"(activations));
  };
  const auto start = Clock::now();
  for (size_t round = 0; round < rounds; ++round) {
    step(a), step(b), step(c), step(d), step(e), step(f), step(g), step(h), step(i), step(j);
  }
  const double seconds = seconds_since(start);
  __asm__ volatile("" : : "v"(a), "v"(b), "v"(c), "v"(d), "v"(e));
  __asm__ volatile("" : : "v"(f), "v"(g), "v"(h), "v"(i), "v"(j));
  return static_cast<double>(rounds) * 10 * 64 / seconds * 1e-9;
}

__attribute__((target("avx2"))) void read_all(const uint8_t* p, size_t bytes) {
  __m256i a = _mm256_setzero_si256(), b = a;
  for (size_t i = 0; i < bytes; i += 64) {
    a = _mm256_xor_si256(a, _mm256_load_si256(reinterpret_cast<const __m256i*>(p + i)));
    b = _mm256_xor_si256(b, _mm256_load_si256(reinterpret_cast<const __m256i*>(p + i + 32)));
  }
  a = _mm256_xor_si256(a, b);
  __asm__ volatile("" : : "x"(a));
}
#else
void read_all(const uint8_t* p, size_t bytes) {
  uint64_t total = 0;
  for (size_t i = 0; i < bytes; i += 8) {
    uint64_t word;
    std::memcpy(&word, p + i, 8);
    total ^= word;
  }
  __asm__ volatile("" : : "r"(total));
}
#endif

}  // namespace

extern "C" {

const char* kernel_name(size_t i) {
  const auto all = supported_kernels();
  return i < all.size() ? all[i]->name : nullptr;
}

Case* new_case(size_t isa, size_t rows, size_t inputs, size_t outputs, bool binary) {
  const Weights weights = binary ? Weights::binary : Weights::ternary;
  const size_t per_byte = binary ? 8 : 5;
  std::vector<uint8_t> packed((inputs * outputs + per_byte - 1) / per_byte);
  uint32_t state = 1;
  for (auto& byte : packed) {
    state = state * 1664525 + 1013904223;
    byte = static_cast<uint8_t>((state >> 24) % (binary ? 256 : 243));
  }
  auto* made = new Case{*supported_kernels()[isa], weights, rows, inputs, outputs,
                        byte_stride(inputs), {}, {}, {}, {}, {}, {}};
  made->panels = make_panels({packed.data(), packed.size(), outputs, inputs, 0, outputs}, weights);
  made->codes.grow(kMaxPanelGroup * made->stride * kLanes);
  made->q.grow(rows * made->stride);
  for (size_t i = 0; i < rows * made->stride; ++i) {
    state = state * 1664525 + 1013904223;
    made->q[i] = static_cast<int8_t>(state >> 24);
  }
  made->scale.grow(rows);
  made->sum.grow(rows);
  made->out.grow(rows * row_stride(outputs));
  return made;
}

void delete_case(Case* c) { delete c; }

// Seconds of one product, averaged over `repeat`.
double time_product(Case* c, size_t repeat) {
  const Matrix matrix{c->weights, c->panels.data(), c->inputs, c->outputs, nullptr, false, nullptr};
  const size_t panels = padded(c->outputs) / kLanes;
  const auto start = Clock::now();
  for (size_t i = 0; i < repeat; ++i)
    c->kernels.matmul(matrix, {c->q.data(), c->stride, c->scale.data(), c->sum.data()}, c->rows, 0,
                      panels, {c->out.data(), row_stride(c->outputs), Epilogue::integers},
                      c->codes.data());
  return seconds_since(start) / static_cast<double>(repeat);
}

// Seconds of only loading the packed weights, averaged over `repeat`.
double time_loads(Case* c, size_t repeat) {
  const auto start = Clock::now();
  for (size_t i = 0; i < repeat; ++i) read_all(c->panels.data(), c->panels.count());
  return seconds_since(start) / static_cast<double>(repeat);
}

// GMAC/s of the instruction that an instruction set's tiles are made of; 0 where unknown.
double peak(const char* name, size_t rounds) {
#if defined(__x86_64__)
  if (!std::strcmp(name, "avx2")) return peak_avx2(rounds);
  if (!std::strcmp(name, "avx512vnni")) return peak_avx512vnni(rounds);
#endif
  (void)name, (void)rounds;
  return 0.0;
}
}
