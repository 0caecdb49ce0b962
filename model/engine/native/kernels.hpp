// The kernel table: what an instruction set has to offer, as function pointers over plain structs.
//
// Every float row starts on a multiple of 16 floats and is filled with zeros up to the next one, so
// that kernels read whole vectors of 16 lanes. All float sums run in one order over 16
// lanes, whatever the registers' width, and the answer is the same bytes on every instruction set.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace tritserve {

constexpr size_t kLanes = 16;         // output columns of a panel, and lanes of a float sum
constexpr size_t kPanelBytes = 64;    // 16 columns x 4 inputs, one byte each once decoded
constexpr size_t kByteStride = 64;    // rows of int8 activations are filled up to a multiple of it
constexpr size_t kKeyBlock = 128;     // keys per pass of the online softmax
constexpr size_t kTileRows = 2 * kLanes;  // most query rows attended together
constexpr size_t kMaxPanelGroup = 4;  // most panels that one kernel decodes at a time
constexpr size_t kPartRows = 64;      // of a mean, summed in one chain
constexpr size_t kWideRow = 512;      // 16 such rows fill a cache of 32 KB
constexpr float kEpsilon = 1e-5f;

enum class Weights { ternary, binary, dense };

// What becomes of the product of a row and a column.
enum class Epilogue {
  integers,  // the int32 itself
  store,     // y
  silu,      // silu(y)
  multiply,  // out * y
  add,       // out + y
};

// A weight matrix in memory panels (see panel.hpp). y = product * scale + bias.
struct Matrix {
  Weights weights;
  const void* panels;
  size_t inputs, outputs;
  const float* scale;  // one, or one per column
  bool scale_per_column;
  const float* bias;  // null, or one per column, filled up to whole panels
};

// Rows of activations rounded to 8 bits: x is about q * scale.
struct Quantized {
  int8_t* q;
  size_t stride;
  float* scale;
  int32_t* sum;  // of q over the row
};

struct Output {
  void* data;  // int32 for Epilogue::integers, float otherwise
  size_t stride;
  Epilogue epilogue;
};

enum class Norm { none, layernorm, rmsnorm };

struct Rows {
  const float* x;
  size_t stride, count, width;
};

struct Affine {
  const float* weight;  // null: without affine
  const float* bias;    // null: without shift
};

struct KeyValueRows {
  const float* key;  // rows of one head, before rotation
  const float* value;
  size_t stride;
  size_t first, rows;  // positions first .. first + rows - 1
  size_t head_dim;
  const float* cos;  // [positions, head_dim / 2], or null without rotary positions
  const float* sin;
};

struct AttentionTile {
  const float* query;  // rows of one head
  size_t query_stride;
  size_t first, rows;  // positions first .. first + rows - 1, at most kTileRows
  size_t positions;    // of the sequence, where rows attend to all of it; 0: to themselves and before
  size_t window;       // to so many at most, itself included; 0: no limit
  const float* keys;    // [positions, padded head_dim], positions filled up to whole lanes
  const float* values;  // the same
  size_t head_dim;
  const float* cos;  // [positions, head_dim / 2], or null
  const float* sin;
  float* out;
  size_t out_stride;
  float* scratch;  // attention_scratch(head_dim) floats
};

// A row of one head, and where it goes in a page of kLanes positions: keys [head_dim, kLanes], then
// values [kLanes, padded head_dim].
struct PageRow {
  const float* key;  // before rotation
  const float* value;
  size_t slot;  // of the page
  size_t head_dim;
  const float* cos;  // [head_dim / 2], or null without rotary positions
  const float* sin;
  float* scratch;  // [padded head_dim]
};

// One query row of one head, against keys and values in pages.
struct PagedAttention {
  const float* query;
  const float* const* pages;  // that of position first, and those after it
  size_t offset;              // of the head in each page
  uint64_t first, last;       // positions attended to
  size_t head_dim;
  const float* cos;  // [head_dim / 2] of the query's position, or null
  const float* sin;
  float* out;
  float* scratch;  // attention_scratch(head_dim) floats
};

static constexpr size_t padded(size_t n, size_t to = kLanes) { return (n + to - 1) / to * to; }

// From one row to the next: an odd number of cache lines, so that the rows of a column do not fall
// into a few sets of the cache.
static constexpr size_t row_stride(size_t width) { return padded(width) | kLanes; }
static constexpr size_t byte_stride(size_t width) {
  return padded(width, kByteStride) | kByteStride;
}

static constexpr size_t attention_scratch(size_t head_dim) {
  return kTileRows * (kKeyBlock + 3 * padded(head_dim));
}

static constexpr size_t page_head_size(size_t head_dim) {
  return kLanes * (head_dim + padded(head_dim));
}

struct Kernels {
  const char* name;
  // Multiplications that one thread does faster than another one wakes up.
  double alone_work;

  // out = (values - mean) / std; values and out may have any alignment and are `width` long.
  void (*standardize)(const float* values, const float* mean, const float* std, size_t width,
                      float* out);
  // out = norm(in) * weight + bias
  void (*normalize)(const Rows& in, Norm norm, Affine affine, float* out, size_t out_stride);
  // The same, rounded to 8 bits per row. `scratch` holds kLanes rows.
  void (*quantize)(const Rows& in, Norm norm, Affine affine, const Quantized& out, float* scratch);
  // Panels begin .. end - 1 of x @ matrix^T. `scratch` holds kMaxPanelGroup decoded panels.
  void (*matmul)(const Matrix& matrix, const Quantized& x, size_t rows, size_t begin, size_t end,
                 const Output& out, uint8_t* scratch);
  // The same for float rows; `scratch` holds one decoded panel of floats.
  void (*float_matmul)(const Matrix& matrix, const float* x, size_t stride, size_t rows,
                       size_t begin, size_t end, const Output& out, float* scratch);
  // Writes keys and values where and as `attend` reads them.
  void (*keep_key_value)(const KeyValueRows& in, float* keys, float* values);
  void (*attend)(const AttentionTile& tile);
  // Writes a key and a value where and as `attend_pages` reads them.
  void (*keep_in_page)(const PageRow& in, float* page);
  // What `attend` gives of such a row, to the last bit.
  void (*attend_pages)(const PagedAttention& row);
  // out = mean of `rows` rows, weighted 1, 2, 3, .. if `rising`
  void (*mean)(const float* x, size_t stride, size_t rows, size_t width, bool rising, float* out);
  // out = the largest of `rows` rows in each column
  void (*maximum)(const float* x, size_t stride, size_t rows, size_t width, float* out);
  // One more row of a mean. sums [3, padded width], zero before the first: the parts' total, what
  // rounding put too much into it, and the sum of the part that has begun.
  void (*add_to_sums)(const float* x, size_t width, float weight, bool ends_part, float* sums);
  // out = what `mean` gives of the rows added so far; `open_part`: the last did not end a part
  void (*mean_of_sums)(const float* sums, size_t width, bool open_part, float divisor, float* out);
};

extern const Kernels kScalar;
#if defined(__x86_64__)
extern const Kernels kAvx2;
extern const Kernels kAvx512Vnni;
extern const Kernels kAmxInt8;
#elif defined(__aarch64__)
extern const Kernels kNeonDotprod;
#endif

}  // namespace tritserve
