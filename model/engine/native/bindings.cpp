// The Python module tritserve.model.engine._native: an Encoder, and a PackedMatrix to test and time
// kernels with.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/unique_ptr.h>
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
using Floats = Array_<const float, 1>;
using NewFloats = nb::ndarray<nb::numpy, float, nb::ndim<1>>;
using Bytes = Array_<const uint8_t, 1>;
using ByteRows = Array_<const int8_t, 2>;
using Turn = Array_<float, 1>;
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

NewFloats to_array(std::vector<float>&& numbers) {
  auto* owned = new std::vector<float>(std::move(numbers));
  const nb::capsule owner(
      owned, [](void* p) noexcept { delete static_cast<std::vector<float>*>(p); });
  return NewFloats(owned->data(), {owned->size()}, owner);
}

// None, or why the push is refused: (reason, portion, timestep, feature).
nb::object push(Encoder& encoder, const std::vector<Stream*>& streams, const FloatRows& frames,
                const Lengths& lengths, bool every, const OutputRows& out) {
  static constexpr const char* kReasons[] = {"",      "foreign", "closed",  "twice",
                                             "ended", "value",   "overflow"};
  const Settings& settings = encoder.model().settings;
  if (frames.shape(1) != settings.embed_dim || lengths.shape(0) != streams.size() ||
      out.shape(0) != (every ? frames.shape(0) : streams.size()) ||
      out.shape(1) != settings.output_size() || settings.by_channel)
    throw std::invalid_argument("streams, frames, lengths and out do not fit each other");
  for (const Stream* stream : streams)
    if (!stream) throw std::invalid_argument("a stream is None");
  Refusal refusal;
  {
    nb::gil_scoped_release released;
    refusal = encoder.push(streams, frames.data(), frames.shape(0), lengths.data(), every,
                           out.data());
  }
  if (!refusal.reason) return nb::none();
  return nb::make_tuple(kReasons[refusal.reason], refusal.portion, refusal.timestep,
                        refusal.feature);
}

// None of a stream that is closed.
nb::object save(Encoder& encoder, const Stream& stream) {
  StreamContent content{};
  bool closed;
  {
    nb::gil_scoped_release released;
    encoder.alone([&] {
      closed = stream.closed();
      if (!closed) content = stream.content();
    });
  }
  if (closed) return nb::none();
  return nb::make_tuple(content.timesteps, to_array(std::move(content.state)),
                        to_array(std::move(content.keys)), to_array(std::move(content.values)));
}

std::unique_ptr<Stream> restore(Encoder& encoder, bool restarts, uint64_t timesteps,
                                const Floats& state, const Floats& keys, const Floats& values) {
  const auto copied = [](const Floats& numbers) {
    return std::vector<float>(numbers.data(), numbers.data() + numbers.size());
  };
  const StreamContent content{timesteps, copied(state), copied(keys), copied(values)};
  auto stream = encoder.stream(restarts);
  stream->fill(content);
  return stream;
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
      .def("stream", &Encoder::stream, "restarts"_a, nb::keep_alive<0, 1>())
      .def("push", &push, "streams"_a, "frames"_a.noconvert(), "lengths"_a.noconvert(), "every"_a,
           "out"_a.noconvert())
      .def("save", &save, "stream"_a)
      .def("restore", &restore, "restarts"_a, "timesteps"_a, "state"_a.noconvert(),
           "keys"_a.noconvert(), "values"_a.noconvert(), nb::keep_alive<0, 1>())
      .def("close", [](Encoder& e, Stream& stream) { e.alone([&] { stream.close(); }); },
           "stream"_a, nb::call_guard<nb::gil_scoped_release>())
      .def_prop_ro("stream_bytes", [](const Encoder& e) { return e.stream_memory().bytes.load(); })
      .def_prop_ro("max_stream_bytes", [](const Encoder& e) {
        return Stream::most_bytes(e.model().settings, e.stream_memory());
      })
      .def_rw("alone_work", &Encoder::alone_work)
      .def_prop_ro("kernels", &Encoder::kernels)
      .def_prop_ro("threads", &Encoder::threads)
      .def_prop_ro("panel_bytes", [](const Encoder& e) { return e.model().panel_bytes(); })
      .def_prop_ro("weights", [](const Encoder& e) { return e.model().weights(); });
  nb::class_<Stream>(m, "Stream")
      .def_prop_ro("timesteps", &Stream::timesteps)
      .def_prop_ro("closed", &Stream::closed);
  m.def("turn", [](double theta, size_t half, uint64_t position, const Turn& cos, const Turn& sin) {
    if (!(theta > 1.0) || cos.size() != half || sin.size() != half)
      throw std::invalid_argument("theta must be above 1, cos and sin of size half");
    Rope(theta, half).turn(position, cos.data(), sin.data());
  }, "theta"_a, "half"_a, "position"_a, "cos"_a.noconvert(), "sin"_a.noconvert());
  nb::class_<PackedMatrix>(m, "PackedMatrix")
      .def(nb::init<const Bytes&, size_t, size_t, bool, const std::string&>(),
           "packed"_a.noconvert(), "outputs"_a, "inputs"_a, "binary"_a, "isa"_a)
      .def("matmul", &PackedMatrix::matmul, "q"_a.noconvert(), "out"_a.noconvert())
      .def_prop_ro("kernels", &PackedMatrix::kernels);
}
