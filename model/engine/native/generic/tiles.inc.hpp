// Tiles in vector registers, for the instruction sets whose `dot` multiplies four inputs a lane.
// Partial sums may be narrow; they are widened before they can overflow (kTernarySteps,
// kBinarySteps).

// sums[row][panel * 16 + column] = x[row] . codes[panel][column]
template <size_t rows, size_t panels>
void tile(const int8_t* x, size_t stride, const uint8_t* codes, size_t steps, size_t narrow_steps,
          int32_t* sums) {
  for (size_t begin = 0; begin < steps; begin += narrow_steps) {
    const size_t end = steps - begin < narrow_steps ? steps : begin + narrow_steps;
    Sums partial[rows][panels];
#pragma GCC unroll 16
    for (size_t r = 0; r < rows; ++r)
#pragma GCC unroll 4
      for (size_t p = 0; p < panels; ++p) partial[r][p] = no_sums();
    for (size_t step = begin; step < end; ++step) {
      Codes c[panels];
#pragma GCC unroll 4
      for (size_t p = 0; p < panels; ++p)
        c[p] = load_codes(codes + (p * steps + step) * kPanelBytes);
#pragma GCC unroll 16
      for (size_t r = 0; r < rows; ++r) {
        const Quads quads = load_quads(x + r * stride + 4 * step);
#pragma GCC unroll 4
        for (size_t p = 0; p < panels; ++p) partial[r][p] = dot(partial[r][p], c[p], quads);
      }
    }
#pragma GCC unroll 16
    for (size_t r = 0; r < rows; ++r)
#pragma GCC unroll 4
      for (size_t p = 0; p < panels; ++p) {
        int32_t* out = sums + (r * kPanels + p) * kLanes;
        Ints total = widen(partial[r][p]);
        if (begin) total = add(total, load_ints(out));
        store_ints(out, total);
      }
  }
}

template <size_t rows>
void tile_of(const int8_t* x, size_t stride, const uint8_t* codes, size_t steps, size_t narrow,
             size_t panels, int32_t* sums) {
  if (panels == kPanels) return tile<rows, kPanels>(x, stride, codes, steps, narrow, sums);
  for (size_t p = 0; p < panels; ++p)
    tile<rows, 1>(x, stride, codes + p * steps * kPanelBytes, steps, narrow, sums + p * kLanes);
}

using TileFunction = void (*)(const int8_t*, size_t, const uint8_t*, size_t, size_t, size_t,
                              int32_t*);

// tile_functions[n - 1] takes n rows.
constexpr TileFunction kTileFunctions[] = {
    tile_of<1>, tile_of<2>, tile_of<3>,  tile_of<4>,
    tile_of<kRows < 5 ? kRows : 5>,   tile_of<kRows < 6 ? kRows : 6>,
    tile_of<kRows < 7 ? kRows : 7>,   tile_of<kRows < 8 ? kRows : 8>,
    tile_of<kRows < 9 ? kRows : 9>,   tile_of<kRows < 10 ? kRows : 10>,
    tile_of<kRows < 11 ? kRows : 11>, tile_of<kRows < 12 ? kRows : 12>,
};

struct Tiles {
  void operator()(const int8_t* x, size_t stride, const uint8_t* codes, size_t steps,
                  size_t narrow_steps, size_t rows, size_t panels, int32_t* sums) const {
    kTileFunctions[rows - 1](x, stride, codes, steps, narrow_steps, panels, sums);
  }
};
