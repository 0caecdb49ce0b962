// One worker's part of a push: the next frames of some streams, through all blocks of the encoder.
#pragma once

#include "forward.hpp"
#include "stream.hpp"

namespace tritserve {

// Why a push changes nothing.
struct Refusal {
  enum Reason { none, foreign, closed, twice, ended, value, overflow } reason = none;
  size_t portion = 0, timestep = 0, feature = 0;  // where it applies
};

// The frames that one stream is given in a push.
struct Portion {
  Stream* stream;
  const float* frames;  // [timesteps, embed_dim]
  size_t timesteps;
  bool every;  // whether the embedding after each frame is asked for, or the last one
  float* out;  // [timesteps, output_size], or [output_size]
  size_t taken = 0;
  Refusal refusal{};
};

// Advances the portions' streams, each within a push that has begun. A portion with a refusal is
// not finished.
void advance(const Tools& tools, Portion* portions, size_t count, Workspace& own);

}  // namespace tritserve
