// One worker's part of a forward pass over a chunk of sequences.
//
// Workers of a team share a chunk in one of two ways. By rows: each owns blocks of timesteps and
// runs everything on them, and the team meets once per encoder block, when all keys and values are
// there. By columns, when rows are few: all run every row and share the outputs of each matrix.
// A worker alone owns everything, and never waits.
#pragma once

#include <cstdint>
#include <vector>

#include "model.hpp"
#include "pool.hpp"
#include "rope.hpp"

namespace tritserve {

constexpr size_t kBlockRows = 128;  // timesteps that one pass over a matrix takes

// A sequence of the batch within its chunk.
struct Sequence {
  const float* values;  // [timesteps, embed_dim]
  size_t timesteps;
  float* embedding;  // [pooled_size]
  size_t length;     // rows: a stride's timesteps are one
  size_t first_row;    // in the chunk
  size_t first_panel;  // of 16 positions, in the chunk
};

struct Chunk {
  const Sequence* sequences;
  size_t count, rows, panels;
};

struct Team {
  Barrier* barrier;  // null for a worker alone
  size_t rank, size;
  bool by_columns;
};

// Memory of a worker, grown before it starts.
struct Workspace {
  // For a whole chunk; a team uses that of its first worker.
  Buffer<float> x, query, attended, keys[2], values[2];
  Buffer<uint32_t> sequence_of_row;
  // For a block of rows.
  Buffer<float> averages, standardized, key_value, inner, pooled;
  Buffer<float> normalized, row, float_panels, attention;
  Buffer<float> turns;  // of streams' rows
  Buffer<int8_t> q;
  Buffer<float> q_scale;
  Buffer<int32_t> q_sum;
  Buffer<uint8_t> codes;

  void grow_block(const Model& model);
  void grow_chunk(const Model& model, size_t rows, size_t panels, bool team);
  void grow_streams(const Model& model);
};

struct Tools {
  const Model& model;
  const Kernels& kernels;
  const Rope& rope;
};

// Computes the chunk's embeddings. `shared` is the team's workspace, `own` this worker's.
void forward(const Tools& tools, const Chunk& chunk, const Team& team, Workspace& shared,
             Workspace& own);

}  // namespace tritserve
