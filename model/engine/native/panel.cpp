#include "panel.hpp"

#include <array>
#include <stdexcept>

namespace tritserve {
namespace {

constexpr size_t kTritsPerByte = 5, kByteValues = 243;

constexpr auto kCodesOfByte = [] {
  std::array<std::array<uint8_t, kTritsPerByte>, kByteValues> codes{};
  for (size_t value = 0; value < kByteValues; ++value) {
    size_t rest = value;
    for (auto& code : codes[value]) {
      code = static_cast<uint8_t>(rest % 3);
      rest /= 3;
    }
  }
  return codes;
}();

uint8_t ternary_code(const uint8_t* packed, size_t i) {
  const uint8_t byte = packed[i / kTritsPerByte];
  if (byte >= kByteValues) throw std::invalid_argument("a byte of ternary weights is over 242");
  return kCodesOfByte[byte][i % kTritsPerByte];
}

uint8_t binary_code(const uint8_t* packed, size_t i) { return packed[i / 8] >> i % 8 & 1; }

}  // namespace

Buffer<uint8_t> make_panels(const PackedRows& source, Weights weights) {
  const bool ternary = weights == Weights::ternary;
  const size_t weights_per_byte = ternary ? kTritsPerByte : 8;
  const size_t count = source.outputs * source.inputs;
  if (source.bytes != (count + weights_per_byte - 1) / weights_per_byte)
    throw std::invalid_argument("packed weights have the wrong number of bytes");
  const size_t bits = ternary ? 2 : 1, steps = 8 / bits;
  const size_t blocks = padded(source.inputs, 4 * steps) / (4 * steps);
  Buffer<uint8_t> panels(padded(source.rows) / kLanes * blocks * kPanelBytes);
  for (size_t row = 0; row < source.rows; ++row) {
    uint8_t* panel = panels.data() + row / kLanes * blocks * kPanelBytes + 4 * (row % kLanes);
    size_t i = (source.first + row) * source.inputs;
    for (size_t k = 0; k < source.inputs; ++k, ++i) {
      const uint8_t code = ternary ? ternary_code(source.packed, i) : binary_code(source.packed, i);
      const size_t step = k / 4 % steps;
      panel[k / 4 / steps * kPanelBytes + k % 4] |= static_cast<uint8_t>(code << bits * step);
    }
  }
  return panels;
}

Buffer<float> make_dense_panels(const float* matrix, size_t outputs, size_t inputs) {
  Buffer<float> panels(padded(outputs) * inputs);
  for (size_t column = 0; column < outputs; ++column) {
    float* panel = panels.data() + column / kLanes * inputs * kLanes + column % kLanes;
    for (size_t k = 0; k < inputs; ++k) panel[k * kLanes] = matrix[column * inputs + k];
  }
  return panels;
}

}  // namespace tritserve
