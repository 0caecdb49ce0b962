// AVX-512 for everything, and AMX for tiles of int8 products: tdpbsud multiplies 16 rows of 64
// signed activations by 64 unsigned codes for each of 16 columns, which is 16 steps of a panel.
#include <immintrin.h>

#include "kernels.hpp"

namespace tritserve {
namespace {

constexpr size_t kRows = 32, kPanels = 2;
constexpr bool kEqualTiles = true;
constexpr double kAloneWork = 3e8;
constexpr size_t kFloatRows = 12, kFloatPanels = 2;
constexpr size_t kScoreRows = 8, kScorePanels = 2, kOutRows = 4, kOutPanels = 4;
constexpr size_t kSumLimit = size_t{1} << 31, kSumInputs = 4;
constexpr size_t kInPlace = 4, kPrefetchBytes = 0;
constexpr size_t kFewRows = 1, kFewRowsPanels = 2;
constexpr size_t kTileHeight = 16, kTileSteps = 16, kTileBytes = 64;

#include "avx512.inc.hpp"

// The shapes of the tile registers: 0, 1 sums of the upper rows for two panels, 2, 3 of the lower
// rows; 4, 5 activations of the upper and lower rows; 6, 7 codes of the two panels.
struct alignas(64) TileShapes {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};

class Tiles {
 public:
  Tiles() = default;
  Tiles(const Tiles&) = delete;
  ~Tiles() {
    if (rows_) _tile_release();
  }

  // Inputs are taken 64 at a time. Beyond the last step the activations are zeros, up to their
  // stride, and whatever the codes hold there, up to the end of their scratch, does not matter.
  void operator()(const int8_t* x, size_t stride, const uint8_t* codes, size_t steps, size_t,
                  size_t rows, size_t panels, int32_t* sums) {
    shape(rows);
    const bool lower = rows > kTileHeight, second = panels > 1;
    const int8_t* x_lower = x + kTileHeight * stride;
    const uint8_t* codes_second = codes + steps * kPanelBytes;
    __asm__ volatile("" : : : "memory");
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (size_t step = 0; step < steps; step += kTileSteps) {
      _tile_loadd(4, x + 4 * step, stride);
      _tile_loadd(6, codes + step * kPanelBytes, kTileBytes);
      _tile_dpbsud(0, 4, 6);
      if (lower) {
        _tile_loadd(5, x_lower + 4 * step, stride);
        _tile_dpbsud(2, 5, 6);
      }
      if (second) {
        _tile_loadd(7, codes_second + step * kPanelBytes, kTileBytes);
        _tile_dpbsud(1, 4, 7);
        if (lower) _tile_dpbsud(3, 5, 7);
      }
    }
    constexpr size_t row = kPanels * kLanes;
    _tile_stored(0, sums, row * sizeof *sums);
    if (second) _tile_stored(1, sums + kLanes, row * sizeof *sums);
    if (!lower) return;
    _tile_stored(2, sums + kTileHeight * row, row * sizeof *sums);
    if (second) _tile_stored(3, sums + kTileHeight * row + kLanes, row * sizeof *sums);
  }

 private:
  void shape(size_t rows) {
    if (rows == rows_) return;
    rows_ = rows;
    const size_t upper = rows < kTileHeight ? rows : kTileHeight;
    const size_t lower = rows > kTileHeight ? rows - kTileHeight : 1;
    const size_t heights[8] = {upper, upper, lower, lower, upper, lower, kTileSteps, kTileSteps};
    TileShapes shapes;
    for (size_t i = 0; i < 8; ++i) {
      shapes.row_bytes[i] = kTileBytes;
      shapes.rows[i] = static_cast<uint8_t>(heights[i]);
    }
    // GCC's intrinsics do not tell it what memory they read.
    __asm__ volatile("" : : "m"(shapes));
    _tile_loadconfig(&shapes);
  }

  size_t rows_ = 0;
};

#include "generic/table.inc.hpp"

}  // namespace

const Kernels kAmxInt8 = table("amx_int8");

}  // namespace tritserve
