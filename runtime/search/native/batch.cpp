#include "batch.h"

#include <algorithm>
#include <mutex>

#include "parallel.h"

namespace qo {
namespace {

// Queries that one thread scans with at a time: each block of codes is read from the cache so often.
constexpr std::size_t kTogether = 64;
constexpr std::size_t kBlockBytes = 1 << 18;
constexpr std::size_t kWorthThreads = 256;

// Four queries over the words [begin, end).
void scan_four(const Index& index, const Kernels& kernels, Query* const* queries, std::size_t count,
               std::size_t begin, std::size_t end) {
    const int kind = static_cast<int>(index.words.kind());
    const Probe probe = kernels.probe[kind];
    const std::size_t block = kernels.block[kind];
    std::uint64_t codes[kProbeQueries];
    int limits[kProbeQueries];
    for (std::size_t i = 0; i < kProbeQueries; ++i) codes[i] = queries[std::min(i, count - 1)]->code();
    while (true) {
        for (std::size_t i = 0; i < kProbeQueries; ++i) limits[i] = i < count ? queries[i]->words_limit() : -1;
        unsigned hits = 0;
        begin = probe(index.words.column(), begin, end, codes, limits, &hits);
        if (hits == 0) break;
        for (std::size_t i = 0; i < count; ++i) {
            if (hits >> i & 1) queries[i]->scan_words(begin, begin + block);
        }
        begin += block;
    }
    for (std::size_t i = 0; i < count; ++i) queries[i]->scan_words(begin, end);
}

void scan_together(const Index& index, const Kernels& kernels, const std::vector<Query*>& queries) {
    const std::size_t width = std::max<std::size_t>(index.words.bytes() / std::max<std::size_t>(index.unique, 1), 1);
    const std::size_t block = kBlockBytes / width;
    for (std::size_t begin = 0; begin < index.unique; begin += block) {
        const std::size_t end = std::min(index.unique, begin + block);
        for (std::size_t i = 0; i < queries.size(); i += kProbeQueries) {
            const std::size_t count = std::min<std::size_t>(kProbeQueries, queries.size() - i);
            scan_four(index, kernels, queries.data() + i, count, begin, end);
        }
    }
}

// Runs every query and hands its results to done(query number, found).
template <class Done>
void each(const Request& request, std::uint64_t k, int limit, Done done) {
    const Index& index = request.index;
    const std::size_t count = request.queries.size();
    // A lone query, and the others of its thread, keep their memory from call to call.
    static thread_local Query one;
    const auto alone = [&](std::size_t i) {
        done(i, one.run(index, request.kernels, request.queries[i], k, limit, request.allowed, request.margins, i));
        one.shrink();
    };
    if (count == 1) return alone(0);
    // Starting a thread takes as long as some look-ups.
    const unsigned threads = count >= kWorthThreads || index.n >= kWorthThreads * kWorthThreads ? request.threads : 1;
    const std::size_t share = (count + threads - 1) / std::max(threads, 1u);
    const std::size_t grain = std::min(std::max<std::size_t>(share, 1), kTogether);
    parallel(count, grain, threads, [&](std::size_t begin, std::size_t end) {
        std::vector<Query> together;
        std::vector<std::size_t> numbers;
        together.reserve(end - begin);
        Query query;
        for (std::size_t i = begin; i < end; ++i) {
            query.start(index, request.kernels, request.queries[i], k, limit, request.allowed, request.margins, i);
            if (query.look_up(false)) {
                done(i, query.finish());
                continue;
            }
            query.prepare_scan();
            if (index.words.size()) {
                together.push_back(std::move(query));
                query = Query();
                numbers.push_back(i);
            } else {
                query.scan_buckets();
                done(i, query.finish());
            }
        }
        std::vector<Query*> queries;
        for (Query& waiting : together) queries.push_back(&waiting);
        if (queries.size() == 1) {
            queries[0]->scan_words(0, index.unique);
        } else if (!queries.empty()) {
            scan_together(index, request.kernels, queries);
        }
        for (std::size_t i = 0; i < together.size(); ++i) done(numbers[i], together[i].finish());
    });
}

template <class Visit>
void each_hit(const Index& index, const Query::Found& found, Visit visit) {
    std::size_t at = 0;
    for (int distance = 0; distance <= index.bits && at < found.count; ++distance) {
        for (std::uint64_t i = 0; i < found.groups[distance]; ++i, ++at) visit(at, found.rows[at], distance);
    }
}

}  // namespace

std::vector<std::int64_t> nearest(const Request& request, std::uint64_t k, std::int64_t* ids, std::int32_t* distances,
                                  std::int32_t* squares) {
    std::vector<std::int64_t> unknown;
    std::mutex adding;
    if (k == 0) return unknown;
    const int bits = request.index.bits;
    each(request, k, bits, [&](std::size_t query, const Query::Found& found) {
        std::int64_t* to = ids + query * k;
        std::int32_t* near = distances + query * k;
        each_hit(request.index, found, [&](std::size_t at, std::uint32_t row, int distance) {
            to[at] = request.id(row);
            near[at] = distance;
        });
        std::fill(to + found.count, to + k, -1);
        std::fill(near + found.count, near + k, bits + 1);
        if (squares == nullptr) return;
        std::copy_n(found.squares, found.count, squares + query * k);
        std::fill(squares + query * k + found.count, squares + (query + 1) * k, -1);
        if (found.unknown.empty()) return;
        const std::lock_guard<std::mutex> lock(adding);
        for (const std::uint32_t row : found.unknown) unknown.push_back(request.id(row));
    });
    return unknown;
}

std::vector<Hits> within(const Request& request, int radius) {
    std::vector<Hits> all(request.queries.size());
    each(request, kAll, radius, [&](std::size_t query, const Query::Found& found) {
        Hits& hits = all[query];
        hits.ids.resize(found.count);
        hits.distances.resize(found.count);
        each_hit(request.index, found, [&](std::size_t at, std::uint32_t row, int distance) {
            hits.ids[at] = request.id(row);
            hits.distances[at] = distance;
        });
        if (request.margins.rows == nullptr) return;
        hits.squares.assign(found.squares, found.squares + found.count);
        for (const std::uint32_t row : found.unknown) hits.unknown.push_back(request.id(row));
    });
    return all;
}

std::vector<Spent> explain(const Request& request, std::uint64_t k, int limit) {
    std::vector<Spent> all;
    Query query;
    for (const std::uint64_t code : request.queries) {
        if (k > 0) query.run(request.index, request.kernels, code, k, limit, request.allowed);
        all.push_back(k > 0 ? query.spent() : Spent());
    }
    return all;
}

}  // namespace qo
