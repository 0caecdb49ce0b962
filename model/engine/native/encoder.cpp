#include "encoder.hpp"

#include <pthread.h>

#include <algorithm>
#include <cfenv>
#include <new>
#include <numeric>
#include <stdexcept>

namespace tritserve {
namespace {

constexpr size_t kTeamRows = 4096;       // of a chunk for all workers
constexpr size_t kAloneRows = 256;       // of a chunk for one worker
constexpr size_t kRowsPerColumnist = 4;  // a team with fewer rows for each works by columns
constexpr size_t kGroupWindows = 256;    // of channels seen one by one, computed together
constexpr double kChunksPerWorker = 4;   // a sequence that is more work than that is for all

// Rounding and subnormals as the answer's bytes need them, whatever the calling thread has set.
class DefaultFloats {
 public:
  DefaultFloats() {
    std::fegetenv(&saved_);
    std::fesetenv(FE_DFL_ENV);
  }
  ~DefaultFloats() { std::fesetenv(&saved_); }

 private:
  std::fenv_t saved_;
};

// A series' row: that of its one window, or the mean of its windows' mean and of the whole.
void average_windows(const float* rows, size_t windows, size_t width, float* out) {
  std::copy_n(rows, width, out);
  if (windows == 1) return;
  const size_t parts = windows - 1;
  const float* whole = rows + parts * width;
  for (size_t w = 1; w < parts; ++w)
    for (size_t i = 0; i < width; ++i) out[i] += rows[w * width + i];
  for (size_t i = 0; i < width; ++i)
    out[i] = 0.5f * (out[i] / static_cast<float>(parts) + whole[i]);
}

int checked_threads(int threads) {
  if (threads < 1) throw std::invalid_argument("threads must be 1 or more");
  return threads;
}

}  // namespace

// A child has only the thread that forked: a mutex that another one held would stay locked there.
// A fork therefore holds the mutex of every encoder, and none comes or goes meanwhile. Whoever has
// such a mutex waits for nothing that the forking thread may hold, such as Python's lock.
struct Encoder::Encoders {
  std::mutex mutex;
  std::vector<Encoder*> encoders;
};

Encoder::Encoders& Encoder::all() {
  // Never destroyed: a process may fork while it ends.
  static Encoders& encoders = *[] {
    if (pthread_atfork(hold_all, release_all, release_all) != 0) throw std::bad_alloc();
    return new Encoders;
  }();
  return encoders;
}

void Encoder::hold_all() {
  all().mutex.lock();
  for (Encoder* encoder : all().encoders) encoder->mutex_.lock();
}

void Encoder::release_all() {
  for (Encoder* encoder : all().encoders) encoder->mutex_.unlock();
  all().mutex.unlock();
}

Encoder::Encoder(const Settings& settings, const Arrays& arrays, const Kernels& kernels,
                 int threads)
    : alone_work(kernels.alone_work),
      model_(settings, arrays),
      kernels_(kernels),
      rope_(settings.rope_theta, settings.head_dim() / 2),
      pool_(checked_threads(threads)),
      barrier_(threads),
      workspaces_(static_cast<size_t>(threads)) {
  if (settings.by_channel) join_ = std::make_unique<Join>(model_, kernels_);
  const std::lock_guard lock(all().mutex);
  all().encoders.push_back(this);
}

Encoder::~Encoder() {
  const std::lock_guard lock(all().mutex);
  std::erase(all().encoders, this);
}

void Encoder::embed(const float* values, size_t timesteps, size_t width, const int64_t* lengths,
                    size_t batch, bool apart, float* out) {
  const std::lock_guard lock(mutex_);
  // The caller may change its lengths meanwhile; what is checked is what is used.
  given_lengths_.assign(lengths, lengths + batch);
  size_t total = 0;
  for (const int64_t length : given_lengths_) {
    if (length < 1 || static_cast<size_t>(length) > model_.settings.max_timesteps)
      throw std::invalid_argument("a length is below 1 or longer than the model takes");
    total += static_cast<size_t>(length);
    if (total > timesteps) break;
  }
  if (batch == 0 || total != timesteps)
    throw std::invalid_argument("lengths do not add up to the timesteps of values");
  // The tables that `grow` makes are kept, and must not depend on the caller's rounding either.
  const DefaultFloats floats;
  if (join_) return embed_channels(values, width, apart, out);
  lengths_.swap(given_lengths_);
  compute(values, out);
}

void Encoder::compute(const float* values, float* out) {
  arrange(values, out);
  grow();
  next_.store(team_chunks_, std::memory_order_relaxed);
  if (alone_ || (chunks_.size() == 1 && team_chunks_ == 0)) return run_alone(0);
  pool_.run([this](int rank) {
    const DefaultFloats floats_here;
    run_team(rank);
    run_alone(rank);
  });
}

// Some sequences at a time, so that memory is bounded whatever the batch.
void Encoder::embed_channels(const float* values, size_t width, bool apart, float* out) {
  const Settings& s = model_.settings;
  const size_t size = apart ? width * s.channel_size() : s.output_size();
  const size_t pooled = width * s.pooled_size(), levels = width * s.channels.levels();
  const size_t batch = given_lengths_.size();
  const auto windows = [&](size_t i) {
    return width * s.channels.windows(static_cast<size_t>(given_lengths_[i]));
  };
  for (size_t first = 0, last = 0; first < batch; first = last) {
    size_t count = windows(last++);
    while (last < batch && count + windows(last) <= kGroupWindows) count += windows(last++);
    pooled_.resize((last - first) * pooled);
    activity_.resize((last - first) * width);
    levels_.resize((last - first) * levels);
    pool_channels(values, width, first, last);
    for (size_t i = first; i < last; ++i, out += size) {
      values += static_cast<size_t>(given_lengths_[i]) * width;
      const Join::Channels channels{pooled_.data() + (i - first) * pooled,
                                    activity_.data() + (i - first) * width,
                                    levels_.data() + (i - first) * levels, width};
      if (apart)
        join_->keep(channels, out);
      else
        join_->join(channels, out);
    }
  }
}

// Pooled rows, activity and levels of all channels of sequences first .. last - 1.
void Encoder::pool_channels(const float* values, size_t width, size_t first, size_t last) {
  const Settings& s = model_.settings;
  const ChannelSettings& c = s.channels;
  const size_t token_floats = c.tokens() * c.token_size(), pooled = s.pooled_size();
  ChannelReader reader(c);
  float* activity = activity_.data();
  float* levels = levels_.data();
  float* rows = pooled_.data();
  size_t count = 0;
  const auto flush = [&] {
    lengths_.assign(count, static_cast<int64_t>(c.tokens()));
    window_rows_.resize(count * pooled);
    compute(tokens_.data(), window_rows_.data());
    const float* row = window_rows_.data();
    for (const size_t n : windows_) {
      average_windows(row, n, pooled, rows);
      row += n * pooled;
      rows += pooled;
    }
    windows_.clear();
    count = 0;
  };
  for (size_t i = first; i < last; ++i) {
    const auto timesteps = static_cast<size_t>(given_lengths_[i]);
    for (size_t channel = 0; channel < width; ++channel, levels += c.levels()) {
      const bool known = channel < model_.calibration.size();
      reader.read(values + channel, width, timesteps,
                  known ? model_.calibration[channel] : Calibration{});
      *activity++ = reader.activity();
      reader.levels(levels);
      const size_t n = c.windows(timesteps);
      if (count && count + n > kGroupWindows) flush();
      tokens_.resize((count + n) * token_floats);
      reader.tokens(tokens_.data() + count * token_floats);
      windows_.push_back(n);
      count += n;
    }
    values += timesteps * width;
  }
  flush();
}

// Sequences into chunks: first those that all workers share, then those for one worker each.
void Encoder::arrange(const float* values, float* out) {
  const Settings& s = model_.settings;
  const size_t batch = lengths_.size();
  offsets_.resize(batch);
  costs_.resize(batch);
  order_.resize(batch);
  const double linear = static_cast<double>(model_.weights());
  const size_t most = s.attention_window ? s.attention_window : s.max_timesteps;
  const double attended = 4.0 * static_cast<double>(s.query_size() * s.num_layers);
  size_t offset = 0;
  for (size_t i = 0; i < batch; ++i) {
    const size_t length = s.rows(static_cast<size_t>(lengths_[i]));
    costs_[i] = static_cast<double>(length) *
                (linear + attended * static_cast<double>(std::min(length, most)));
    offsets_[i] = offset;
    offset += static_cast<size_t>(lengths_[i]);
  }
  const double total = std::accumulate(costs_.begin(), costs_.end(), 0.0);
  alone_ = workspaces_.size() == 1 || total < alone_work;
  const size_t workers = alone_ ? 1 : workspaces_.size();
  const double large = total / (kChunksPerWorker * static_cast<double>(workers));
  std::iota(order_.begin(), order_.end(), size_t{0});
  const auto middle = std::partition(order_.begin(), order_.end(), [&](size_t i) {
    return workers > 1 && costs_[i] > large;
  });
  const auto large_count = static_cast<size_t>(middle - order_.begin());

  sequences_.clear();
  size_t small_rows = 0;
  for (size_t i = 0; i < batch; ++i) {
    const size_t from = order_[i], timesteps = static_cast<size_t>(lengths_[from]);
    const size_t length = s.rows(timesteps);
    sequences_.push_back({values + offsets_[from] * s.embed_dim, timesteps,
                          out + from * s.pooled_size(), length, 0, 0});
    if (i >= large_count) small_rows += length;
  }
  chunks_.clear();
  const auto cut = [&](size_t begin, size_t end, size_t rows_wanted) {
    for (size_t i = begin, rows = 0; i < end; ++i) {
      rows += sequences_[i].length;
      if (rows < rows_wanted && i + 1 < end) continue;
      add_chunk(begin, i + 1);
      begin = i + 1;
      rows = 0;
    }
  };
  cut(0, large_count, kTeamRows);
  team_chunks_ = chunks_.size();
  const auto share = small_rows / (static_cast<size_t>(kChunksPerWorker) * workers);
  cut(large_count, batch, workers == 1 ? kAloneRows : std::clamp<size_t>(share, 1, kAloneRows));
}

void Encoder::add_chunk(size_t begin, size_t end) {
  Chunk chunk{sequences_.data() + begin, end - begin, 0, 0};
  for (size_t i = begin; i < end; ++i) {
    sequences_[i].first_row = chunk.rows;
    sequences_[i].first_panel = chunk.panels;
    chunk.rows += sequences_[i].length;
    chunk.panels += padded(sequences_[i].length) / kLanes;
  }
  chunks_.push_back(chunk);
}

// All memory is taken here, before workers start: they cannot fail.
void Encoder::grow() {
  const Settings& s = model_.settings;
  const auto longest = *std::max_element(lengths_.begin(), lengths_.end());
  const size_t most = s.by_channel ? s.channels.tokens() : s.rows(s.max_timesteps);
  if (s.rope) rope_.grow(s.rows(static_cast<size_t>(longest)), most);
  for (size_t i = 0; i < chunks_.size(); ++i) {
    const bool team = i < team_chunks_;
    for (size_t rank = 0; rank < workspaces_.size(); ++rank)
      if (!team || rank == 0)
        workspaces_[rank].grow_chunk(model_, chunks_[i].rows, chunks_[i].panels, team);
  }
  for (Workspace& workspace : workspaces_) workspace.grow_block(model_);
}

void Encoder::find_sequences(const Chunk& chunk, Workspace& workspace) const {
  for (size_t i = 0; i < chunk.count; ++i) {
    const Sequence& sequence = chunk.sequences[i];
    uint32_t* rows = workspace.sequence_of_row.data() + sequence.first_row;
    std::fill(rows, rows + sequence.length, static_cast<uint32_t>(i));
  }
}

void Encoder::run_team(int rank) {
  const auto own = static_cast<size_t>(rank);
  const size_t workers = workspaces_.size();
  for (size_t i = 0; i < team_chunks_; ++i) {
    const Chunk& chunk = chunks_[i];
    if (rank == 0) find_sequences(chunk, workspaces_[0]);
    barrier_.wait();
    const Team team{&barrier_, own, workers, chunk.rows < kRowsPerColumnist * workers};
    forward({model_, kernels_, rope_}, chunk, team, workspaces_[0], workspaces_[own]);
  }
}

void Encoder::run_alone(int rank) {
  Workspace& own = workspaces_[static_cast<size_t>(rank)];
  for (size_t i; (i = next_.fetch_add(1, std::memory_order_relaxed)) < chunks_.size();) {
    find_sequences(chunks_[i], own);
    forward({model_, kernels_, rope_}, chunks_[i], {nullptr, 0, 1, false}, own, own);
  }
}

}  // namespace tritserve
