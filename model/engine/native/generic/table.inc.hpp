// Everything below is compiled once per instruction set, over the vocabulary defined above it.
#include "math.inc.hpp"
#include "rows.inc.hpp"
#include "matmul.inc.hpp"
#include "float_matmul.inc.hpp"
#include "attention.inc.hpp"
#include "paged_attention.inc.hpp"

constexpr Kernels table(const char* name) {
  return {name,         kAloneWork,     standardize, normalize,    quantize,
          matmul,       float_matmul,   keep_key_value, attend,    keep_in_page,
          attend_pages, mean,           maximum,     add_to_sums,  mean_of_sums};
}
