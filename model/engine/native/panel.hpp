// Weights in memory, made once at load from the packed file.
//
// A panel is 16 output columns. Its inputs are taken four at a time (a step): 64 codes in the order
// [column, input]. A code is t + 1 for trits (2 bits) and (t + 1) / 2 for signs (1 bit). A block of
// 64 bytes holds 4 steps of trits or 8 of signs: byte 4 * column + input has the code of step i in
// its bits 2i, 2i + 1 (trits) or i (signs). Inputs are filled up to whole blocks and columns to
// whole panels, so a matrix whose sides are multiples of 16 (32) takes exactly 2 (1) bits a weight.
#pragma once

#include <cstddef>
#include <cstdint>

#include "buffer.hpp"
#include "kernels.hpp"

namespace tritserve {

// Part of a packed file's weights [outputs, inputs]: rows first .. first + rows - 1.
struct PackedRows {
  const uint8_t* packed;
  size_t bytes;
  size_t outputs, inputs;
  size_t first, rows;
};

// Throws std::invalid_argument if the bytes are not that many weights.
Buffer<uint8_t> make_panels(const PackedRows& source, Weights weights);

// A float matrix [outputs, inputs] as panels [inputs, 16].
Buffer<float> make_dense_panels(const float* matrix, size_t outputs, size_t inputs);

}  // namespace tritserve
