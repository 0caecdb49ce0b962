// int8 rows times a packed matrix, exactly.
//
// Weights are unsigned codes, {0, 1, 2} for trits and {0, 1} for signs, so
//     ternary  x . t = x . code - sum(x)        binary  x . t = 2 x . code - sum(x)
// A tile is kRows rows by kPanels panels of 16 columns. A step takes four inputs: 64 codes, laid out
// [16 columns, 4 inputs], against four activations that every column shares. Partial sums may be
// narrow; they are widened before they can overflow (kTernarySteps, kBinarySteps).

// Steps that one byte of a packed panel holds.
constexpr size_t steps_per_byte(Weights weights) { return weights == Weights::ternary ? 4 : 8; }

constexpr size_t steps_before_overflow(Weights weights) {
  return weights == Weights::ternary ? kTernarySteps : kBinarySteps;
}

size_t steps_of(const Matrix& matrix) {
  const size_t inputs_per_block = 4 * steps_per_byte(matrix.weights);
  return padded(matrix.inputs, inputs_per_block) / 4;
}

const uint8_t* panel_of(const Matrix& matrix, size_t panel) {
  const size_t bytes = steps_of(matrix) / steps_per_byte(matrix.weights) * kPanelBytes;
  return static_cast<const uint8_t*>(matrix.panels) + panel * bytes;
}

template <Weights weights>
void decode(const uint8_t* packed, size_t steps, uint8_t* codes) {
  constexpr size_t per_byte = steps_per_byte(weights);
  for (size_t step = 0; step < steps; step += per_byte, packed += kPanelBytes) {
    Codes rest = load_codes(packed);
#pragma GCC unroll 8
    for (size_t i = 0; i < per_byte; ++i) {
      store_codes(codes + (step + i) * kPanelBytes, low_bits<8 / per_byte>(rest));
      rest = shift_right<8 / per_byte>(rest);
    }
  }
}

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

// One row, decoded in registers as it goes: nothing is reused, so nothing is written.
template <Weights weights>
void single_row(const int8_t* x, const uint8_t* packed, size_t steps, int32_t* sums) {
  constexpr size_t per_byte = steps_per_byte(weights), narrow = steps_before_overflow(weights);
  // Independent sums hide the latency of `dot`.
  constexpr size_t chains = 4;
  Ints total = no_ints();
  for (size_t begin = 0; begin < steps;) {
    const size_t end = steps - begin < narrow ? steps : begin + narrow;
    Sums partial[chains];
#pragma GCC unroll 4
    for (size_t i = 0; i < chains; ++i) partial[i] = no_sums();
    for (size_t step = begin; step < end; step += per_byte, packed += kPanelBytes) {
      Codes rest = load_codes(packed);
#pragma GCC unroll 8
      for (size_t i = 0; i < per_byte; ++i) {
        const Quads quads = load_quads(x + 4 * (step + i));
        partial[i % chains] = dot(partial[i % chains], low_bits<8 / per_byte>(rest), quads);
        rest = shift_right<8 / per_byte>(rest);
      }
    }
#pragma GCC unroll 4
    for (size_t i = 0; i < chains; ++i) total = add(total, widen(partial[i]));
    begin = end;
  }
  store_ints(sums, total);
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

// y = product * scale + bias, and then what `Epilogue` says.
struct Finish {
  const Matrix& matrix;
  const Output& out;

  void operator()(Floats product, float row_scale, size_t row, size_t column) const {
    const Floats weight_scale = matrix.scale_per_column ? load(matrix.scale + column)
                                                        : splat(matrix.scale[0]);
    const Floats bias = matrix.bias ? load(matrix.bias + column) : splat(0.0f);
    Floats y = fma(product, mul(splat(row_scale), weight_scale), bias);
    float* at = static_cast<float*>(out.data) + row * out.stride + column;
    switch (out.epilogue) {
      case Epilogue::silu: y = silu(y); break;
      case Epilogue::multiply: y = mul(load(at), y); break;
      case Epilogue::add: y = add(load(at), y); break;
      default: break;
    }
    store(at, keep(y, lanes_at(column, matrix.outputs)));
  }
};

void finish_integers(const Matrix& matrix, const Quantized& x, size_t first_row, size_t rows,
                     size_t panel, size_t panels, const int32_t* sums, const Output& out) {
  const Finish finish{matrix, out};
  for (size_t r = 0; r < rows; ++r) {
    const size_t row = first_row + r;
    const Ints row_sum = splat_int(x.sum[row]);
    for (size_t p = 0; p < panels; ++p) {
      const size_t column = (panel + p) * kLanes;
      Ints product = load_ints(sums + (r * kPanels + p) * kLanes);
      if (matrix.weights == Weights::binary) product = add(product, product);
      product = sub(product, row_sum);
      if (out.epilogue == Epilogue::integers) {
        store_ints(static_cast<int32_t*>(out.data) + row * out.stride + column, product);
      } else {
        finish(to_float(product), x.scale[row], row, column);
      }
    }
  }
}

template <Weights weights>
void packed_matmul(const Matrix& matrix, const Quantized& x, size_t rows, size_t begin, size_t end,
                   const Output& out, uint8_t* codes) {
  const size_t steps = steps_of(matrix);
  alignas(64) int32_t sums[kRows * kPanels * kLanes];
  if (rows == 1) {
    for (size_t panel = begin; panel < end; ++panel) {
      single_row<weights>(x.q, panel_of(matrix, panel), steps, sums);
      finish_integers(matrix, x, 0, 1, panel, 1, sums, out);
    }
    return;
  }
  const size_t tiles = (rows + kRows - 1) / kRows;
  for (size_t panel = begin; panel < end; panel += kPanels) {
    const size_t panels = end - panel < kPanels ? end - panel : kPanels;
    for (size_t p = 0; p < panels; ++p)
      decode<weights>(panel_of(matrix, panel + p), steps, codes + p * steps * kPanelBytes);
    for (size_t i = 0; i < tiles; ++i) {
      // Tiles of nearly equal height: a last tile of one row would waste the decoded panel.
      const size_t row = rows * i / tiles, height = rows * (i + 1) / tiles - row;
      kTileFunctions[height - 1](x.q + row * x.stride, x.stride, codes, steps,
                                 steps_before_overflow(weights), panels, sums);
      finish_integers(matrix, x, row, height, panel, panels, sums, out);
    }
  }
}

void matmul(const Matrix& matrix, const Quantized& x, size_t rows, size_t begin, size_t end,
            const Output& out, uint8_t* scratch) {
  if (matrix.weights == Weights::ternary) {
    packed_matmul<Weights::ternary>(matrix, x, rows, begin, end, out, scratch);
  } else {
    packed_matmul<Weights::binary>(matrix, x, rows, begin, end, out, scratch);
  }
}
