// The Python module tritserve.model.engine._native: an Encoder, and a PackedMatrix to test and time
// kernels with.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>

#include "encoder.hpp"
#include "isa.hpp"
#include "panel.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace tritserve {
namespace {

template <typename T, size_t dims>
using Array_ = nb::ndarray<T, nb::ndim<dims>, nb::c_contig, nb::device::cpu>;
using FloatRows = Array_<const float, 2>;
using OutputRows = Array_<float, 2>;
using Lengths = Array_<const int64_t, 1>;
using Bytes = Array_<const uint8_t, 1>;
using ByteRows = Array_<const int8_t, 2>;
using IntRows = Array_<int32_t, 2>;

template <typename T>
T get(const nb::dict& settings, const char* name) {
  return nb::cast<T>(settings[name]);
}

Pooling read_pooling(const std::string& name) {
  if (name == "last") return Pooling::last;
  if (name == "mean") return Pooling::mean;
  if (name == "weighted_mean") return Pooling::weighted_mean;
  if (name == "mean_max") return Pooling::mean_max;
  throw std::invalid_argument("pooling is '" + name +
                              "'; it must be last, mean, weighted_mean or mean_max");
}

Settings read_settings(const nb::dict& given) {
  Settings s{};
  s.embed_dim = get<size_t>(given, "embed_dim");
  s.hidden_size = get<size_t>(given, "hidden_size");
  s.num_heads = get<size_t>(given, "num_heads");
  s.key_value_heads = get<size_t>(given, "key_value_heads");
  s.num_layers = get<size_t>(given, "num_layers");
  s.inner_size = get<size_t>(given, "inner_size");
  s.max_timesteps = get<size_t>(given, "max_timesteps");
  s.stride = get<size_t>(given, "stride");
  s.differences = get<size_t>(given, "differences");
  s.attention_window = get<size_t>(given, "attention_window");
  s.binary = get<bool>(given, "binary");
  s.int8_activations = get<bool>(given, "int8_activations");
  s.sub_norm = get<bool>(given, "sub_norm");
  s.layernorm = get<bool>(given, "layernorm");
  s.swiglu = get<bool>(given, "swiglu");
  s.rope = get<bool>(given, "rope");
  s.bias = get<bool>(given, "bias");
  s.causal = get<bool>(given, "causal");
  s.pooling = read_pooling(get<std::string>(given, "pooling"));
  s.rope_theta = get<double>(given, "rope_theta");
  s.by_channel = given.contains("channels");
  if (s.by_channel) {
    const auto channels = get<nb::dict>(given, "channels");
    s.channels = {get<size_t>(channels, "points"),     get<size_t>(channels, "patch"),
                  get<size_t>(channels, "window"),     get<size_t>(channels, "segments"),
                  get<size_t>(channels, "shape_size"), get<size_t>(channels, "levels_size")};
  }
  return s;
}

// The arrays point into those given: a copy, made of one that is not contiguous, would be gone.
Arrays read_arrays(const nb::dict& given) {
  Arrays arrays;
  for (auto [name, value] : given) {
    nb::ndarray<nb::ro, nb::c_contig, nb::device::cpu> array;
    if (!nb::try_cast(value, array, false))
      throw std::invalid_argument("a tensor is no contiguous array");
    const bool bytes = array.dtype() == nb::dtype<uint8_t>();
    if (!bytes && array.dtype() != nb::dtype<float>())
      throw std::invalid_argument("a tensor is neither uint8 nor float32");
    arrays[nb::cast<std::string>(name)] = {bytes ? Type::uint8 : Type::float32, array.data(),
                                           array.size()};
  }
  return arrays;
}

void embed(Encoder& encoder, const FloatRows& values, const Lengths& lengths, bool apart,
           const OutputRows& out) {
  const Settings& settings = encoder.model().settings;
  const size_t width = values.shape(1);
  const size_t size = apart ? width * settings.channel_size() : settings.output_size();
  if (!width || (apart && !settings.by_channel) ||
      (!settings.by_channel && width != settings.embed_dim) ||
      out.shape(0) != lengths.shape(0) || out.shape(1) != size)
    throw std::invalid_argument("values, lengths and out do not fit each other and the model");
  nb::gil_scoped_release released;
  encoder.embed(values.data(), values.shape(0), width, lengths.data(), lengths.shape(0), apart,
                out.data());
}

// A packed matrix on its own: exact products with rows of int8.
class PackedMatrix {
 public:
  PackedMatrix(const Bytes& packed, size_t outputs, size_t inputs, bool binary,
               const std::string& isa)
      : kernels_(choose_kernels(isa)) {
    if (!outputs || !inputs || outputs > kMost || inputs > kMost)
      throw std::invalid_argument("a matrix has 1 to 2^24 outputs and inputs");
    const Weights weights = binary ? Weights::binary : Weights::ternary;
    panels_ = make_panels({packed.data(), packed.size(), outputs, inputs, 0, outputs}, weights);
    codes_.grow(kMaxPanelGroup * padded(inputs, kByteStride) * kLanes);
    matrix_ = {weights, panels_.data(), inputs, outputs, nullptr, false, nullptr};
  }

  // q [rows, inputs] @ weights^T -> out [rows, outputs padded to 16]
  void matmul(const ByteRows& q, const IntRows& out) {
    const size_t rows = q.shape(0), panels = padded(matrix_.outputs) / kLanes;
    if (q.shape(1) != matrix_.inputs || out.shape(0) != rows || out.shape(1) != panels * kLanes)
      throw std::invalid_argument("q must be [rows, inputs], out [rows, outputs up to a 16th]");
    const size_t stride = padded(matrix_.inputs, kByteStride);
    q_.grow(rows * stride);
    sum_.grow(rows);
    scale_.grow(rows);
    for (size_t r = 0; r < rows; ++r) {
      const int8_t* row = q.data() + r * matrix_.inputs;
      int32_t sum = 0;
      for (size_t i = 0; i < matrix_.inputs; ++i) sum += row[i];
      std::memcpy(q_.data() + r * stride, row, matrix_.inputs);
      std::memset(q_.data() + r * stride + matrix_.inputs, 0, stride - matrix_.inputs);
      sum_[r] = sum;
    }
    nb::gil_scoped_release released;
    kernels_.matmul(matrix_, {q_.data(), stride, scale_.data(), sum_.data()}, rows, 0, panels,
                    {out.data(), panels * kLanes, Epilogue::integers}, codes_.data());
  }

  const char* kernels() const { return kernels_.name; }

 private:
  static constexpr size_t kMost = size_t{1} << 24;
  const Kernels& kernels_;
  Buffer<uint8_t> panels_, codes_;
  Buffer<int8_t> q_;
  Buffer<int32_t> sum_;
  Buffer<float> scale_;
  Matrix matrix_{};
};

std::vector<std::string> supported() {
  std::vector<std::string> names;
  for (const Kernels* kernels : supported_kernels()) names.emplace_back(kernels->name);
  return names;
}

}  // namespace
}  // namespace tritserve

NB_MODULE(_native, m) {
  using namespace tritserve;
  // A server ends while its engine is still referred to; that is no leak worth a line in its log.
  nb::set_leak_warnings(false);
  m.def("supported", &supported);
  nb::class_<Encoder>(m, "Encoder")
      .def(
          "__init__",
          [](Encoder* self, const nb::dict& settings, const nb::dict& arrays,
             const std::string& isa, int threads) {
            new (self)
                Encoder(read_settings(settings), read_arrays(arrays), choose_kernels(isa), threads);
          },
          "settings"_a, "arrays"_a, "isa"_a, "threads"_a)
      .def("embed", &embed, "values"_a.noconvert(), "lengths"_a.noconvert(), "apart"_a,
           "out"_a.noconvert())
      .def_rw("alone_work", &Encoder::alone_work)
      .def_prop_ro("kernels", &Encoder::kernels)
      .def_prop_ro("threads", &Encoder::threads)
      .def_prop_ro("panel_bytes", [](const Encoder& e) { return e.model().panel_bytes(); })
      .def_prop_ro("weights", [](const Encoder& e) { return e.model().weights(); });
  nb::class_<PackedMatrix>(m, "PackedMatrix")
      .def(nb::init<const Bytes&, size_t, size_t, bool, const std::string&>(),
           "packed"_a.noconvert(), "outputs"_a, "inputs"_a, "binary"_a, "isa"_a)
      .def("matmul", &PackedMatrix::matmul, "q"_a.noconvert(), "out"_a.noconvert())
      .def_prop_ro("kernels", &PackedMatrix::kernels);
}
