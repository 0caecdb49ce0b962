// int8 rows times a packed matrix, exactly.
//
// Weights are unsigned codes, {0, 1, 2} for trits and {0, 1} for signs, so
//     ternary  x . t = x . code - sum(x)        binary  x . t = 2 x . code - sum(x)
// A tile is kRows rows by kPanels panels of 16 columns; `Tiles` computes one. A step takes four
// inputs: 64 codes, laid out [16 columns, 4 inputs], against four activations that every column
// shares.

// Steps that one byte of a packed panel holds.
constexpr size_t steps_per_byte(Weights weights) { return weights == Weights::ternary ? 4 : 8; }

constexpr size_t bits_of(Weights weights) { return 8 / steps_per_byte(weights); }

// Steps until a narrow sum of codes, 0 .. 2 (trits) or 0, 1 (signs), times `factor` could overflow.
constexpr size_t steps_before_overflow(Weights weights, size_t factor = 1) {
  const size_t largest = weights == Weights::ternary ? 2 : 1;
  return kSumLimit / (128 * kSumInputs * largest * factor);
}

template <Weights weights>
size_t steps_of(const Matrix& matrix) {
  return padded(matrix.inputs, 4 * steps_per_byte(weights)) / 4;
}

template <Weights weights>
const uint8_t* panel_of(const Matrix& matrix, size_t panel) {
  const size_t bytes = steps_of<weights>(matrix) / steps_per_byte(weights) * kPanelBytes;
  return static_cast<const uint8_t*>(matrix.panels) + panel * bytes;
}

template <Weights weights>
void decode(const uint8_t* packed, size_t steps, uint8_t* codes) {
  constexpr size_t per_byte = steps_per_byte(weights);
  for (size_t step = 0; step < steps; step += per_byte, packed += kPanelBytes) {
    Codes rest = load_codes(packed);
#pragma GCC unroll 8
    for (size_t i = 0; i < per_byte; ++i) {
      store_codes(codes + (step + i) * kPanelBytes, masked(rest, (1 << bits_of(weights)) - 1));
      rest = shift_right<bits_of(weights)>(rest);
    }
  }
}

// One row times a few panels, decoded in registers as it goes: nothing is reused, so nothing is
// written. Of a byte's codes, kInPlace are masked where they are, which multiplies each by a power
// of two that is taken out of its sum at the end; then the byte is shifted for the next ones.
template <Weights weights, size_t panels>
void single_row(const int8_t* x, const uint8_t* packed, size_t steps, int32_t* sums) {
  constexpr size_t per_byte = steps_per_byte(weights), bits = bits_of(weights);
  constexpr size_t narrow =
      kInPlace * steps_before_overflow(weights, size_t{1} << bits * (kInPlace - 1));
  static_assert(per_byte % kInPlace == 0 && narrow % per_byte == 0);
  const size_t panel_bytes = steps / per_byte * kPanelBytes;
  Ints total[panels];
#pragma GCC unroll 4
  for (size_t p = 0; p < panels; ++p) total[p] = no_ints();
  for (size_t begin = 0; begin < steps;) {
    const size_t end = steps - begin < narrow ? steps : begin + narrow;
    Sums partial[panels][kInPlace];
#pragma GCC unroll 4
    for (size_t p = 0; p < panels; ++p)
#pragma GCC unroll 8
      for (size_t i = 0; i < kInPlace; ++i) partial[p][i] = no_sums();
    for (size_t step = begin; step < end; step += per_byte, packed += kPanelBytes) {
      Codes rest[panels];
#pragma GCC unroll 4
      for (size_t p = 0; p < panels; ++p) {
        rest[p] = load_codes(packed + p * panel_bytes);
        if constexpr (kPrefetchBytes > 0)
          __builtin_prefetch(packed + p * panel_bytes + kPrefetchBytes);
      }
#pragma GCC unroll 8
      for (size_t i = 0; i < per_byte; ++i) {
        const size_t place = i % kInPlace;
        const Quads quads = load_quads(x + 4 * (step + i));
#pragma GCC unroll 4
        for (size_t p = 0; p < panels; ++p) {
          if (i && place == 0) rest[p] = shift_right<bits * kInPlace % 8>(rest[p]);
          const Codes codes = masked(rest[p], ((1 << bits) - 1) << bits * place);
          partial[p][place] = dot(partial[p][place], codes, quads);
        }
      }
    }
#pragma GCC unroll 4
    for (size_t p = 0; p < panels; ++p)
#pragma GCC unroll 8
      for (size_t i = 0; i < kInPlace; ++i)
        total[p] = add(total[p], shift_right(widen(partial[p][i]), static_cast<int>(bits * i)));
    begin = end;
  }
#pragma GCC unroll 4
  for (size_t p = 0; p < panels; ++p) store_ints(sums + p * kLanes, total[p]);
}

// y = product * scale + bias, and then what `Epilogue` says, for one panel of a few rows.
// `product(r)` is that of row r, `row_scale(r)` its scale.
template <Epilogue epilogue, typename Product, typename RowScale>
void finish_panel(const Matrix& matrix, size_t panel, size_t rows, float* out, size_t stride,
                  Product product, RowScale row_scale) {
  const size_t column = panel * kLanes, lanes = lanes_at(column, matrix.outputs);
  const Floats weight_scale =
      matrix.scale_per_column ? load(matrix.scale + column) : splat(matrix.scale[0]);
  const Floats bias = matrix.bias ? load(matrix.bias + column) : splat(0.0f);
  for (size_t r = 0; r < rows; ++r) {
    float* at = out + r * stride + column;
    Floats y = fma(product(r), mul(splat(row_scale(r)), weight_scale), bias);
    if constexpr (epilogue == Epilogue::silu) y = silu(y);
    if constexpr (epilogue == Epilogue::multiply) y = mul(load(at), y);
    if constexpr (epilogue == Epilogue::add) y = add(load(at), y);
    store(at, keep(y, lanes));
  }
}

template <typename Product, typename RowScale>
void finish(const Matrix& matrix, size_t panel, size_t first_row, size_t rows, const Output& out,
            Product product, RowScale row_scale) {
  float* at = static_cast<float*>(out.data) + first_row * out.stride;
  switch (out.epilogue) {
    case Epilogue::silu:
      return finish_panel<Epilogue::silu>(matrix, panel, rows, at, out.stride, product, row_scale);
    case Epilogue::multiply:
      return finish_panel<Epilogue::multiply>(matrix, panel, rows, at, out.stride, product,
                                              row_scale);
    case Epilogue::add:
      return finish_panel<Epilogue::add>(matrix, panel, rows, at, out.stride, product, row_scale);
    default:
      return finish_panel<Epilogue::store>(matrix, panel, rows, at, out.stride, product, row_scale);
  }
}

// `sums` hold `stride` panels for each row.
template <Weights weights>
void finish_integers(const Matrix& matrix, const Quantized& x, size_t first_row, size_t rows,
                     size_t panel, size_t panels, const int32_t* sums, size_t stride,
                     const Output& out) {
  for (size_t p = 0; p < panels; ++p) {
    const auto product = [&](size_t r) {
      Ints total = load_ints(sums + (r * stride + p) * kLanes);
      if constexpr (weights == Weights::binary) total = add(total, total);
      return sub(total, splat_int(x.sum[first_row + r]));
    };
    if (out.epilogue == Epilogue::integers) {
      int32_t* at = static_cast<int32_t*>(out.data) + first_row * out.stride;
      for (size_t r = 0; r < rows; ++r)
        store_ints(at + r * out.stride + (panel + p) * kLanes, product(r));
    } else {
      finish(matrix, panel + p, first_row, rows, out,
             [&](size_t r) { return to_float(product(r)); },
             [&](size_t r) { return x.scale[first_row + r]; });
    }
  }
}

// At most kFewRows, row by row over kFewRowsPanels panels, which stay in the cache for the next row:
// less work than writing their codes, which so few rows would read.
template <Weights weights, size_t panels>
void few_rows(const Matrix& matrix, const Quantized& x, size_t rows, size_t panel,
              const Output& out) {
  const size_t steps = steps_of<weights>(matrix);
  const uint8_t* packed = panel_of<weights>(matrix, panel);
  alignas(64) int32_t sums[panels * kLanes];
  for (size_t r = 0; r < rows; ++r) {
    single_row<weights, panels>(x.q + r * x.stride, packed, steps, sums);
    finish_integers<weights>(matrix, x, r, 1, panel, panels, sums, panels, out);
  }
}

template <Weights weights>
void packed_matmul(const Matrix& matrix, const Quantized& x, size_t rows, size_t begin, size_t end,
                   const Output& out, uint8_t* codes) {
  if (rows <= kFewRows) {
    size_t panel = begin;
    for (; panel + kFewRowsPanels <= end; panel += kFewRowsPanels)
      few_rows<weights, kFewRowsPanels>(matrix, x, rows, panel, out);
    for (; panel < end; ++panel) few_rows<weights, 1>(matrix, x, rows, panel, out);
    return;
  }
  const size_t steps = steps_of<weights>(matrix);
  alignas(64) int32_t sums[kRows * kPanels * kLanes];
  Tiles tile;
  const size_t tiles = (rows + kRows - 1) / kRows;
  for (size_t panel = begin; panel < end; panel += kPanels) {
    const size_t panels = end - panel < kPanels ? end - panel : kPanels;
    for (size_t p = 0; p < panels; ++p)
      decode<weights>(panel_of<weights>(matrix, panel + p), steps,
                      codes + p * steps * kPanelBytes);
    for (size_t i = 0, done = 0; i < tiles; ++i) {
      // Tiles of nearly equal height: a last tile of one row would waste the decoded panel. Where
      // another height costs time, they are all equal, and some rows are computed twice.
      const size_t next = rows * (i + 1) / tiles;
      const size_t height = kEqualTiles ? (rows + tiles - 1) / tiles : next - done;
      const size_t row = next < height ? 0 : next - height;
      tile(x.q + row * x.stride, x.stride, codes, steps, steps_before_overflow(weights), height,
           panels, sums);
      finish_integers<weights>(matrix, x, done, next - done, panel, panels,
                               sums + (done - row) * kPanels * kLanes, kPanels, out);
      done = next;
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
