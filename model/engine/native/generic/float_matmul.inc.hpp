// Float rows times a matrix: every output is one chain of fused multiply-adds in the order of the
// inputs, one output to a lane, so that tile sizes cannot change a bit of it.

struct FloatProduct {
  const float* a;  // [rows, inputs], or [inputs, rows]
  size_t a_stride;
  size_t rows, inputs;
  const float* b;  // [panels][inputs, 16]
  size_t b_stride, panel_stride, panels;
  float* out;  // [rows, panels * 16]
  size_t out_stride;
};

enum class Left { by_row, by_input };
enum class Start { zero, out };

// out = a @ b, or out + a @ b, for a few rows and panels.
template <size_t rows, size_t panels, Left left, Start start>
void float_tile(const FloatProduct& in, size_t row, size_t panel) {
  const float* a = in.a + row * (left == Left::by_row ? in.a_stride : 1);
  const float* b = in.b + panel * in.panel_stride;
  float* out = in.out + row * in.out_stride + panel * kLanes;
  Floats total[rows][panels];
#pragma GCC unroll 16
  for (size_t r = 0; r < rows; ++r)
#pragma GCC unroll 4
    for (size_t p = 0; p < panels; ++p)
      total[r][p] = start == Start::zero ? splat(0.0f) : load(out + r * in.out_stride + p * kLanes);
  for (size_t k = 0; k < in.inputs; ++k) {
    Floats lanes[panels];
#pragma GCC unroll 4
    for (size_t p = 0; p < panels; ++p) lanes[p] = load(b + p * in.panel_stride + k * in.b_stride);
#pragma GCC unroll 16
    for (size_t r = 0; r < rows; ++r) {
      const size_t at = left == Left::by_row ? r * in.a_stride + k : k * in.a_stride + r;
      const Floats x = splat(a[at]);
#pragma GCC unroll 4
      for (size_t p = 0; p < panels; ++p) total[r][p] = fma(x, lanes[p], total[r][p]);
    }
  }
#pragma GCC unroll 16
  for (size_t r = 0; r < rows; ++r)
#pragma GCC unroll 4
    for (size_t p = 0; p < panels; ++p) store(out + r * in.out_stride + p * kLanes, total[r][p]);
}

template <size_t rows, size_t panels, Left left, Start start>
void float_tiles(const FloatProduct& in, size_t row) {
  size_t panel = 0;
  for (; panel + panels <= in.panels; panel += panels)
    float_tile<rows, panels, left, start>(in, row, panel);
  for (; panel < in.panels; ++panel) float_tile<rows, 1, left, start>(in, row, panel);
}

// Any number of rows and panels, in tiles of at most `rows` and `panels`.
template <size_t rows, size_t panels, Left left, Start start>
void float_product(const FloatProduct& in) {
  for (size_t row = 0, rest; (rest = in.rows - row) != 0;) {
    if (rest >= rows) {
      float_tiles<rows, panels, left, start>(in, row);
      row += rows;
    } else if (rest >= 4) {
      float_tiles<4, panels, left, start>(in, row);
      row += 4;
    } else {
      float_tiles<1, panels, left, start>(in, row);
      row += 1;
    }
  }
}

// A packed panel as floats of -1, 0, +1: [inputs, 16].
template <Weights weights>
void decode_floats(const Matrix& matrix, size_t panel, float* out) {
  constexpr size_t per_byte = steps_per_byte(weights), bits = bits_of(weights);
  constexpr float slope = weights == Weights::ternary ? 1.0f : 2.0f;
  const uint8_t* packed = panel_of<weights>(matrix, panel);
  for (size_t k = 0; k < matrix.inputs; ++k) {
    const uint8_t* block = packed + k / 4 / per_byte * kPanelBytes + k % 4;
    const size_t shift = k / 4 % per_byte * bits;
    for (size_t column = 0; column < kLanes; ++column) {
      const int code = (block[4 * column] >> shift) & ((1 << bits) - 1);
      out[k * kLanes + column] = slope * static_cast<float>(code) - 1.0f;
    }
  }
}

constexpr size_t kFloatBlock = 24;  // rows whose sums stay on the stack

void float_matmul(const Matrix& matrix, const float* x, size_t stride, size_t rows, size_t begin,
                  size_t end, const Output& out, float* scratch) {
  const size_t group = matrix.weights == Weights::dense ? kFloatPanels : 1;
  const size_t panel_stride = matrix.inputs * kLanes;
  for (size_t panel = begin; panel < end; panel += group) {
    const size_t panels = end - panel < group ? end - panel : group;
    const float* b = static_cast<const float*>(matrix.panels) + panel * panel_stride;
    if (matrix.weights != Weights::dense) {
      const bool ternary = matrix.weights == Weights::ternary;
      (ternary ? decode_floats<Weights::ternary> : decode_floats<Weights::binary>)(matrix, panel,
                                                                                   scratch);
      b = scratch;
    }
    for (size_t row = 0; row < rows; row += kFloatBlock) {
      const size_t height = rows - row < kFloatBlock ? rows - row : kFloatBlock;
      alignas(64) float sums[kFloatBlock * kFloatPanels * kLanes];
      float_product<kFloatRows, kFloatPanels, Left::by_row, Start::zero>(
          {x + row * stride, stride, height, matrix.inputs, b, kLanes, panel_stride, panels, sums,
           kFloatPanels * kLanes});
      for (size_t p = 0; p < panels; ++p)
        finish(matrix, panel + p, row, height, out,
               [&](size_t r) { return load(sums + (r * kFloatPanels + p) * kLanes); },
               [](size_t) { return 1.0f; });
    }
  }
}
