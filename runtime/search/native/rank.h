// Ranking with weights: how much a query minds each bit.
//
// Every bit has a weight of 0..1023, and a code's score w is the sum over the bits in which it differs from the query.
// Results are in the order of (w, distance, row) or of (distance, w, row). Both are the order of one integer, a code's
// key, which is itself a sum over the differing bits:
//
//   weighted   a bit counts weight << 7 | 1: the key is w << 7 | distance, as a distance is at most 64
//   tiebreak   a bit counts 1 << 16 | weight: the key is distance << 16 | w, as a score is at most 64 x 1023
//
// The k smallest keys are found by the threshold algorithm (Fagin, Lotem, Naor: "Optimal aggregation algorithms for
// middleware", PODS 2001): each chunk's values are taken in ascending order of the key of their own bits, a level of
// equal keys at a time, and a code is looked at in the first chunk that comes to it. A code that none has come to has a
// key of at least the sum of the chunks' next levels.
#pragma once

#include <cstdint>
#include <vector>

#include "batch.h"

namespace qo {

enum class Rank : std::uint8_t { weighted, tiebreak };

constexpr int kMaxWeight = 1023;

// One side of ranked searches, beside Request: the weights of each query's bits [queries, bits], each <= kMaxWeight.
struct Weights {
    const std::uint16_t* of;
    Rank rank;
};

// What these searches cost on this machine, measured with a few of the index's own codes as queries.
Costs calibrate_ranked(const Index& index, const Kernels& kernels);

// The first k of each query: ids, distances and scores [queries, k], filled up with -1, bits + 1 and -1.
void nearest_ranked(const Request& request, const Weights& weights, const Costs& costs, std::uint64_t k,
                    std::int64_t* ids, std::int32_t* distances, std::int32_t* scores);

// What each of these searches did; `shells` counts levels of one chunk.
std::vector<Spent> explain_ranked(const Request& request, const Weights& weights, const Costs& costs, std::uint64_t k);

}  // namespace qo
