#include "stream.hpp"

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <utility>

#include "inputs.hpp"

namespace tritserve {
namespace {

// Positions beyond are not told apart; at a million frames a second that is nine years.
constexpr uint64_t kEndless = uint64_t{1} << 48;

size_t pages_of(uint64_t rows) { return static_cast<size_t>((rows + kLanes - 1) / kLanes); }

}  // namespace

size_t Stream::pool_size(const Settings& s) {
  const size_t rows = s.pooling == Pooling::last ? 0 : s.pooling == Pooling::mean_max ? 4 : 3;
  return rows * padded(s.hidden_size);
}

size_t Stream::state_size(const Settings& s) {
  return (2 + s.differences) * s.embed_dim + pool_size(s);
}

size_t Stream::most_bytes(const Settings& s, const StreamMemory& memory) {
  const size_t pages = s.attention_window ? pages_of(s.attention_window + kLanes - 1)
                                          : pages_of(s.rows(s.max_timesteps));
  return 2 * state_size(s) * sizeof(float) + pages * memory.page_bytes();
}

Stream::Stream(const Settings& settings, StreamMemory& memory, bool restarts)
    : s_(settings),
      memory_(memory),
      restarts_(restarts),
      pool_((2 + settings.differences) * settings.embed_dim) {
  now_.floats.grow(state_size(s_));
  next_.floats.grow(state_size(s_));
  memory_.bytes += 2 * state_size(s_) * sizeof(float);
}

void Stream::close() {
  if (closed_) return;
  from_before_ = 0;
  drop(pages_.size());
  now_.floats = {};
  next_.floats = {};
  memory_.bytes -= 2 * state_size(s_) * sizeof(float);
  closed_ = true;
}

uint64_t Stream::room() const {
  if (s_.attention_window) return kEndless - now_.timesteps;
  return restarts_ ? std::numeric_limits<uint64_t>::max() : s_.max_timesteps - now_.timesteps;
}

uint64_t Stream::first_seen(uint64_t position) const {
  const uint64_t window = s_.attention_window;
  return window && position >= window ? position + 1 - window : 0;
}

size_t Stream::pages_needed(size_t frames) const {
  const uint64_t window = s_.attention_window, end = now_.timesteps + frames;
  // Of a long push, the pages that are no longer attended to are taken again.
  const size_t most =
      window ? pages_of(window + kBlockRows) + 1 : pages_of(s_.rows(s_.max_timesteps));
  if (!window && end > s_.max_timesteps) return most;
  return std::min(pages_of(s_.rows(end)) - static_cast<size_t>(first_page_) - pages_.size(), most);
}

void Stream::begin(size_t frames) {
  pages_.reserve(pages_.size() + pages_needed(frames));
  retired_.clear();
  retired_.reserve(pages_.size());
  from_before_ = pages_.size();
  first_page_before_ = first_page_;
  next_.timesteps = now_.timesteps;
  std::copy_n(now_.floats.data(), now_.floats.count(), next_.floats.data());
}

void Stream::commit() {
  for (float* page : retired_) memory_.give_back(page);
  retired_.clear();
  std::swap(now_, next_);
  timesteps_ = now_.timesteps;
}

void Stream::roll_back() {
  for (size_t i = from_before_; i < pages_.size(); ++i) memory_.give_back(pages_[i]);
  pages_.resize(from_before_);
  pages_.insert(pages_.begin(), retired_.begin(), retired_.end());
  retired_.clear();
  first_page_ = first_page_before_;
}

// The first of its pages.
void Stream::drop(size_t pages) {
  const size_t retired = std::min(pages, from_before_);
  retired_.insert(retired_.end(), pages_.begin(), pages_.begin() + retired);
  for (size_t i = retired; i < pages; ++i) memory_.give_back(pages_[i]);
  pages_.erase(pages_.begin(), pages_.begin() + pages);
  from_before_ -= retired;
  first_page_ += pages;
}

bool Stream::full() const {
  return !s_.attention_window && next_.timesteps == s_.max_timesteps;
}

void Stream::restart() {
  drop(pages_.size());
  first_page_ = 0;
  next_.timesteps = 0;
  next_.floats.zero();
}

void Stream::forget() {
  const uint64_t first = first_seen(next_.timesteps / s_.stride) / kLanes;
  if (first > first_page_) drop(static_cast<size_t>(first - first_page_));
}

Stream::Row Stream::take(const float* frame, float* inputs) {
  const size_t n = s_.embed_dim, before = next_.timesteps % s_.stride;
  const uint64_t position = next_.timesteps / s_.stride;
  float* sum = next_.floats.data();
  float *features = sum + n, *now = features + s_.differences * n;
  for (size_t i = 0; i < n; ++i) {
    sum[i] = before ? sum[i] + frame[i] : frame[i];
    now[i] = sum[i] / static_cast<float>(before + 1);
  }
  if (s_.differences)
    with_differences(s_, now, static_cast<size_t>(position), inputs);
  else
    std::copy_n(now, n, inputs);
  if (position / kLanes == first_page_ + pages_.size()) pages_.push_back(memory_.take());
  ++next_.timesteps;
  const bool whole = before + 1 == s_.stride;
  if (whole) std::copy(features + n, now + n, features);
  return {position, whole};
}

// Calls function(key, value) for every layer and head: numbers key[i * kLanes] and value[i].
template <typename Function>
void Stream::for_each_head(uint64_t position, Function function) const {
  const size_t dim = s_.head_dim(), slot = position % kLanes;
  for (size_t layer = 0; layer < s_.num_layers; ++layer)
    for (size_t head = 0; head < s_.key_value_heads; ++head) {
      float* keys = page(position) + memory_.offset(layer, head);
      function(keys + slot, keys + dim * kLanes + slot * padded(dim));
    }
}

StreamContent Stream::content() const {
  const size_t dim = s_.head_dim();
  StreamContent content{now_.timesteps, {}, {}, {}};
  content.state.assign(now_.floats.data(), now_.floats.data() + state_size(s_));
  const uint64_t end = now_.timesteps / s_.stride;
  for (uint64_t position = first_seen(end); position < end; ++position)
    for_each_head(position, [&](const float* key, const float* value) {
      for (size_t i = 0; i < dim; ++i) content.keys.push_back(key[i * kLanes]);
      content.values.insert(content.values.end(), value, value + dim);
    });
  return content;
}

void Stream::fill(const StreamContent& content) {
  const uint64_t most = s_.attention_window ? kEndless : s_.max_timesteps;
  if (content.timesteps > most) throw std::invalid_argument("a stream has had too many timesteps");
  const size_t dim = s_.head_dim();
  const uint64_t end = content.timesteps / s_.stride, first = first_seen(end);
  const size_t count =
      static_cast<size_t>(end - first) * s_.num_layers * s_.key_value_heads * dim;
  if (content.state.size() != state_size(s_) || content.keys.size() != count ||
      content.values.size() != count)
    throw std::invalid_argument("a stream's numbers do not fit its timesteps and the model");
  first_page_ = first / kLanes;
  const size_t pages = pages_of(end) - static_cast<size_t>(first_page_);
  pages_.reserve(pages);
  memory_.reserve(pages);
  for (size_t i = 0; i < pages; ++i) pages_.push_back(memory_.take());
  const float *key = content.keys.data(), *value = content.values.data();
  for (uint64_t position = first; position < end; ++position)
    for_each_head(position, [&](float* keys, float* values) {
      for (size_t i = 0; i < dim; ++i) keys[i * kLanes] = *key++;
      std::fill_n(values, padded(dim), 0.0f);
      std::copy_n(value, dim, values);
      value += dim;
    });
  std::copy_n(content.state.data(), content.state.size(), now_.floats.data());
  timesteps_ = now_.timesteps = content.timesteps;
}

}  // namespace tritserve
