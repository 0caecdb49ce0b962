#include "isa.hpp"

#include <stdexcept>

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#elif defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace tritserve {
namespace {

#if defined(__x86_64__)
struct Features {
  bool avx2 = false, avx512vnni = false, amx_int8 = false;
};

bool bit(unsigned value, int index) { return value >> index & 1; }

// Linux gives a process the memory to save its tiles in only on request.
bool may_use_tiles() {
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

Features detect() {
  Features features;
  unsigned eax, ebx, ecx, edx;
  if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx)) return features;
  const bool fma = bit(ecx, 12), osxsave = bit(ecx, 27), avx = bit(ecx, 28);
  if (!fma || !osxsave || !avx) return features;
  unsigned saved, high;
  __asm__("xgetbv" : "=a"(saved), "=d"(high) : "c"(0));
  // The operating system must save what the kernels use: 0x06 SSE and AVX, 0xe0 AVX-512, 0x60000
  // AMX tiles.
  if ((saved & 0x06) != 0x06) return features;
  if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) return features;
  features.avx2 = bit(ebx, 5);
  const bool avx512 = bit(ebx, 16) && bit(ebx, 17) && bit(ebx, 30) && bit(ebx, 31);
  const bool vnni = bit(ecx, 11);
  features.avx512vnni = features.avx2 && avx512 && vnni && (saved & 0xe0) == 0xe0;
  const bool amx = bit(edx, 24) && bit(edx, 25) && (saved & 0x60000) == 0x60000;
  features.amx_int8 = features.avx512vnni && amx && may_use_tiles();
  return features;
}
#endif

}  // namespace

std::vector<const Kernels*> supported_kernels() {
  std::vector<const Kernels*> supported;
#if defined(__x86_64__)
  const Features features = detect();
  if (features.amx_int8) supported.push_back(&kAmxInt8);
  if (features.avx512vnni) supported.push_back(&kAvx512Vnni);
  if (features.avx2) supported.push_back(&kAvx2);
#elif defined(__aarch64__)
  if (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) supported.push_back(&kNeonDotprod);
#endif
  supported.push_back(&kScalar);
  return supported;
}

const Kernels& choose_kernels(const std::string& name) {
  const auto supported = supported_kernels();
  if (name.empty()) return *supported.front();
  std::string names;
  for (const Kernels* kernels : supported) {
    if (name == kernels->name) return *kernels;
    names += (names.empty() ? "" : ", ") + std::string(kernels->name);
  }
  throw std::invalid_argument("instruction set '" + name + "' is not supported here; supported: " +
                              names);
}

}  // namespace tritserve
