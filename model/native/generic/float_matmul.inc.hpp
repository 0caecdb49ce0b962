// Float rows times a matrix: every output is one chain of fused multiply-adds in the order of the
// inputs, one output to a lane, so that tile sizes cannot change a bit of it.

// out[r][p * 16 + lane] += sum over k of a[r][k] * b[p][k][lane]
template <size_t rows, size_t panels>
void float_tile(const float* a, size_t a_stride, size_t inputs, const float* b, size_t b_stride,
                size_t panel_stride, float* out, size_t out_stride) {
  Floats total[rows][panels];
#pragma GCC unroll 16
  for (size_t r = 0; r < rows; ++r)
#pragma GCC unroll 4
    for (size_t p = 0; p < panels; ++p) total[r][p] = load(out + r * out_stride + p * kLanes);
  for (size_t k = 0; k < inputs; ++k) {
    Floats lanes[panels];
#pragma GCC unroll 4
    for (size_t p = 0; p < panels; ++p) lanes[p] = load(b + p * panel_stride + k * b_stride);
#pragma GCC unroll 16
    for (size_t r = 0; r < rows; ++r) {
      const Floats x = splat(a[r * a_stride + k]);
#pragma GCC unroll 4
      for (size_t p = 0; p < panels; ++p) total[r][p] = fma(x, lanes[p], total[r][p]);
    }
  }
#pragma GCC unroll 16
  for (size_t r = 0; r < rows; ++r)
#pragma GCC unroll 4
    for (size_t p = 0; p < panels; ++p) store(out + r * out_stride + p * kLanes, total[r][p]);
}

template <size_t rows>
void float_tiles(const float* a, size_t a_stride, size_t inputs, const float* b, size_t b_stride,
                 size_t panel_stride, size_t panels, float* out, size_t out_stride) {
  size_t p = 0;
  for (; p + kFloatPanels <= panels; p += kFloatPanels)
    float_tile<rows, kFloatPanels>(a, a_stride, inputs, b + p * panel_stride, b_stride,
                                   panel_stride, out + p * kLanes, out_stride);
  for (; p < panels; ++p)
    float_tile<rows, 1>(a, a_stride, inputs, b + p * panel_stride, b_stride, panel_stride,
                        out + p * kLanes, out_stride);
}

// out [rows, panels * 16] += a [rows, inputs] @ b [panels][inputs, 16], any number of rows.
void float_product(const float* a, size_t a_stride, size_t rows, size_t inputs, const float* b,
                   size_t b_stride, size_t panel_stride, size_t panels, float* out,
                   size_t out_stride) {
  while (rows) {
    size_t height = rows < kFloatRows ? rows : kFloatRows;
    if (height == kFloatRows) {
      float_tiles<kFloatRows>(a, a_stride, inputs, b, b_stride, panel_stride, panels, out,
                              out_stride);
    } else if (height >= 4) {
      height = 4;
      float_tiles<4>(a, a_stride, inputs, b, b_stride, panel_stride, panels, out, out_stride);
    } else {
      height = 1;
      float_tiles<1>(a, a_stride, inputs, b, b_stride, panel_stride, panels, out, out_stride);
    }
    rows -= height;
    a += height * a_stride;
    out += height * out_stride;
  }
}

// A packed panel as floats of -1, 0, +1: [inputs, 16].
void decode_floats(const Matrix& matrix, size_t panel, float* out) {
  const size_t per_byte = steps_per_byte(matrix.weights), bits = 8 / per_byte;
  const uint8_t* packed = panel_of(matrix, panel);
  const float slope = matrix.weights == Weights::ternary ? 1.0f : 2.0f;
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
      decode_floats(matrix, panel, scratch);
      b = scratch;
    }
    for (size_t row = 0; row < rows; row += kFloatBlock) {
      const size_t height = rows - row < kFloatBlock ? rows - row : kFloatBlock;
      alignas(64) float sums[kFloatBlock * kFloatPanels * kLanes] = {};
      float_product(x + row * stride, stride, height, matrix.inputs, b, kLanes, panel_stride,
                    panels, sums, kFloatPanels * kLanes);
      for (size_t p = 0; p < panels; ++p)
        finish(matrix, panel + p, row, height, out,
               [&](size_t r) { return load(sums + (r * kFloatPanels + p) * kLanes); },
               [](size_t) { return 1.0f; });
    }
  }
}
