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

    std::int64_t id(std::uint32_t row) const { return ids ? ids[row] : static_cast<std::int64_t>(row); }
};

// The k nearest of each query: ids and distances [queries, k], filled up with -1 and bits + 1.
void nearest(const Request& request, std::uint64_t k, std::int64_t* ids, std::int32_t* distances);

struct Hits {
    std::vector<std::int64_t> ids;
    std::vector<std::int32_t> distances;
};
// All within `radius`, of each query.
std::vector<Hits> within(const Request& request, int radius);

// What each of these searches did.
std::vector<Spent> explain(const Request& request, std::uint64_t k, int limit);

}  // namespace qo
