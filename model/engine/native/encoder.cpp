#include "encoder.hpp"

#include <algorithm>
#include <numeric>
#include <stdexcept>

#include "floats.hpp"

namespace tritserve {
namespace {

constexpr size_t kTeamRows = 4096;       // of a chunk for all workers
constexpr size_t kAloneRows = 256;       // of a chunk for one worker
constexpr size_t kRowsPerColumnist = 4;  // a team with fewer rows for each works by columns
constexpr double kChunksPerWorker = 4;   // a sequence that is more work than that is for all

int checked_threads(int threads) {
  if (threads < 1) throw std::invalid_argument("threads must be 1 or more");
  return threads;
}

}  // namespace

Encoder::Encoder(const Settings& settings, const Arrays& arrays, const Kernels& kernels,
                 int threads)
    : alone_work(kernels.alone_work),
      model_(settings, arrays),
      kernels_(kernels),
      rope_(settings.rope_theta, settings.rope ? settings.head_dim() / 2 : 0),
      pool_(checked_threads(threads)),
      barrier_(threads),
      workspaces_(static_cast<size_t>(threads)),
      stream_memory_(model_.settings) {
  if (settings.by_channel) join_ = std::make_unique<Join>(model_, kernels_);
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
