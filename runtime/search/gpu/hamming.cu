// Exact k-nearest and radius search by Hamming distance: every query against every code.
//
// Rows (codes) are words of 32 or 64 bits; queries are words of the same kind. Results are row numbers in
// (distance, row) order, so rows that ascend by id come out in (distance, id) order, whatever the schedule was.
//
// The rows are cut into as many contiguous pieces as the launch has warps, so that one query keeps the whole device
// busy. A warp walks its piece upwards, some rows at a time in registers, and takes each step's rows against up to
// kGroup queries that wait in shared memory. A row whose distance is within the query's limit goes to the end of the
// warp's own list for that query (a ballot numbers the lanes), so that a list is always in row order and needs neither
// a lock nor a sort. Counts of the distances appended, shared by all warps, lower the limit.
//
// Nearest: limits start from a histogram of evenly spaced rows (nearest_seed), tighten while the rows are read
// (nearest_scan), and one counting sort by distance over the lists in row order (nearest_select) leaves the first k. A
// list that is full keeps its k best and from then on takes only rows that are strictly nearer than the k-th: rows come
// in order, so a later row at the same distance would come after all of them. So k + 32 places a list suffice for any
// data, all rows equal too.
//
// Within a radius: count (radius_count), make places of the counts in (query, distance, warp) order (radius_offsets),
// and write each row to its place (radius_fill).
//
// Compiled by NVRTC, and as C++ by tests/doubles/emulation.h.

#ifndef QO_EMULATION
template <typename T>
struct Type {
  using type = T;
};
#define QO_SHARED(type_, name) __shared__ typename Type<type_>::type name
#endif

using u8 = unsigned char;
using u32 = unsigned int;
using u64 = unsigned long long;
using i64 = long long;

constexpr u32 kLanes = 32;
constexpr u32 kAll = 0xffffffffu;
constexpr u32 kWarps = 8;             // of a block that reads rows
constexpr u32 kGroup = 32;            // queries of a block at most: lane i keeps what belongs to query i
constexpr u32 kBins = 96;             // distances 0..64, and on to a whole number of warps
constexpr u32 kRowBits = 25;          // a list's entry: the distance above the row's number within its piece
constexpr u32 kRowMask = (1u << kRowBits) - 1;
constexpr u32 kSelectWarps = 32;      // of a block of the others, at most
constexpr u32 kSeedCodes = 8;         // of a thread, loaded together
constexpr u32 kRadiusCounters = 512;  // (queries of a block) x (radius + 1) at most
constexpr int kHalfLimit = 6;         // up to this limit, half a 64-bit code nearly always says 'too far' already

template <typename Word>
struct Step {
  static constexpr u32 kCodes = 64 / sizeof(Word);  // of a lane: 16 registers
  static constexpr u32 kRows = kCodes * kLanes;
};

template <typename Word>
struct __align__(16) Query {
  u64 word;
  int limit;  // rows further away than this are of no use; below 0: none is
};

__device__ __forceinline__ int distance_of(u32 a, u32 b) { return __popc(a ^ b); }
__device__ __forceinline__ int distance_of(u64 a, u64 b) { return __popcll(a ^ b); }
__device__ __forceinline__ int half_distance(u32 a, u32 b) { return __popc(a ^ b); }
__device__ __forceinline__ int half_distance(u64 a, u64 b) { return __popc(u32(a) ^ u32(b)); }

__device__ __forceinline__ u32 lane_index() { return threadIdx.x % kLanes; }
__device__ __forceinline__ u32 lanes_before(u32 lane) { return (1u << lane) - 1; }

__device__ __forceinline__ u32 inclusive_sum(u32 value, u32 lane) {
#pragma unroll
  for (u32 step = 1; step < kLanes; step *= 2) {
    const u32 other = __shfl_up_sync(kAll, value, step);
    if (lane >= step) value += other;
  }
  return value;
}

// The smallest distance d <= last at which counts[0..d] add up to k or more, else last + 1; for the whole warp.
// `before` is the sum of counts below that distance.
// Counts is const u32* or, where others add at the same time, const volatile u32*: the answer is then an upper bound.
template <typename Counts>
__device__ __forceinline__ int kth_distance(Counts counts, u32 k, int last, u32 lane, u32* before) {
  u32 sum = 0;
  for (int base = 0; base <= last; base += int(kLanes)) {
    const int bin = base + int(lane);
    const u32 count = bin <= last ? counts[bin] : 0;
    const u32 upto = sum + inclusive_sum(count, lane);
    const u32 reached = __ballot_sync(kAll, upto >= k);
    if (reached) {
      const u32 first = __ffs(int(reached)) - 1;
      *before = __shfl_sync(kAll, upto - count, int(first));
      return base + int(first);
    }
    sum = __shfl_sync(kAll, upto, int(kLanes) - 1);
  }
  *before = sum;
  return last + 1;
}

// The rows of one warp: [begin, begin + count).
struct Piece {
  u64 begin;
  u32 count;
};

__device__ __forceinline__ Piece piece_of(u64 rows, u32 rows_per_warp, u32 warp) {
  const u64 begin = u64(rows_per_warp) * warp;
  const u64 left = begin < rows ? rows - begin : 0;
  return {begin, left < rows_per_warp ? u32(left) : rows_per_warp};
}

// Take every row of a piece to every query of the group. The sink says at each step how far away a row may be, and
// takes the rows that are not too far, 32 consecutive ones at a time and in row order.
template <typename Word, typename Sink>
__device__ __forceinline__ void scan_piece(const Word* __restrict__ codes, Piece piece, Query<Word>* group, u32 queries,
                                           u32 lane, Sink& sink) {
  constexpr u32 kCodes = Step<Word>::kCodes;
  codes += piece.begin;
  for (u32 step = 0; step < piece.count; step += Step<Word>::kRows) {
    Word code[kCodes];
#pragma unroll
    for (u32 c = 0; c < kCodes; ++c) {
      const u32 row = step + c * kLanes + lane;
      code[c] = row < piece.count ? codes[row] : Word(0);
    }
    if (!sink.step(group)) return;
#pragma unroll 1
    for (u32 q = 0; q < queries; ++q) {
      const Word query = Word(group[q].word);
      int limit = group[q].limit;
      int nearest = 64;
      if (sizeof(Word) == 8 && limit <= kHalfLimit) {
#pragma unroll
        for (u32 c = 0; c < kCodes; ++c) nearest = min(nearest, half_distance(code[c], query));
        if (!__any_sync(kAll, nearest <= limit)) continue;
        nearest = 64;
      }
#pragma unroll
      for (u32 c = 0; c < kCodes; ++c) nearest = min(nearest, distance_of(code[c], query));
      if (!__any_sync(kAll, nearest <= limit)) continue;
#pragma unroll 1
      for (u32 c = 0; c < kCodes; ++c) {
        Word word = code[0];
#pragma unroll
        for (u32 other = 1; other < kCodes; ++other) word = c == other ? code[other] : word;
        const u32 row = step + c * kLanes + lane;
        const int distance = distance_of(word, query);
        const bool hit = row < piece.count && distance <= limit;
        if (__any_sync(kAll, hit)) limit = sink.take(q, row, distance, hit, limit);
      }
    }
  }
}

template <typename Word>
__device__ __forceinline__ void load_group(Query<Word>* group, const Word* queries, u32 count, u32 lane, int limit) {
  if (lane < count) {
    group[lane].word = queries[lane];
    group[lane].limit = limit;
  }
  __syncwarp();
}

// ---------------------------------------------------------------------------------------------------------- nearest

// limits [queries]: a distance within which at least k rows lie (bits, where the sample doesn't hold k), from `sample`
// evenly spaced rows. counts [queries x kBins]: zeros. One block a query.
template <typename Word>
__device__ __forceinline__ void seed(const Word* __restrict__ codes, u64 rows, const Word* __restrict__ queries, u32 k,
                                     u32 bits, u32 sample, int* limits, u32* counts) {
  QO_SHARED(u32[kBins], histogram);
  const u32 q = blockIdx.x;
  for (u32 bin = threadIdx.x; bin < kBins; bin += blockDim.x) {
    histogram[bin] = 0;
    counts[u64(q) * kBins + bin] = 0;
  }
  __syncthreads();
  const Word query = queries[q];
  const u64 stride = rows / sample;
  // Several codes at a time: they lie far apart, and a single query has one block to wait for them.
  for (u32 base = threadIdx.x; base < sample; base += kSeedCodes * blockDim.x) {
    Word code[kSeedCodes];
#pragma unroll
    for (u32 c = 0; c < kSeedCodes; ++c) {
      const u32 i = base + c * blockDim.x;
      code[c] = i < sample ? codes[i * stride] : Word(0);
    }
#pragma unroll
    for (u32 c = 0; c < kSeedCodes; ++c) {
      if (base + c * blockDim.x < sample) atomicAdd(&histogram[distance_of(code[c], query)], 1u);
    }
  }
  __syncthreads();
  if (threadIdx.x < kLanes) {
    u32 before;
    const int limit = kth_distance(histogram, k, int(bits), threadIdx.x, &before);
    if (threadIdx.x == 0) limits[q] = min(limit, int(bits));
  }
}

// Keep a list's first k entries by (distance, row), in row order. Returns the limit for the piece's later rows.
__device__ __forceinline__ int keep_best(u32* list, u32 size, u32 k, u32* histogram) {
  const u32 lane = lane_index();
  for (u32 bin = lane; bin < kBins; bin += kLanes) histogram[bin] = 0;
  __syncwarp();
  for (u32 i = lane; i < size; i += kLanes) atomicAdd(&histogram[list[i] >> kRowBits], 1u);
  __syncwarp();
  u32 before;
  const int kth = kth_distance(histogram, k, 64, lane, &before);
  u32 kept = 0;
  u32 ties = before;
  for (u32 base = 0; base < size; base += kLanes) {
    const bool there = base + lane < size;
    const u32 entry = there ? list[base + lane] : 0;
    const int distance = int(entry >> kRowBits);
    const u32 tied = __ballot_sync(kAll, there && distance == kth);
    const bool keep = there && (distance < kth || (distance == kth && ties + __popc(tied & lanes_before(lane)) < k));
    const u32 keeps = __ballot_sync(kAll, keep);
    __syncwarp();  // votes order no memory: every lane has read its entry
    if (keep) list[kept + __popc(keeps & lanes_before(lane))] = entry;
    kept += __popc(keeps);
    ties += __popc(tied);
  }
  return kth - 1;
}

// The lists of one warp, for the queries of its group.
struct NearestSink {
  u32 k;
  u32 queries;
  u32 lane;
  u32 capacity;      // of a list: k + 32 or more, or all of the piece's rows
  u64 list_stride;   // from one query's list to the next query's
  u32* lists;        // of this warp and the group's first query
  u32* counts;       // [queries x kBins] distances of all rows that any warp has appended
  int* limits;       // [queries] the device's
  u32* histogram;    // [kBins] the warp's own scratch
  u32 filled = 0;    // of the list of query `lane`
  int own_limit;     // of query `lane`

  template <typename Word>
  __device__ __forceinline__ bool step(Query<Word>* group) {
    int limit = -1;
    if (lane < queries) {
      limit = *static_cast<const volatile int*>(limits + lane);  // others lower it
      limit = min(limit, own_limit);
    }
    __syncwarp();  // every lane has read the last step's limits
    if (lane < queries) group[lane].limit = limit;
    __syncwarp();
    return __any_sync(kAll, limit >= 0);
  }

  __device__ __forceinline__ int take(u32 q, u32 row, int distance, bool hit, int limit) {
    u32* list = lists + q * list_stride;
    u32 size = __shfl_sync(kAll, filled, int(q));
    u32 hits = __ballot_sync(kAll, hit);
    if (size + __popc(hits) > capacity) {
      limit = min(limit, keep_best(list, size, k, histogram));
      size = k;
      if (lane == q) own_limit = min(own_limit, limit);
      hit = hit && distance <= limit;
      hits = __ballot_sync(kAll, hit);
    }
    if (hit) list[size + __popc(hits & lanes_before(lane))] = u32(distance) << kRowBits | row;
    if (lane == q) filled = size + __popc(hits);
    u32* query_counts = counts + q * kBins;
    const u32 same = __match_any_sync(kAll, hit ? distance : -1);
    if (hit && (same & lanes_before(lane)) == 0) atomicAdd(&query_counts[distance], u32(__popc(same)));
    // A row at the limit itself can't lower it.
    if (__any_sync(kAll, hit && distance < limit)) {
      __syncwarp();  // the warp sees its own counts
      u32 before;
      const int reached = kth_distance(static_cast<const volatile u32*>(query_counts), k, limit - 1, lane, &before);
      if (reached < limit) {
        if (lane == 0) atomicMin(&limits[q], reached);
        limit = reached;
      }
    }
    return limit;
  }
};

// Fill the lists: lists [queries x warps x capacity], sizes [queries x warps]. Block (x, y) takes kWarps pieces and
// `group_size` queries from y * group_size on.
template <typename Word>
__device__ __forceinline__ void scan(const Word* __restrict__ codes, u64 rows, const Word* __restrict__ queries,
                                     u32 query_count, u32 group_size, u32 k, u32 bits, u32 rows_per_warp, u32 capacity,
                                     int* limits, u32* counts, u32* lists, u32* sizes) {
  QO_SHARED(Query<Word>[kWarps][kGroup], groups);
  QO_SHARED(u32[kWarps][kBins], histograms);
  const u32 lane = lane_index();
  const u32 in_block = threadIdx.x / kLanes;
  const u32 warp = blockIdx.x * kWarps + in_block;
  const u32 warps = gridDim.x * kWarps;
  const u32 first = blockIdx.y * group_size;
  NearestSink sink;
  sink.k = k;
  sink.queries = min(group_size, query_count - first);
  sink.lane = lane;
  sink.capacity = capacity;
  sink.list_stride = u64(warps) * capacity;
  sink.lists = lists + (u64(first) * warps + warp) * capacity;
  sink.counts = counts + u64(first) * kBins;
  sink.limits = limits + first;
  sink.histogram = histograms[in_block];
  sink.own_limit = int(bits);
  load_group(groups[in_block], queries + first, sink.queries, lane, int(bits));
  scan_piece(codes, piece_of(rows, rows_per_warp, warp), groups[in_block], sink.queries, lane, sink);
  if (lane < sink.queries) sizes[u64(first + lane) * warps + warp] = sink.filled;
}

// One warp's entries of a query, lists [begin, end) of it, in row order and 32 at a time: visit(there, entry, list).
template <typename Visit>
__device__ __forceinline__ void for_entries(const u32* lists, const u32* sizes, u32 capacity, u32 begin, u32 end,
                                            u32 lane, Visit visit) {
  for (u32 base = begin; base < end; base += kLanes) {
    const u32 size = base + lane < end ? sizes[base + lane] : 0;
    const u32 upto = inclusive_sum(size, lane);
    const u32 total = __shfl_sync(kAll, upto, int(kLanes) - 1);
    for (u32 start = 0; start < total; start += kLanes) {
      const u32 i = start + lane;
      u32 list = 0;  // the first one that ends beyond entry i
#pragma unroll
      for (u32 step = kLanes / 2; step; step /= 2) {
        if (__shfl_sync(kAll, upto, int(list + step - 1)) <= i) list += step;
      }
      const u32 list_end = __shfl_sync(kAll, upto, int(list));
      const u32 list_size = __shfl_sync(kAll, size, int(list));
      const bool there = i < total;
      u32 entry = 0;
      if (there) entry = lists[u64(base + list) * capacity + (i - (list_end - list_size))];
      visit(there, entry, base + list);
    }
  }
}

// The first k entries of each query's lists by (distance, row), k <= rows: out_rows and out_distances [queries x k].
// A stable counting sort: entries come in row order. One block a query.
__device__ __forceinline__ void select_first(u32 k, u32 warps, u32 rows_per_warp, u32 capacity,
                                             const int* limits, const u32* lists, const u32* sizes, i64* out_rows,
                                             int* out_distances) {
  QO_SHARED(u32[kSelectWarps][kBins], places);
  QO_SHARED(u32[kBins], totals);
  const u32 q = blockIdx.x;
  const u32 lane = lane_index();
  const u32 warp = threadIdx.x / kLanes;
  const u32 own_warps = blockDim.x / kLanes;
  const u32 share = (warps + own_warps - 1) / own_warps;
  const u32 begin = min(warp * share, warps);
  const u32 end = min(begin + share, warps);
  const int limit = limits[q];
  u32* own = places[warp];
  lists += u64(q) * warps * capacity;
  sizes += u64(q) * warps;
  out_rows += u64(q) * k;
  out_distances += u64(q) * k;

  for (u32 bin = lane; bin < kBins; bin += kLanes) own[bin] = 0;
  __syncwarp();
  for_entries(lists, sizes, capacity, begin, end, lane, [&](bool there, u32 entry, u32) {
    const int distance = int(entry >> kRowBits);
    if (there && distance <= limit) atomicAdd(&own[distance], 1u);
  });
  __syncthreads();
  // Counts to places: by distance, and by warp within a distance.
  for (u32 bin = threadIdx.x; bin < kBins; bin += blockDim.x) {
    u32 sum = 0;
    for (u32 other = 0; other < own_warps; ++other) {
      const u32 count = places[other][bin];
      places[other][bin] = sum;
      sum += count;
    }
    totals[bin] = sum;
  }
  __syncthreads();
  u32 nearer = 0;
  for (u32 base = 0; base < kBins; base += kLanes) {
    const u32 count = totals[base + lane];
    const u32 upto = inclusive_sum(count, lane);
    own[base + lane] += nearer + upto - count;
    nearer += __shfl_sync(kAll, upto, int(kLanes) - 1);
  }
  __syncwarp();
  for_entries(lists, sizes, capacity, begin, end, lane, [&](bool there, u32 entry, u32 list) {
    const int distance = int(entry >> kRowBits);
    const bool near = there && distance <= limit;
    const u32 same = __match_any_sync(kAll, near ? distance : -1);
    u32 place = 0;
    if (near) place = own[distance] + __popc(same & lanes_before(lane));
    __syncwarp();
    if (near && (same & lanes_before(lane)) == 0) own[distance] = place + __popc(same);
    __syncwarp();
    if (near && place < k) {
      out_rows[place] = i64(u64(list) * rows_per_warp + (entry & kRowMask));
      out_distances[place] = distance;
    }
  });
}

// ----------------------------------------------------------------------------------------------------------- radius

// counts [queries x (radius + 1) x warps]: how many rows at each distance each warp has.
struct CountSink {
  u32 bins;
  u32 lane;
  u32* own;  // [queries of the group x bins] the warp's

  template <typename Word>
  __device__ __forceinline__ bool step(Query<Word>*) {
    return true;
  }

  __device__ __forceinline__ int take(u32 q, u32, int distance, bool hit, int limit) {
    if (hit) atomicAdd(&own[q * bins + u32(distance)], 1u);
    return limit;
  }
};

// As CountSink, with the places of the warp's next rows in its counters.
struct FillSink {
  u32 bins;
  u32 lane;
  u32* own;
  const i64* offsets;  // [queries of the group] where each query's rows begin
  i64* out_rows;
  u8* out_distances;
  u64 begin;           // the piece's first row

  template <typename Word>
  __device__ __forceinline__ bool step(Query<Word>*) {
    return true;
  }

  __device__ __forceinline__ int take(u32 q, u32 row, int distance, bool hit, int limit) {
    u32* place_of = own + q * bins + (hit ? u32(distance) : 0);
    const u32 same = __match_any_sync(kAll, hit ? distance : -1);
    u32 place = 0;
    if (hit) place = *place_of + __popc(same & lanes_before(lane));
    __syncwarp();
    if (hit && (same & lanes_before(lane)) == 0) *place_of = place + __popc(same);
    __syncwarp();
    if (hit) {
      const i64 at = offsets[q] + i64(place);
      out_rows[at] = i64(begin + row);
      out_distances[at] = u8(distance);
    }
    return limit;
  }
};

template <typename Word, bool kFill>
__device__ __forceinline__ void within(const Word* __restrict__ codes, u64 rows, const Word* __restrict__ queries,
                                       u32 query_count, u32 group_size, u32 radius, u32 rows_per_warp, u32* counts,
                                       const i64* offsets, i64* out_rows, u8* out_distances) {
  QO_SHARED(Query<Word>[kWarps][kGroup], groups);
  QO_SHARED(u32[kWarps][kRadiusCounters], counters);
  const u32 lane = lane_index();
  const u32 in_block = threadIdx.x / kLanes;
  const u32 warp = blockIdx.x * kWarps + in_block;
  const u32 warps = gridDim.x * kWarps;
  const u32 first = blockIdx.y * group_size;
  const u32 group = min(group_size, query_count - first);
  const u32 bins = radius + 1;
  const Piece piece = piece_of(rows, rows_per_warp, warp);
  u32* own = counters[in_block];
  counts += u64(first) * bins * warps + warp;
  for (u32 i = lane; i < group * bins; i += kLanes) own[i] = kFill ? counts[u64(i) * warps] : 0;
  load_group(groups[in_block], queries + first, group, lane, int(radius));
  if (kFill) {
    FillSink sink{bins, lane, own, offsets + first, out_rows, out_distances, piece.begin};
    scan_piece(codes, piece, groups[in_block], group, lane, sink);
  } else {
    CountSink sink{bins, lane, own};
    scan_piece(codes, piece, groups[in_block], group, lane, sink);
    __syncwarp();
    for (u32 i = lane; i < group * bins; i += kLanes) counts[u64(i) * warps] = own[i];
  }
}

// Counts of one query to places within the query (sum of those before), in place; totals [queries]. One block a query.
__device__ __forceinline__ void exclusive_sums(u32 length, u32* counts, i64* totals) {
  QO_SHARED(u32[kSelectWarps], sums);
  const u32 lane = lane_index();
  const u32 warp = threadIdx.x / kLanes;
  const u32 own_warps = blockDim.x / kLanes;
  counts += u64(blockIdx.x) * length;
  u32 before = 0;
  for (u32 base = 0; base < length; base += blockDim.x) {
    const u32 i = base + threadIdx.x;
    const u32 count = i < length ? counts[i] : 0;
    const u32 upto = inclusive_sum(count, lane);
    if (lane == kLanes - 1) sums[warp] = upto;
    __syncthreads();
    u32 others = 0;
    u32 all = 0;
    for (u32 other = 0; other < own_warps; ++other) {
      others += other < warp ? sums[other] : 0;
      all += sums[other];
    }
    if (i < length) counts[i] = before + others + upto - count;
    before += all;
    __syncthreads();  // every warp has read the sums
  }
  if (threadIdx.x == 0) totals[blockIdx.x] = i64(before);
}

// ---------------------------------------------------------------------------------------------------------- kernels

#define QO_SCAN extern "C" __global__ void __launch_bounds__(kWarps * kLanes)
#define QO_SELECT extern "C" __global__ void __launch_bounds__(kSelectWarps * kLanes)

#define QO_KERNELS(bits_, Word)                                                                                       \
  QO_SELECT nearest_seed_##bits_(const Word* codes, u64 rows, const Word* queries, u32 k, u32 bits, u32 sample,       \
                                 int* limits, u32* counts) {                                                          \
    seed<Word>(codes, rows, queries, k, bits, sample, limits, counts);                                                \
  }                                                                                                                   \
  QO_SCAN nearest_scan_##bits_(const Word* codes, u64 rows, const Word* queries, u32 query_count, u32 group_size,     \
                               u32 k, u32 bits, u32 rows_per_warp, u32 capacity, int* limits, u32* counts,            \
                               u32* lists, u32* sizes) {                                                              \
    scan<Word>(codes, rows, queries, query_count, group_size, k, bits, rows_per_warp, capacity, limits, counts,       \
               lists, sizes);                                                                                         \
  }                                                                                                                   \
  QO_SCAN radius_count_##bits_(const Word* codes, u64 rows, const Word* queries, u32 query_count, u32 group_size,     \
                               u32 radius, u32 rows_per_warp, u32* counts) {                                          \
    within<Word, false>(codes, rows, queries, query_count, group_size, radius, rows_per_warp, counts, nullptr,        \
                        nullptr, nullptr);                                                                            \
  }                                                                                                                   \
  QO_SCAN radius_fill_##bits_(const Word* codes, u64 rows, const Word* queries, u32 query_count, u32 group_size,      \
                              u32 radius, u32 rows_per_warp, u32* counts, const i64* offsets, i64* out_rows,          \
                              u8* out_distances) {                                                                    \
    within<Word, true>(codes, rows, queries, query_count, group_size, radius, rows_per_warp, counts, offsets,         \
                       out_rows, out_distances);                                                                      \
  }

QO_KERNELS(32, u32)
QO_KERNELS(64, u64)

QO_SELECT nearest_select(u32 k, u32 warps, u32 rows_per_warp, u32 capacity, const int* limits, const u32* lists,
                 const u32* sizes, i64* out_rows, int* out_distances) {
  select_first(k, warps, rows_per_warp, capacity, limits, lists, sizes, out_rows, out_distances);
}

QO_SELECT radius_offsets(u32 length, u32* counts, i64* totals) { exclusive_sums(length, counts, totals); }
