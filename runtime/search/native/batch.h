// Many queries at once, on several threads.
#pragma once

#include <cstdint>
#include <vector>

#include "query.h"

namespace qo {

struct Request {
    const Index& index;
    const Kernels& kernels;
    const std::vector<std::uint64_t>& queries;
    const std::int64_t* ids;  // of the rows; the row numbers themselves where null
    Allowed allowed;
    unsigned threads;
    Margins margins{};  // where equal distances are ordered by them

    std::int64_t id(std::uint32_t row) const { return ids ? ids[row] : static_cast<std::int64_t>(row); }
};

// The k nearest of each query: ids, distances and, by margins, squares [queries, k], filled up with -1, bits + 1 and -1.
// Returns the ids whose margins it would have needed, each at least once: where there are any, nothing was found yet.
std::vector<std::int64_t> nearest(const Request& request, std::uint64_t k, std::int64_t* ids, std::int32_t* distances,
                                  std::int32_t* squares = nullptr);

struct Hits {
    std::vector<std::int64_t> ids;
    std::vector<std::int32_t> distances;
    std::vector<std::int32_t> squares;   // by margins
    std::vector<std::int64_t> unknown;   // as what `nearest` returns
};
// All within `radius`, of each query.
std::vector<Hits> within(const Request& request, int radius);

// What each of these searches did.
std::vector<Spent> explain(const Request& request, std::uint64_t k, int limit);

}  // namespace qo
