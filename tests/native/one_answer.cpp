// Embeds random batches with random models on every instruction set of this machine and with
// several numbers of threads, and prints a hash of the embeddings' bytes for each case. Ends with
// an error if two disagree. Runs under sanitizers, and on other processors to compare hashes.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "encoder.hpp"
#include "isa.hpp"
#include "panel.hpp"

using namespace tritserve;

namespace {

// The same numbers everywhere.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed * 2654435761u + 1) {}
  uint32_t next() {
    state_ = state_ * 6364136223846793005u + 1442695040888963407u;
    return static_cast<uint32_t>(state_ >> 33);
  }
  size_t below(size_t n) { return next() % n; }
  float number() { return static_cast<float>(static_cast<int>(below(2001)) - 1000) / 256.0f; }

 private:
  uint64_t state_;
};

struct Source {
  std::map<std::string, std::vector<float>> floats;
  std::map<std::string, std::vector<uint8_t>> bytes;

  Arrays arrays() const {
    Arrays result;
    for (const auto& [name, data] : floats) result[name] = {Type::float32, data.data(), data.size()};
    for (const auto& [name, data] : bytes) result[name] = {Type::uint8, data.data(), data.size()};
    return result;
  }
};

void add_floats(Source& source, Random& random, const std::string& name, size_t count, float shift,
                float scale) {
  auto& data = source.floats[name];
  for (size_t i = 0; i < count; ++i) data.push_back(shift + scale * random.number());
}

void add_layer(Source& source, Random& random, const Settings& s, const std::string& name,
               size_t outputs, size_t inputs) {
  const size_t count = outputs * inputs, per_byte = s.binary ? 8 : 5;
  auto& data = source.bytes[name + ".packed"];
  for (size_t i = 0; i < (count + per_byte - 1) / per_byte; ++i)
    data.push_back(static_cast<uint8_t>(random.below(s.binary ? 256 : 243)));
  source.floats[name + ".scale"] =
      std::vector<float>(random.below(2) ? 1 : outputs, 0.5f / static_cast<float>(inputs));
  if (s.bias) add_floats(source, random, name + ".bias", outputs, 0.0f, 0.1f);
}

void add_norm(Source& source, Random& random, const Settings& s, const std::string& name) {
  add_floats(source, random, name + ".weight", s.hidden_size, 1.0f, 0.1f);
  if (s.layernorm) add_floats(source, random, name + ".bias", s.hidden_size, 0.0f, 0.1f);
}

Settings random_settings(Random& random) {
  Settings s{};
  s.key_value_heads = 1 + random.below(2);
  s.num_heads = s.key_value_heads * (1 + random.below(2));
  s.hidden_size = s.num_heads * 2 * (1 + random.below(12));
  s.embed_dim = random.below(3) ? 1 + random.below(40) : s.hidden_size;
  s.stride = random.below(3) ? 1 : 1 + random.below(7);
  s.differences = random.below(3);
  s.num_layers = 1 + random.below(2);
  s.inner_size = 1 + random.below(150);
  s.max_timesteps = 600;
  s.binary = random.below(2);
  s.int8_activations = random.below(4);
  s.sub_norm = random.below(2);
  s.layernorm = random.below(2);
  s.swiglu = random.below(2);
  s.rope = random.below(2);
  s.bias = random.below(2);
  s.causal = random.below(2);
  s.attention_window = s.causal && random.below(2) ? 1 + random.below(random.below(2) ? 20 : 300) : 0;
  s.pooling = static_cast<Pooling>(random.below(4));
  s.rope_theta = 10000.0;
  s.by_channel = random.below(3) == 0;
  if (s.by_channel) {
    const size_t patch = 1 + random.below(9);
    s.channels = {patch * (1 + random.below(20)), patch,
                  1 + random.below(200),          1 + random.below(20),
                  1 + random.below(100),          1 + random.below(100)};
    s.embed_dim = s.channels.token_size();
    s.stride = 1;
    s.differences = 0;
  }
  return s;
}

Source random_source(Random& random, const Settings& s) {
  Source source;
  add_floats(source, random, "standardize.mean", s.input_size(), 0.0f, 1.0f);
  add_floats(source, random, "standardize.std", s.input_size(), 5.0f, 1.0f);
  if (s.input_size() != s.hidden_size) {
    add_floats(source, random, "input_projection.weight", s.input_size() * s.hidden_size, 0.0f,
               0.2f);
    add_floats(source, random, "input_projection.bias", s.hidden_size, 0.0f, 0.1f);
  }
  for (size_t i = 0; i < s.num_layers; ++i) {
    const std::string block = "blocks." + std::to_string(i);
    add_norm(source, random, s, block + ".attention_norm");
    add_norm(source, random, s, block + ".ffn_norm");
    add_layer(source, random, s, block + ".attention.query_key_value",
              s.query_size() + s.key_value_size(), s.hidden_size);
    add_layer(source, random, s, block + ".attention.output", s.hidden_size, s.query_size());
    if (s.swiglu) add_layer(source, random, s, block + ".ffn.gate", s.inner_size, s.hidden_size);
    add_layer(source, random, s, block + ".ffn.up", s.inner_size, s.hidden_size);
    add_layer(source, random, s, block + ".ffn.down", s.hidden_size, s.inner_size);
  }
  add_norm(source, random, s, "final_norm");
  if (s.by_channel) {
    const ChannelSettings& c = s.channels;
    add_floats(source, random, "join.mean", s.pooled_size(), 0.0f, 0.1f);
    add_floats(source, random, "join.std", s.pooled_size(), 5.0f, 1.0f);
    add_layer(source, random, s, "join.shape", c.shape_size, s.pooled_size());
    add_layer(source, random, s, "join.levels", c.levels_size, c.levels());
    if (random.below(2)) {
      add_floats(source, random, "calibration.center", 2, 0.0f, 1.0f);
      add_floats(source, random, "calibration.spread", 2, 5.0f, 1.0f);
    }
  }
  return source;
}

uint64_t hash(const std::vector<float>& data) {
  uint64_t result = 14695981039346656037u;
  for (const float value : data) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    result = (result ^ bits) * 1099511628211u;
  }
  return result;
}

// Products of one matrix, against long integers.
void check_products(Random& random, const Kernels& kernels) {
  const size_t rows = 1 + random.below(30), inputs = 1 + random.below(400),
               outputs = 1 + random.below(70);
  const bool binary = random.below(2), extreme = random.below(2);
  std::vector<int> weights(outputs * inputs);
  for (int& w : weights)
    w = extreme ? 1 : binary ? static_cast<int>(random.below(2)) * 2 - 1
                             : static_cast<int>(random.below(3)) - 1;
  const size_t per_byte = binary ? 8 : 5;
  std::vector<uint8_t> packed((weights.size() + per_byte - 1) / per_byte, binary ? 0 : 121);
  static const int powers[] = {1, 3, 9, 27, 81};
  for (size_t i = 0; i < weights.size(); ++i) {
    uint8_t& byte = packed[i / per_byte];
    byte = static_cast<uint8_t>(binary ? byte | (weights[i] > 0) << i % 8
                                       : byte + weights[i] * powers[i % 5]);
  }
  const Weights kind = binary ? Weights::binary : Weights::ternary;
  auto panels = make_panels({packed.data(), packed.size(), outputs, inputs, 0, outputs}, kind);
  const size_t stride = padded(inputs, kByteStride), width = padded(outputs);
  Buffer<int8_t> q(rows * stride);
  Buffer<int32_t> sums(rows), out(rows * width);
  Buffer<float> scale(rows);
  Buffer<uint8_t> codes(kMaxPanelGroup * stride * kLanes);
  for (size_t r = 0; r < rows; ++r)
    for (size_t i = 0; i < inputs; ++i) {
      const int value = extreme ? (r % 2 ? 127 : -128) : static_cast<int>(random.below(256)) - 128;
      q[r * stride + i] = static_cast<int8_t>(value);
      sums[r] += value;
    }
  const Matrix matrix{kind, panels.data(), inputs, outputs, nullptr, false, nullptr};
  kernels.matmul(matrix, {q.data(), stride, scale.data(), sums.data()}, rows, 0, width / kLanes,
                 {out.data(), width, Epilogue::integers}, codes.data());
  for (size_t r = 0; r < rows; ++r)
    for (size_t o = 0; o < outputs; ++o) {
      long long expected = 0;
      for (size_t i = 0; i < inputs; ++i)
        expected += static_cast<long long>(weights[o * inputs + i]) * q[r * stride + i];
      if (out[r * width + o] != expected) {
        std::fprintf(stderr, "%s: wrong product\n", kernels.name);
        std::exit(1);
      }
    }
}

struct Batch {
  std::vector<float> values;
  size_t width;
  std::vector<int64_t> lengths;
};

void refuse_nan(Encoder& encoder, const std::vector<Stream*>& streams, std::vector<float> frames,
                const std::vector<int64_t>& lengths, std::vector<float>& out) {
  frames.back() = NAN;
  const size_t timesteps = frames.size() / encoder.model().settings.embed_dim;
  if (encoder.push(streams, frames.data(), timesteps, lengths.data(), false, out.data()).reason !=
      Refusal::value)
    std::exit(std::fprintf(stderr, "NaN was taken\n"));
}

// Gives the sequences to streams in random portions, some of which are refused first, and some
// streams are saved and restored meanwhile. Returns the last embedding of each; any on the way is
// what `embed` gives of the frames so far.
std::vector<float> stream(Encoder& encoder, const Batch& batch, Random& random) {
  const size_t width = batch.width, size = encoder.model().settings.output_size();
  const size_t count = batch.lengths.size();
  std::vector<std::unique_ptr<Stream>> streams;
  std::vector<const float*> starts;
  const float* start = batch.values.data();
  for (const int64_t length : batch.lengths) {
    streams.push_back(encoder.stream(false));
    starts.push_back(start);
    start += static_cast<size_t>(length) * width;
  }
  std::vector<float> last(count * size), expected(size);
  for (bool left = true; left;) {
    left = false;
    std::vector<Stream*> pushed;
    std::vector<size_t> which;
    std::vector<int64_t> lengths;
    std::vector<float> frames;
    for (size_t i = 0; i < count; ++i) {
      const size_t had = streams[i]->timesteps();
      const size_t rest = static_cast<size_t>(batch.lengths[i]) - had;
      left |= rest > 0;
      if (!rest || !random.below(3)) continue;
      const size_t portion = 1 + random.below(random.below(3) ? std::min<size_t>(rest, 9) : rest);
      const float* from = starts[i] + had * width;
      pushed.push_back(streams[i].get());
      which.push_back(i);
      lengths.push_back(static_cast<int64_t>(portion));
      frames.insert(frames.end(), from, from + portion * width);
    }
    if (pushed.empty()) continue;
    const bool every = random.below(2);
    const size_t timesteps = frames.size() / width;
    std::vector<float> out((every ? timesteps : pushed.size()) * size);
    if (!random.below(3)) refuse_nan(encoder, pushed, frames, lengths, out);
    if (encoder.push(pushed, frames.data(), timesteps, lengths.data(), every, out.data()).reason)
      std::exit(std::fprintf(stderr, "a push was refused\n"));
    for (size_t p = 0, t = 0; p < pushed.size(); ++p) {
      t += static_cast<size_t>(lengths[p]);
      const float* got = out.data() + ((every ? t : p + 1) - 1) * size;
      std::copy_n(got, size, last.data() + which[p] * size);
      const auto so_far = static_cast<int64_t>(pushed[p]->timesteps());
      if (random.below(8)) continue;
      encoder.embed(starts[which[p]], static_cast<size_t>(so_far), width, &so_far, 1, false,
                    expected.data());
      if (std::memcmp(got, expected.data(), size * sizeof(float)))
        std::exit(std::fprintf(stderr, "a stream disagrees after %lld timesteps\n",
                               static_cast<long long>(so_far)));
      auto restored = encoder.stream(false);
      restored->fill(pushed[p]->content());
      streams[which[p]] = std::move(restored);
    }
  }
  return last;
}

void check_case(uint64_t seed) {
  Random random(seed);
  const Settings settings = random_settings(random);
  const Source source = random_source(random, settings);
  std::vector<int64_t> lengths;
  size_t timesteps = 0;
  for (size_t i = 0, batch = 1 + random.below(9); i < batch; ++i) {
    lengths.push_back(static_cast<int64_t>(1 + random.below(random.below(4) ? 70 : 600)));
    timesteps += static_cast<size_t>(lengths.back());
  }
  const size_t width = settings.by_channel ? 1 + random.below(5) : settings.embed_dim;
  const bool apart = settings.by_channel && random.below(2);
  std::vector<float> values;
  for (size_t i = 0; i < timesteps * width; ++i)
    values.push_back(settings.by_channel && !random.below(20) ? NAN : random.number());

  uint64_t first = 0;
  bool any = false;
  for (const Kernels* kernels : supported_kernels())
    // With many threads, more rows than a block has are still shared out by columns.
    for (const int threads : {1, 2, 3, 48}) {
      Encoder encoder(settings, source.arrays(), *kernels, threads);
      encoder.alone_work = 0.0;
      const size_t size = apart ? width * settings.channel_size() : settings.output_size();
      std::vector<float> out(lengths.size() * size);
      encoder.embed(values.data(), timesteps, width, lengths.data(), lengths.size(), apart,
                    out.data());
      const uint64_t answer = hash(out);
      if (settings.causal && !settings.by_channel && threads < 4 &&
          hash(stream(encoder, {values, width, lengths}, random)) != answer) {
        std::fprintf(stderr, "case %llu: streams on %s with %d threads disagree\n",
                     static_cast<unsigned long long>(seed), kernels->name, threads);
        std::exit(1);
      }
      if (any && answer != first) {
        std::fprintf(stderr, "case %llu: %s with %d threads disagrees\n",
                     static_cast<unsigned long long>(seed), kernels->name, threads);
        std::exit(1);
      }
      first = answer;
      any = true;
    }
  std::printf("%llu %016llx\n", static_cast<unsigned long long>(seed),
              static_cast<unsigned long long>(first));
}

}  // namespace

int main(int argc, char** argv) {
  const uint64_t cases = argc > 1 ? std::strtoull(argv[1], nullptr, 10) : 20;
  for (const Kernels* kernels : supported_kernels()) {
    std::fprintf(stderr, "%s\n", kernels->name);
    Random random(7);
    for (uint64_t i = 0; i < 2 * cases; ++i) check_products(random, *kernels);
  }
  for (uint64_t seed = 0; seed < cases; ++seed) check_case(seed);
}
