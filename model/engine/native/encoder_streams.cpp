// Live streams, advanced many at once.
#include <algorithm>
#include <stdexcept>

#include "encoder.hpp"
#include "floats.hpp"

namespace tritserve {

std::unique_ptr<Stream> Encoder::stream(bool restarts) {
  if (!model_.settings.causal || model_.settings.by_channel)
    throw std::invalid_argument("a stream needs causal attention, and features seen together");
  return std::make_unique<Stream>(model_.settings, stream_memory_, restarts);
}

Refusal Encoder::push(const std::vector<Stream*>& streams, const float* frames, size_t timesteps,
                      const int64_t* lengths, bool every, float* out) {
  const std::lock_guard lock(mutex_);
  const Settings& s = model_.settings;
  portions_.clear();
  size_t total = 0;
  for (size_t i = 0; i < streams.size(); ++i) {
    const int64_t length = lengths[i];
    if (length < 1 || static_cast<uint64_t>(length) > timesteps - total)
      throw std::invalid_argument("lengths do not add up to the timesteps of the frames");
    const auto count = static_cast<size_t>(length);
    portions_.push_back({streams[i], frames + total * s.embed_dim, count, every,
                         out + (every ? total : i) * s.output_size()});
    total += count;
  }
  if (streams.empty() || total != timesteps)
    throw std::invalid_argument("lengths do not add up to the timesteps of the frames");
  if (const Refusal refusal = find_refusal(streams); refusal.reason) return refusal;

  // All memory is taken here, before workers start: they cannot fail.
  size_t pages = 0;
  for (const Portion& portion : portions_) pages += portion.stream->pages_needed(portion.timesteps);
  stream_memory_.reserve(pages);
  for (Workspace& workspace : workspaces_) workspace.grow_streams(model_);
  for (const Portion& portion : portions_) portion.stream->begin(portion.timesteps);
  run_portions();

  const auto refused = std::find_if(portions_.begin(), portions_.end(),
                                    [](const Portion& p) { return p.refusal.reason; });
  for (const Portion& portion : portions_)
    refused == portions_.end() ? portion.stream->commit() : portion.stream->roll_back();
  if (refused == portions_.end()) return {};
  refused->refusal.portion = static_cast<size_t>(refused - portions_.begin());
  return refused->refusal;
}

Refusal Encoder::find_refusal(const std::vector<Stream*>& streams) const {
  for (size_t i = 0; i < streams.size(); ++i) {
    const Stream& stream = *streams[i];
    if (&stream.memory() != &stream_memory_) return {Refusal::foreign, i};
    if (stream.closed()) return {Refusal::closed, i};
    if (portions_[i].timesteps > stream.room()) return {Refusal::ended, i};
  }
  std::vector<Stream*> sorted = streams;
  std::sort(sorted.begin(), sorted.end());
  const auto twice = std::adjacent_find(sorted.begin(), sorted.end());
  if (twice == sorted.end()) return {};
  const auto last = std::find(streams.rbegin(), streams.rend(), *twice);
  return {Refusal::twice, static_cast<size_t>(streams.rend() - last) - 1};
}

// A stream's frames follow each other, so that one worker takes them all.
void Encoder::run_portions() {
  const Settings& s = model_.settings;
  size_t rows = 0;
  for (const Portion& portion : portions_) rows += s.rows(portion.timesteps);
  const size_t workers = workspaces_.size();
  const double work_in_all = static_cast<double>(rows) * static_cast<double>(model_.weights());
  const bool alone = workers == 1 || work_in_all < alone_work;
  const size_t share =
      alone ? kBlockRows : std::clamp<size_t>((rows + workers - 1) / workers, 1, kBlockRows);
  ends_.clear();
  for (size_t i = 0, taken = 0; i < portions_.size(); ++i) {
    taken += s.rows(portions_[i].timesteps);
    if (taken < share && i + 1 < portions_.size()) continue;
    ends_.push_back(i + 1);
    taken = 0;
  }
  next_.store(0, std::memory_order_relaxed);
  const auto work = [this](int rank) {
    const DefaultFloats floats;
    for (size_t i; (i = next_.fetch_add(1, std::memory_order_relaxed)) < ends_.size();) {
      const size_t begin = i ? ends_[i - 1] : 0;
      advance({model_, kernels_, rope_}, portions_.data() + begin, ends_[i] - begin,
              workspaces_[static_cast<size_t>(rank)]);
    }
  };
  if (alone || ends_.size() == 1) {
    work(0);
  } else {
    pool_.run(work);
  }
}

}  // namespace tritserve
