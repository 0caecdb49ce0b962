// AVX-512 (F, BW, DQ, VL) and VNNI. vpdpbusd adds four products of unsigned code and signed
// activation to an int32, so sums never need widening.
#include <immintrin.h>

#include "kernels.hpp"

namespace tritserve {
namespace {

constexpr size_t kRows = 12, kPanels = 2;
constexpr bool kEqualTiles = false;
constexpr double kAloneWork = 2e8;
constexpr size_t kFloatRows = 12, kFloatPanels = 2;
constexpr size_t kScoreRows = 8, kScorePanels = 2, kOutRows = 4, kOutPanels = 4;
constexpr size_t kSumLimit = size_t{1} << 31, kSumInputs = 4;
constexpr size_t kInPlace = 4, kPrefetchBytes = 0;
constexpr size_t kFewRows = 6, kFewRowsPanels = 4;

#include "avx512.inc.hpp"
#include "generic/tiles.inc.hpp"
#include "generic/table.inc.hpp"

}  // namespace

const Kernels kAvx512Vnni = table("avx512vnni");

}  // namespace tritserve
