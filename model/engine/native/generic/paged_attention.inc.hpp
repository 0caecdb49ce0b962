// Attention of one query row of one head to keys and values in pages of kLanes positions.
//
// To the last bit what a tile gives a row: scores are one chain over the head's dimensions, blocks
// of kKeyBlock start at multiples of it, a block's weights are added one by one in the order of
// positions, and so are weighted values. Here keys are laid along the lanes.

void keep_in_page(const PageRow& in, float* page) {
  const size_t dim = in.head_dim, width = padded(dim);
  const float* key = in.key;
  if (in.cos) {
    rotate(key, dim, in.cos, in.sin, in.scratch);
    key = in.scratch;
  }
  for (size_t i = 0; i < dim; ++i) page[i * kLanes + in.slot] = key[i];
  float* value = page + dim * kLanes + in.slot * width;
  for (size_t i = 0; i < dim; i += kLanes) store(value + i, load_first(in.value + i, dim - i));
}

// Products of a query and the keys of `count` pages, [count, kLanes].
template <size_t count>
void score_pages(const float* const* pages, size_t offset, const float* query, size_t dim,
                 float* scores) {
  const float* keys[count];
  Floats total[count];
#pragma GCC unroll 8
  for (size_t p = 0; p < count; ++p) {
    keys[p] = pages[p] + offset;
    total[p] = splat(0.0f);
  }
  for (size_t i = 0; i < dim; ++i) {
    const Floats x = splat(query[i]);
#pragma GCC unroll 8
    for (size_t p = 0; p < count; ++p) total[p] = fma(load(keys[p] + i * kLanes), x, total[p]);
  }
#pragma GCC unroll 8
  for (size_t p = 0; p < count; ++p) store(scores + p * kLanes, total[p]);
}

// A block's positions begin .. end - 1, counted from the start of the first of `pages`.
struct PageBlock {
  const float* const* pages;
  size_t begin, end;
};

// Scores to weights, in place; returns what earlier weights must be multiplied by.
float weigh_block(const PageBlock& block, float* scores, float& largest, float& sum) {
  const size_t count = padded(block.end) / kLanes;
  Floats most = splat(largest);
  const auto look = [&](size_t p, Floats x) {
    const size_t at = p * kLanes;
    if (at < block.begin) x = first_of(block.begin - at, splat(-__builtin_inff()), x);
    if (at + kLanes > block.end) x = first_of(block.end - at, x, splat(-__builtin_inff()));
    return x;
  };
  for (size_t p = 0; p < count; ++p) most = larger(most, look(p, load(scores + p * kLanes)));
  alignas(64) float lanes[kLanes];
  store(lanes, most);
  float maximum = lanes[0];
  for (size_t i = 1; i < kLanes; ++i) maximum = lanes[i] > maximum ? lanes[i] : maximum;
  for (size_t p = 0; p < count; ++p) {
    float* at = scores + p * kLanes;
    store(at, exponential(sub(load(at), splat(maximum))));
  }
  float total = 0.0f;
  for (size_t j = block.begin; j < block.end; ++j) total += scores[j];
  store(lanes, exponential(splat(largest - maximum)));
  const float correction = lanes[0];
  largest = maximum;
  sum = __builtin_fmaf(sum, correction, total);
  return correction;
}

// out [panels * kLanes] = out * correction + weights @ values
template <size_t panels>
void add_values(const PageBlock& block, size_t offset, size_t width, const float* weights,
                float correction, float* out) {
  Floats total[panels];
#pragma GCC unroll 4
  for (size_t p = 0; p < panels; ++p) total[p] = mul(load(out + p * kLanes), splat(correction));
  for (size_t j = block.begin; j < block.end; ++j) {
    const float* value = block.pages[j / kLanes] + offset + j % kLanes * width;
    const Floats weight = splat(weights[j]);
#pragma GCC unroll 4
    for (size_t p = 0; p < panels; ++p) total[p] = fma(weight, load(value + p * kLanes), total[p]);
  }
#pragma GCC unroll 4
  for (size_t p = 0; p < panels; ++p) store(out + p * kLanes, total[p]);
}

void attend_pages(const PagedAttention& row) {
  const size_t dim = row.head_dim, width = padded(dim);
  float* query = row.scratch;
  float* out = query + width;
  float* scores = out + width;
  if (row.cos) {
    rotate(row.query, dim, row.cos, row.sin, query);
  } else {
    for (size_t i = 0; i < dim; i += kLanes) store(query + i, load_first(row.query + i, dim - i));
  }
  const float scale = 1.0f / __builtin_sqrtf(static_cast<float>(dim));
  for (size_t i = 0; i < width; i += kLanes) {
    store(query + i, mul(load(query + i), splat(scale)));
    store(out + i, splat(0.0f));
  }
  float largest = -__FLT_MAX__, sum = 0.0f;
  const float* const* pages = row.pages;
  for (uint64_t first = row.first; first <= row.last;) {
    const uint64_t next = (first / kKeyBlock + 1) * kKeyBlock;
    const uint64_t end = next <= row.last ? next : row.last + 1;
    const uint64_t start = first / kLanes * kLanes;
    const PageBlock block{pages, static_cast<size_t>(first - start),
                          static_cast<size_t>(end - start)};
    const size_t count = padded(block.end) / kLanes;
    size_t p = 0;
    for (; p + 4 <= count; p += 4)
      score_pages<4>(pages + p, row.offset, query, dim, scores + p * kLanes);
    for (; p < count; ++p) score_pages<1>(pages + p, row.offset, query, dim, scores + p * kLanes);
    const float correction = weigh_block(block, scores, largest, sum);
    const size_t values = row.offset + dim * kLanes;
    size_t i = 0;
    for (; i + 4 * kLanes <= width; i += 4 * kLanes)
      add_values<4>(block, values + i, width, scores, correction, out + i);
    for (; i < width; i += kLanes)
      add_values<1>(block, values + i, width, scores, correction, out + i);
    pages += count;
    first = end;
  }
  const Floats factor = div(splat(1.0f), splat(sum));
  for (size_t i = 0; i < dim; i += kLanes)
    store_first(row.out + i, mul(load(out + i), factor), dim - i);
}
